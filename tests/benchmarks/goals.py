"""Figures and the goals they are compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table

__all__ = ["Goal", "goal_table", "table"]


@dataclass(frozen=True, slots=True)
class Goal:
    """One figure and its goal: at least `least`, or at most `most`.

    `by_cpu` is the same figure by CPU. It is set where CPU decides, because the rates spread too far.
    """

    name: str
    value: float
    least: float | None = None
    most: float | None = None
    by_cpu: float | None = None

    @property
    def measured(self) -> str:
        """The figure as text to print."""
        return f"{self.value:,.2f}" if self.by_cpu is None else f"{self.value:,.2f}, by CPU {self.by_cpu:,.2f}"

    @property
    def is_met(self) -> bool:
        """True if the deciding figure reaches the goal."""
        value = self.value if self.by_cpu is None else self.by_cpu
        return (self.least is None or value >= self.least) and (self.most is None or value <= self.most)

    @property
    def wanted(self) -> str:
        """The goal as text to print."""
        return f"≥ {self.least:g}" if self.least is not None else f"≤ {self.most:g}"


def goal_table(goals: Sequence[Goal]) -> Table:
    """Return the figures with a goal as a table to print."""
    shown = table("against the goals", "measured", "goal", "met")
    for goal in goals:
        shown.add_row(goal.name, goal.measured, goal.wanted, "yes" if goal.is_met else "no")
    return shown


def table(title: str, *columns: str) -> Table:
    """Return a table with a first column for names, and others for figures."""
    figures = Table(title=title, title_justify="left", title_style="bold")
    figures.add_column("")
    for column in columns:
        figures.add_column(column, justify="right")
    return figures
