"""Plots of a run as SVG: `python -m tests.benchmarks.plots FIGURES.json FOLDER`.

They follow the light or dark scheme of the reader's browser.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from statistics import median
from typing import Any

import click

from tests.benchmarks.load import PERCENTS

__all__ = ["Axis", "Line", "draw", "write_plots"]

_WIDTH, _HEIGHT = 720, 400
_LEFT, _RIGHT, _TOP, _BOTTOM = 84, 560, 52, 340
_STYLE = """
  svg { color-scheme: light dark; --ink: #1f2328; --soft: #59636e; --grid: #d8dee4; --page: #ffffff;
        --c0: #0969da; --c1: #6e7781; --c2: #bc4c00; --c3: #1a7f37; --c4: #8250df;
        --c5: #bf3989; --c6: #9a6700 }
  @media (prefers-color-scheme: dark) {
    svg { --ink: #e6edf3; --soft: #9198a1; --grid: #30363d; --page: #0d1117;
          --c0: #58a6ff; --c1: #9198a1; --c2: #f0883e; --c3: #3fb950; --c4: #bc8cff;
          --c5: #f778ba; --c6: #d29922 } }
  text { font: 13px system-ui, sans-serif; fill: var(--soft) } .title { font-size: 16px; fill: var(--ink) }
  .grid { stroke: var(--grid) } .line { fill: none; stroke-width: 2 } .page { fill: var(--page) }
"""
_COLOURS = ("receiver", "bare", "naive", "no store", "broadcaster", "rows alone", "storing broadcaster")
_NAMES = {"no store": "without a store"}


@dataclass(frozen=True, slots=True)
class Axis:
    """An axis with the values to mark. `place` makes equal distances of its scale: a logarithm, for instance."""

    title: str
    marks: Sequence[float]
    place: Callable[[float], float]
    show: Callable[[float], str] = "{:,g}".format

    def share(self, value: float) -> float:
        """Return the place of the value between the first mark, 0, and the last, 1."""
        first, last = self.place(self.marks[0]), self.place(self.marks[-1])
        return (self.place(value) - first) / (last - first)


@dataclass(frozen=True, slots=True)
class Line:
    """Points of one server: x, and the lowest, the median and the highest y."""

    server: str
    points: Sequence[tuple[float, tuple[float, float, float]]]


def draw(title: str, across: Axis, up: Axis, lines: Sequence[Line]) -> str:
    """Return a plot as SVG. The legend stands at the right, in the order of the ends of the lines."""

    def x(value: float) -> float:
        return round(_LEFT + across.share(value) * (_RIGHT - _LEFT), 1)

    def y(value: float) -> float:
        return round(_BOTTOM - up.share(value) * (_BOTTOM - _TOP), 1)

    parts = [f'<rect class="page" width="{_WIDTH}" height="{_HEIGHT}"/>', _text(title, _LEFT, 28, "start", "title")]
    for mark in up.marks:
        parts.append(f'<path class="grid" d="M{_LEFT} {y(mark)}H{_RIGHT}"/>')
        parts.append(_text(up.show(mark), _LEFT - 8, y(mark) + 4, "end"))
    for mark in across.marks:
        parts.append(f'<path class="grid" d="M{x(mark)} {_BOTTOM}v5"/>')
        parts.append(_text(across.show(mark), x(mark), _BOTTOM + 20, "middle"))
    parts.append(_text(across.title, (_LEFT + _RIGHT) / 2, _BOTTOM + 44, "middle"))
    middle = (_TOP + _BOTTOM) / 2
    parts.append(f'<g transform="rotate(-90 14 {middle})">{_text(up.title, 14, middle, "middle")}</g>')
    below = _TOP - 18.0
    for line in sorted(lines, key=lambda line: y(line.points[-1][1][1])):
        colour = f"var(--c{_COLOURS.index(line.server)})"
        points = [(x(value), *map(y, spread)) for value, spread in line.points]
        path = " ".join(f"{across},{center}" for across, _, center, _ in points)
        parts.append(f'<polyline class="line" stroke="{colour}" points="{path}"/>')
        for at, low, center, high in points:
            parts.append(f'<circle cx="{at}" cy="{center}" r="3" fill="{colour}"/>')
            if low != high:
                parts.append(f'<path stroke="{colour}" d="M{at} {low}V{high}"/>')
        # Names must not overlap, also where the lines end close to each other.
        below = max(points[-1][2] + 4, below + 18)
        parts.append(f'<path stroke="{colour}" stroke-width="2" d="M{_RIGHT + 8} {below - 4}h12"/>')
        parts.append(_text(_NAMES.get(line.server, line.server), _RIGHT + 25, below, "start"))
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img"'
    return "\n".join([f'{head} aria-label="{escape(title)}">', f"<style>{_STYLE}</style>", *parts, "</svg>\n"])


def write_plots(figures: Mapping[str, Any], folder: Path) -> Sequence[Path]:
    """Write the plots of all parts measured, over connections if there are several. Return their files."""
    plots = {}
    if "callbacks" in figures:
        called = sorted(figures["callbacks"]["called"], key=lambda compared: compared["connections"])
        if len(called) > 1:
            connections = Axis("connections", [compared["connections"] for compared in called], math.log)
            rates, delays = _lines(called, "per_second"), _lines(called, "p99_ms")
            plots["throughput"] = draw("Callbacks a second", connections, _linear("callbacks a second", rates), rates)
            plots["p99"] = draw("p99 of the acknowledgement", connections, _logarithmic("milliseconds", delays), delays)
        largest = min(called, key=lambda compared: abs(compared["connections"] - 64))
        plots["acknowledgement"] = _distribution(
            f"Acknowledgement, {largest['connections']} connections", _rounds(largest)
        )
    if "broadcast" in figures:
        rounds = figures["broadcast"]["rounds"]
        servers = {name: [one_round[name] for one_round in rounds] for name in rounds[0]}
        plots["wake"] = _distribution("POST to the frame at a websocket subscriber", servers)
    folder.mkdir(parents=True, exist_ok=True)
    files = {folder / f"{name}.svg": plot for name, plot in plots.items()}
    for file, plot in files.items():
        file.write_text(plot)
    return list(files)


def _rounds(compared: Mapping[str, Any]) -> Mapping[str, Sequence[Mapping[str, Any]]]:
    """Return the rounds of each server at one number of connections, with those of bare."""
    rounds = {name: server["rounds"] for name, server in compared["servers"].items()}
    own = {name: [one_round["own"] for one_round in measured] for name, measured in rounds.items()}
    return {"bare": [one_round["bare"] for measured in rounds.values() for one_round in measured], **own}


def _lines(called: Sequence[Mapping[str, Any]], of: str) -> Sequence[Line]:
    points: dict[str, list[tuple[float, tuple[float, float, float]]]] = {}
    for compared in called:
        for name, measured in _rounds(compared).items():
            points.setdefault(name, []).append((compared["connections"], _spread(one[of] for one in measured)))
    return [Line(name, points_of) for name, points_of in points.items()]


def _distribution(title: str, servers: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    lines = []
    for name, rounds in servers.items():
        columns = zip(*(one_round["distribution_ms"] for one_round in rounds), strict=True)
        lines.append(
            Line(name, [(percent, _middle(column)) for percent, column in zip(PERCENTS, columns, strict=True)])
        )
    marks = Axis("percentile of all requests", (1, 50, 90, 99, 99.9), lambda percent: -math.log(100 - percent))
    return draw(title, marks, _logarithmic("milliseconds", lines), lines)


def _middle(values: Iterable[float]) -> tuple[float, float, float]:
    middle = median(values)
    return middle, middle, middle


def _spread(values: Iterable[float]) -> tuple[float, float, float]:
    ordered = sorted(values)
    return ordered[0], median(ordered), ordered[-1]


def _values(lines: Sequence[Line]) -> Sequence[float]:
    return [value for line in lines for _, spread in line.points for value in spread]


def _linear(title: str, lines: Sequence[Line]) -> Axis:
    """Return an axis from 0 with four to eight round marks."""
    highest = max(_values(lines))
    step = 10.0 ** math.floor(math.log10(highest))
    step = next(step * part for part in (0.2, 0.25, 0.5, 1, 2) if highest / (step * part) <= 8)
    return Axis(title, [step * number for number in range(math.ceil(highest / step) + 1)], float)


def _logarithmic(title: str, lines: Sequence[Line]) -> Axis:
    """Return an axis of powers of ten, with a mark at two and at five times each."""
    marks = [part * 10.0**power for power in range(-3, 6) for part in (1, 2, 5)]
    values = _values(lines)
    first = max(number for number, mark in enumerate(marks) if mark <= min(values) or number == 0)
    last = min(number for number, mark in enumerate(marks) if mark >= max(values) or number == len(marks) - 1)
    return Axis(title, marks[first : last + 1], math.log)


def _text(text: str, x: float, y: float, anchor: str, style: str = "") -> str:
    named = f' class="{style}"' if style else ""
    return f'<text{named} x="{x}" y="{y}" text-anchor="{anchor}">{escape(text)}</text>'


@click.command()
@click.argument("figures", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
def main(figures: Path, folder: Path) -> None:
    """Write the plots of FIGURES, a file of `--json`, to FOLDER."""
    for file in write_plots(json.loads(figures.read_text()), folder):
        click.echo(file)


if __name__ == "__main__":
    main()
