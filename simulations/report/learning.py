"""How good the model got: by round, by virtual time, and by the joules of all devices."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from scheduler.view.figure import COLOURS, drawing, figure, svg
from scheduler.view.html import table
from scheduler.view.text import human_j, human_s

from ..results import RoundRecord
from ..summary import reached

MOST_POINTS = 1000  # of a line; more cannot be told apart
SHARES = (0.5, 0.8, 0.9, 0.95, 0.99, 1.0)  # of the best accuracy
TIMES = ((48 * 3600, 86400, "days"), (2 * 3600, 3600, "hours"), (120, 60, "minutes"), (0, 1, "s"))
JOULES = ((2e6, 1e6, "MJ"), (2e3, 1e3, "kJ"), (0, 1, "J"))
PERCENT = FuncFormatter(lambda value, _: f"{value:.0%}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """What is drawn of a run: a colour, a style of line, and its rounds."""

    colour: str
    style: str
    rounds: Sequence[RoundRecord]


def learning_picture(curves: Mapping[str, Curve]) -> str:
    """Test accuracy (where there is one) and test loss of one run or more."""
    scored = any(r.accuracy is not None for c in curves.values() for r in c.rounds)
    scores = ("accuracy", "loss") if scored else ("loss",)
    with drawing("learning"):
        made, axes = figure(9.2, 2.3 * len(scores) + 0.3, len(scores), 3)
        for row, score in enumerate(scores):
            _draw_row(axes[3 * row : 3 * row + 3], curves, score)
        if len(curves) > 1:
            handles, labels = axes[0].get_legend_handles_labels()
            made.legend(handles, labels, loc="outside upper left", ncols=min(4, len(curves)))
        said = "Test accuracy and loss" if scored else "Test loss"
        return svg(made, "learning", f"{said} by round, by virtual time and by joules")


def _draw_row(axes: Sequence[Axes], curves: Mapping[str, Curve], score: str) -> None:
    time_s, time_unit = _unit(max(c.rounds[-1].end_s for c in curves.values()), TIMES)
    spent_j = {name: list(accumulate(r.energy_j for r in c.rounds)) for name, c in curves.items()}
    joules, joule_unit = _unit(max(spent[-1] for spent in spent_j.values()), JOULES)
    for name, curve in curves.items():
        along = (
            [float(r.round) for r in curve.rounds],
            [r.end_s / time_s for r in curve.rounds],
            [j / joules for j in spent_j[name]],
        )
        for ax, x in zip(axes, along, strict=True):
            _draw(ax, name, curve, x, score)
    for ax, unit in zip(
        axes, ("round", f"virtual {time_unit}", f"energy, {joule_unit}"), strict=True
    ):
        ax.set_xlabel(unit)
        ax.set_xlim(left=0)
        ax.set_ylim(bottom=0)
        ax.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=unit == "round"))
        if score == "accuracy":
            ax.set_ylim(top=1)
            ax.yaxis.set_major_formatter(PERCENT)
    axes[0].set_title(f"test {score}")


def _draw(ax: Axes, name: str, curve: Curve, x: Sequence[float], score: str) -> None:
    values = [getattr(r, score) for r in curve.rounds]
    y = [math.nan if value is None else value for value in values]
    colour, shown = COLOURS[curve.colour], thinned(len(y), MOST_POINTS)
    ax.plot(
        [x[k] for k in shown], [y[k] for k in shown], curve.style, color=colour, label=name
    )  # fmt: skip
    ax.plot(x[-1:], y[-1:], "o", color=colour, markersize=4)


def _unit(most: float, units: Sequence[tuple[float, float, str]]) -> tuple[float, str]:
    return next((size, name) for least, size, name in units if most >= least)


def thinned(count: int, most: int) -> list[int]:
    """Positions of at most so many of `count`, evenly apart, the first and the last among them."""
    if count <= most:
        return list(range(count))
    return [round(k * (count - 1) / (most - 1)) for k in range(most)]


def reached_table(rounds: Sequence[RoundRecord]) -> str:
    """When the run first had parts of its best accuracy; nothing if it never was better than untrained."""
    best = max((r.accuracy for r in rounds if r.accuracy is not None), default=0.0)
    marks = [found for s in SHARES if (found := reached(rounds, s * best)) and found.round]
    rows = [
        (f"{m.accuracy:.1%}", str(m.round), human_s(m.time_s), human_j(m.energy_j)) for m in marks
    ]
    head = ("test accuracy of", "first in round", "virtual time", "energy")
    return table(head, rows) if rows else ""
