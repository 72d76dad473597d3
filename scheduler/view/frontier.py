"""The energy, RAM and time frontier as rows of text."""

from __future__ import annotations

from collections.abc import Sequence

from ..baselines import keep_all
from ..plan import Solution
from ..problem import Problem
from ..replay import replay
from ..sweep import Point
from .text import aligned

HEAD = ("RAM budget", "peak", "energy", "against keep-all", "time", "gap", "plan")


def point_cells(point: Point, problem: Problem) -> tuple[str, ...]:
    """A budget with the figures of its plan, or with why there is none."""
    if not isinstance(point.found, Solution):
        return (f"{point.ram_bytes:,} bytes", "", "", "", "", "", str(point.found))
    cost, found = point.found.cost, point.found
    plain_j = replay(keep_all(problem), problem).energy_j
    above = cost.energy_j / plain_j - 1 if plain_j else 0.0
    return (
        f"{point.ram_bytes:,} bytes",
        f"{replay(found.plan, problem).peak_bytes:,} bytes",
        f"{cost.energy_j:.6g} J",
        f"{above:+.2%}",
        f"{cost.time_s:.6g} s",
        f"{found.gap:.2%}",
        found.status.value,
    )


def frontier_lines(points: Sequence[Point], problem: Problem) -> str:
    """The frontier as a table of plain text; why a budget has no plan stands in its last column."""
    return aligned([HEAD, *(point_cells(p, problem) for p in points)], left=(len(HEAD) - 1,))
