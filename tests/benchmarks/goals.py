"""Figures and the goals they are compared with."""

from __future__ import annotations

from dataclasses import dataclass

from rich.table import Table

__all__ = ["Goal", "table"]


@dataclass(frozen=True, slots=True)
class Goal:
    """One figure and its goal: at least `least`, or at most `most`."""

    name: str
    value: float
    least: float | None = None
    most: float | None = None

    @property
    def wanted(self) -> str:
        """The goal as text to print."""
        return f"≥ {self.least:g}" if self.least is not None else f"≤ {self.most:g}"


def table(title: str, *columns: str) -> Table:
    """Return a table with a first column for names, and others for figures."""
    figures = Table(title=title, title_justify="left", title_style="bold")
    figures.add_column("")
    for column in columns:
        figures.add_column(column, justify="right")
    return figures
