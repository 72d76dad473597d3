"""The least RAM of a problem, and of what changes make of it, as text."""

from __future__ import annotations

from collections.abc import Sequence

from ..baselines import keep_all
from ..errors import FedpoetError
from ..floor import floor
from ..least_ram import Change, LeastRam, needs
from ..problem import Problem
from ..replay import replay
from .rows import Rows
from .text import aligned

NEXT = 4  # operators named after the one that sets the floor


def floor_rows(problem: Problem, least: LeastRam | FedpoetError) -> Rows:
    """The floor, what sets it and what comes next; the least RAM for which a plan was found."""
    lowest = floor(problem)
    others: dict[int, list[str]] = {}
    for need in needs(problem):
        if need.operator != lowest.operator:
            others.setdefault(need.ram_bytes, []).append(need.operator)
    plain = replay(keep_all(problem), problem)
    return (
        ("floor", f"{lowest.ram_bytes:,} bytes, set by {lowest.operator}: no plan holds less"),
        *(
            ("then", f"{size:,} bytes, {_several(names)}")
            for size, names in [*others.items()][:NEXT]
        ),
        ("least found", _found(problem, least)),
        ("keep-all peak", f"{plain.peak_bytes:,} bytes"),
    )


def _several(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more like it"


def _found(problem: Problem, least: LeastRam | FedpoetError) -> str:
    within = "" if problem.budget.time_s is None else f" within {problem.budget.time_s:.6g} s"
    if isinstance(least, FedpoetError):
        return f"no plan{within}: {least}"
    lowest = floor(problem).ram_bytes
    if least.ram_bytes == lowest:
        return f"{least.ram_bytes:,} bytes: a plan reaches the floor{within}"
    if least.proven:
        return f"{least.ram_bytes:,} bytes{within}: proven, no plan holds less"
    below = "the floor" if least.refuted_bytes < lowest else f"{least.refuted_bytes + 1:,} bytes"
    return f"{least.ram_bytes:,} bytes{within}; whether less will do, down to {below}, is open"


def change_lines(problem: Problem, changes: Sequence[Change]) -> str:
    """A table of changes, those that lower the floor most first, then those that do not apply."""
    now, plain_now = _two(problem)
    head = ("change", "floor", "", "set by", "keep-all peak", "")
    rows = [("as it is", f"{now:,} bytes", "", floor(problem).operator, f"{plain_now:,} bytes", "")]
    posed = [(change.name, change.posed) for change in changes if isinstance(change.posed, Problem)]
    for name, changed in sorted(posed, key=lambda pair: _two(pair[1])):
        low, plain = _two(changed)
        rows.append(
            (
                name,
                f"{low:,} bytes",
                f"{low / now - 1:+.1%}",
                floor(changed).operator,
                f"{plain:,} bytes",
                f"{plain / plain_now - 1:+.1%}",
            )
        )
    lines = [aligned((head, *rows), left=(0, 3))]
    lines += (f"{c.name}: {c.posed}" for c in changes if isinstance(c.posed, str))
    return "\n".join(lines)


def _two(problem: Problem) -> tuple[int, int]:
    return floor(problem).ram_bytes, replay(keep_all(problem), problem).peak_bytes
