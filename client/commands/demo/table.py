"""What the demo shows: a table that lives while tasks wait, or lines where nobody watches, and a summary."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console, RenderableType
from rich.live import Live
from rich.table import Table

from client.commands.demo.scenario import Case

__all__ = ["Board", "Row"]


@dataclass(slots=True)
class Row:
    """One task on the board; `road` is how its answer came, `problem` what was wrong with it, if anything."""

    case: Case
    road: str = ""
    seconds: float | None = None
    answer: str = ""
    problem: str = ""

    @property
    def is_done(self) -> bool:
        """Whether its answer came, or will not."""
        return self.seconds is not None


class Board:
    """The tasks of the demo. As a context, it keeps the terminal up to date; where there is none, it writes lines."""

    def __init__(self, rows: Sequence[Row], console: Console) -> None:
        self._rows = rows
        self._console = console
        self._live = Live(get_renderable=self._table, console=console, refresh_per_second=8)

    def __enter__(self) -> Board:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def tell(self, row: Row) -> None:
        """Says that a row is done, where no table shows it."""
        if not self._console.is_terminal:
            self._console.print(
                f"{row.case.number:>3} {row.case.provider:<10} {row.seconds or 0:5.1f} s by {row.road or '-':<8} "
                f"{'wrong: ' + row.problem if row.problem else 'right'}  ({row.case.story})",
                soft_wrap=True,
                highlight=False,
            )

    def summarize(self) -> bool:
        """Print the summary; whether every answer is there and right."""
        wrong = [row for row in self._rows if row.problem or not row.is_done]
        roads = Counter((row.case.provider, row.road) for row in self._rows if row.is_done)
        slowest = max((row.seconds or 0.0 for row in self._rows), default=0.0)
        self._console.print()
        for (provider, road), times in sorted(roads.items()):
            self._console.print(f"{provider:<10} by {road or 'no road':<8} {times:>3}", highlight=False)
        right = len(self._rows) - len(wrong)
        self._console.print(f"{right} of {len(self._rows)} answers are right; the slowest took {slowest:.1f} s")
        for row in wrong:
            self._console.print(f"task {row.case.number} ({row.case.story}): {row.problem or 'no answer'}")
        return not wrong

    def _table(self) -> RenderableType:
        table = Table(box=None, pad_edge=False)
        for column, justify in (("#", "right"), ("service", "left"), ("what happens on the way", "left")):
            table.add_column(column, justify="right" if justify == "right" else "left")
        for column in ("came by", "seconds", "answer"):
            table.add_column(column, no_wrap=True)
        for row in self._rows:
            table.add_row(
                str(row.case.number),
                row.case.provider,
                row.case.story,
                row.road or "[dim]waiting[/dim]",
                "" if row.seconds is None else f"{row.seconds:.1f}",
                f"[red]{row.problem}[/red]" if row.problem else row.answer,
            )
        return table
