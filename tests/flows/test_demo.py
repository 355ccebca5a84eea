"""`callback-client demo`, as `make demo` runs it, and its picture."""

from __future__ import annotations

import asyncio
import io
import sys
from pathlib import Path

from rich.console import Console

from client.commands.demo import Board
from tests.demo_picture import PICTURE, draw


async def test_the_demo_brings_every_answer_home(tmp_path: Path) -> None:
    """All 34 answers are right and each kind of answer occurs. The demo ends with 0 and names the commands by hand."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "client", "demo", cwd=tmp_path, stdout=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(120):
        shown = (await process.communicate())[0].decode()

    assert process.returncode == 0, shown
    assert "34 of 34 answers are right" in shown
    assert all(f"by {source}" in shown for source in ("submit", "callback", "poll"))
    assert "callback-client solve" in shown
    assert [line for line in shown.splitlines() if len(line) > 80] == []


def test_the_table_fits_80_columns() -> None:
    """At 80 columns each case takes one line, even if its answers came in two ways."""
    shown = io.StringIO()
    board = Board(Console(width=80, file=shown))
    for row in board.rows:
        row.source, row.seconds = ("callback", 0.5) if row.number % 2 else ("poll", 10.25)
    board.console.print(board.table())

    lines = shown.getvalue().splitlines()
    assert [line.split()[0] for line in lines] == ["service", *["capsolver"] * 8, "onecaptcha"]
    assert "called back                         8/8  callback, poll  0.5-10.2" in lines[2]


def test_the_picture_shows_this_demo(tmp_path: Path) -> None:
    """The picture in the documents is small and shows the current cases. Renew it with `make picture`."""
    board = Board(Console(file=io.StringIO()))
    draw(board, tmp_path / "demo.svg")

    drawn, kept = (tmp_path / "demo.svg").read_text(), PICTURE.read_text()
    stories = [row.case.story.replace(" ", "&#160;") for row in board.rows]
    assert all(story in drawn and story in kept for story in stories)
    assert "34&#160;of&#160;34&#160;answers" in kept
    assert len(kept) <= 40_000
