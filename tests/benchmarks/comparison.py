"""Ratios of a server to bare, each taken within one round, and the drift of bare between rounds. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from statistics import median
from typing import Literal

__all__ = [
    "UNSTEADY",
    "Comparison",
    "Figure",
    "Figures",
    "Round",
    "Spread",
    "decisive",
    "quotients",
    "ratios",
    "spread",
]

Figure = Literal["per_second", "p50_ms", "p99_ms", "cpu_us", "busy"]

UNSTEADY = 0.2
"""The widest spread of rates that still lets rates decide, and the widest drift of bare that needs no remark."""
_DRIFTING: Sequence[Figure] = ("per_second", "cpu_us")


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Figures of one server in one round.

    `cpu_us` is its processor time for one request, None if the system does not tell. `busy` is the load generator's.
    `distribution_ms` has the latencies at `load.PERCENTS`.
    """

    per_second: float
    p50_ms: float
    p99_ms: float
    distribution_ms: Sequence[float] = ()
    cpu_us: float | None
    busy: float


@dataclass(frozen=True, slots=True)
class Round:
    """Figures of a server, and of bare with the same requests just before or just after."""

    own: Figures
    bare: Figures


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of a figure over all rounds, between its lowest and its highest value."""

    lowest: float
    median: float
    highest: float

    @property
    def width(self) -> float:
        """The distance from the lowest to the highest value, as a share of the median."""
        return (self.highest - self.lowest) / self.median

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.lowest:.2f} to {self.highest:.2f})"


@dataclass(frozen=True, slots=True)
class Comparison:
    """All rounds at one number of connections, by server."""

    connections: int
    rounds: Mapping[str, Sequence[Round]]

    @property
    def bare(self) -> Sequence[Figures]:
        """The figures of bare, in the order of its neighbours."""
        return [one_round.bare for one_round in chain.from_iterable(self.rounds.values())]

    def drift(self) -> Mapping[Figure, float]:
        """Return the width of bare's rate, and of its CPU if measured, over all its rounds."""
        measured = {of: [getattr(figures, of) for figures in self.bare] for of in _DRIFTING}
        return {of: spread(values).width for of, values in measured.items() if None not in values}

    @property
    def drifts(self) -> bool:
        """True if bare's rate or its CPU drifted by more than 20 %."""
        return any(width > UNSTEADY for width in self.drift().values())


def ratios(rounds: Sequence[Round], of: Figure) -> Sequence[float]:
    """Return the ratio of each round to its neighbouring bare round; none if the figure was not measured."""
    pairs = [(getattr(one_round.own, of), getattr(one_round.bare, of)) for one_round in rounds]
    return [own / bare for own, bare in pairs if own is not None and bare is not None]


def quotients(one: Sequence[Round], other: Sequence[Round], of: Figure) -> Sequence[float]:
    """Return the ratio of one server to another in each round, by the ratio of each to its own bare round."""
    return [left / right for left, right in zip(ratios(one, of), ratios(other, of), strict=True)]


def spread(values: Sequence[float]) -> Spread:
    """Return the spread of at least one value."""
    return Spread(min(values), median(values), max(values))


def decisive(rounds: Sequence[Round]) -> Literal["rate", "CPU"]:
    """Return the figure to judge a server by: its CPU if the ratios of its rate spread by more than 20 %."""
    is_steady = spread(ratios(rounds, "per_second")).width <= UNSTEADY
    return "rate" if is_steady or not ratios(rounds, "cpu_us") else "CPU"
