"""Figures beside what they are to be."""

from __future__ import annotations

from dataclasses import dataclass

from rich.table import Table

__all__ = ["Goal", "table"]


@dataclass(frozen=True, slots=True)
class Goal:
    """One figure and what it is to be: at least `least`, or at most `most`."""

    name: str
    value: float
    least: float | None = None
    most: float | None = None

    @property
    def wanted(self) -> str:
        """The goal, for eyes."""
        return f"≥ {self.least:g}" if self.least is not None else f"≤ {self.most:g}"


def table(title: str, *columns: str) -> Table:
    """Return a table whose first column is for names, the others for figures."""
    made = Table(title=title, title_justify="left", title_style="bold")
    made.add_column("")
    for column in columns:
        made.add_column(column, justify="right")
    return made
