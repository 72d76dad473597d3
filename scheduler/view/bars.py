"""Stacked bars: what a whole of several rows is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.ticker import Formatter

from .figure import COLOURS, drawing, figure, svg
from .text import shortened


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A part of every row, in one of the page's colours; `strength` is how much of it, up to 1."""

    label: str
    values: Sequence[float]
    colour: str
    strength: float = 1.0


def bars_picture(
    rows: Sequence[str],
    parts: Sequence[Part],
    *,
    name: str,
    label: str,
    formatter: Formatter,
    ends: Sequence[str] = (),
    axis: str = "",
    whole: float | None = None,
    columns: int = 5,
) -> str:
    """A bar for each row with its parts one after the other. `ends` are written where the bars end.

    The axis ends at `whole`, if that is given. `columns` are the legend's. `name` is unique in the page.
    """
    lines = -(-len(parts) // columns)
    with drawing(name):
        made, (ax,) = figure(9.2, 0.75 + 0.25 * lines + 0.42 * len(rows) + 0.2 * bool(axis))
        places = range(len(rows))
        left = [0.0] * len(rows)
        for part in parts:
            colour = COLOURS[part.colour]
            ax.barh(
                places, part.values, left=left, height=0.62, color=colour, alpha=part.strength,
                label=part.label,
            )  # fmt: skip
            left = [a + b for a, b in zip(left, part.values, strict=True)]
        for place, text in enumerate(ends):
            ax.annotate(
                text, (left[place], place), xytext=(6, 0), textcoords="offset points",
                va="center", weight="bold",
            )  # fmt: skip
        ax.set_yticks(places, [shortened(row, 30) for row in rows])
        ax.tick_params(axis="y", labelcolor=COLOURS["ink"], labelsize=9.5, length=0)
        ax.set_ylim(len(rows) - 0.5, -0.5)
        ax.grid(visible=True, axis="x")
        ax.grid(visible=False, axis="y")
        ax.set_xlabel(axis)
        ax.xaxis.set_major_formatter(formatter)
        ax.set_xlim(0, whole or max(left, default=0.0) * 1.14 or 1)
        made.legend(loc="outside upper left", ncols=columns, handlelength=1, columnspacing=1.4)
        return svg(made, name, label)
