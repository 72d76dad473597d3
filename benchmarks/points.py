"""What is planned: problems with a budget each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from scheduler import Problem, keep_all, replay
from scheduler.files import read_problem
from scheduler.least_ram import least_ram

SHARES = ("100%", "60%", "40%", "25%", "1.1x")


@dataclass(frozen=True, slots=True, kw_only=True)
class Targets:
    """What a point has to reach; None: not asked for."""

    first_s: float
    gap: float | None = None
    total_s: float
    beats_baselines: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A problem with its budget. `ram` and `deadline` say where the budget comes from."""

    section: str
    name: str
    ram: str
    deadline: str
    problem: Problem
    targets: Targets


REFERENCE = Targets(first_s=5.0, gap=0.01, total_s=60.0, beats_baselines=True)
TRACED = Targets(first_s=10.0, gap=0.02, total_s=120.0)
GROWTH = Targets(first_s=60.0, total_s=60.0)


def with_ram(problem: Problem, ram_bytes: int) -> Problem:
    """The same problem with another RAM budget."""
    return replace(problem, budget=replace(problem.budget, ram_bytes=ram_bytes))


def with_deadline(problem: Problem, factor: float | None) -> Problem:
    """The deadline as a multiple of the time of computing everything once."""
    time_s = None if factor is None else factor * problem.compute_once.time_s
    return replace(problem, budget=replace(problem.budget, time_s=time_s))


def with_free_paging(problem: Problem) -> Problem:
    """The semantics of the public POET code: paging costs energy and takes no time."""
    costs = problem.costs
    instant = {
        name: tuple(replace(c, time_s=0.0) for c in getattr(costs, name))
        for name in ("page_in", "page_out")
    }
    return replace(problem, costs=replace(costs, **instant))


def ram_bytes(problem: Problem, ram: str) -> int:
    """Bytes from "55%" of keep-all's peak, "1.1x" of the least feasible RAM, or plain bytes."""
    if ram.endswith("%"):
        return round(replay(keep_all(problem), problem).peak_bytes * float(ram[:-1]) / 100)
    if ram.endswith("x"):
        return round(float(ram[:-1]) * least_ram(problem).ram_bytes)
    return int(ram)


def budgets(
    section: str,
    name: str,
    problem: Problem,
    targets: Targets,
    *,
    deadlines: tuple[float | None, ...],
    shares: tuple[str, ...],
) -> Iterator[Point]:
    """A point per deadline and share of RAM, loose ones first."""
    for factor in deadlines:
        posed = with_deadline(problem, factor)
        for share in shares:
            yield Point(
                section=section,
                name=name,
                ram=share,
                deadline="-" if factor is None else f"{factor:g}x",
                problem=with_ram(posed, ram_bytes(posed, share)),
                targets=targets,
            )


def instances(
    folder: Path, wanted: Callable[[str], bool], *, shares: tuple[str, ...]
) -> Iterator[Point]:
    """Section 1: every problem file of a folder, with the reference's semantics and with ours."""
    kinds = {"paging takes no time": with_free_paging, "paging takes time": lambda problem: problem}
    for kind, posed in kinds.items():
        for path in sorted(folder.glob("*.json")):
            if wanted(path.stem):
                yield from budgets(
                    f"1. reference instances, {kind}",
                    path.stem,
                    posed(read_problem(path)),
                    REFERENCE,
                    deadlines=(1.5, 3.0),
                    shares=shares,
                )
