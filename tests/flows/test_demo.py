"""`python -m client demo`, which is what `make demo` runs."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path


async def test_the_demo_brings_every_answer_home(tmp_path: Path) -> None:
    """34 right answers, each road used, exit code 0, and it says how to run the parts by hand."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "client", "demo", cwd=tmp_path, stdout=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(120):
        shown = (await process.communicate())[0].decode()

    assert process.returncode == 0, shown
    assert "34 of 34 answers are right" in shown
    assert all(f"by {road}" in shown for road in ("submit", "callback", "poll"))
    assert "python -m client solve" in shown
