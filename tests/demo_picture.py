"""The picture of the demo in the documents. Run as a module, it runs the demo and writes the picture."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path

from rich.console import Console

from client.commands.demo import Board, run_demo

__all__ = ["PICTURE", "draw"]

PICTURE = Path(__file__).parent.parent / "deploy" / "demo.svg"
_COLUMNS = 80


def draw(board: Board, path: Path) -> None:
    """Write the terminal of the demo as a picture."""
    console = Console(record=True, width=_COLUMNS, force_terminal=True, file=io.StringIO())
    console.print("[bold]$ make demo[/bold]\n", highlight=False)
    console.print(board.table())
    console.print(f"\n{board.summary()}", highlight=False)
    console.save_svg(str(path), title="callback-receiver")


if __name__ == "__main__":
    shown = Board(Console())
    asyncio.run(run_demo(shown))
    if not shown.is_right:
        raise SystemExit(shown.summary())
    draw(shown, PICTURE)
