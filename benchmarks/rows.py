"""A row of the table: a point, solved, beside its baselines.

    python -m benchmarks.rows PROBLEM.json SECONDS

plans one problem file in a process of its own and prints, as JSON, what came of it and how much memory
the process had at most.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from benchmarks.points import Point
from scheduler import (
    FedpoetError,
    Infeasible,
    NoPlanInTime,
    Plan,
    PlanCache,
    Problem,
    cached_solve,
    floor,
    replay,
    solve,
)
from scheduler.baselines.table import BASELINES
from scheduler.files import read_problem, write_problem

CACHE_S = 0.05
# Plans are searched until they are proven this good: the aim for the reference instances.
GAP = 1e-3
# Where a plan is proven, no baseline can be better by more than the gap: those that take long are left out.
SLOW_BASELINES = ("checkmate", "paging")


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What `solve` did. Energies are relative to computing everything once; None: no plan."""

    energy: float | None = None
    bound: float | None = None
    gap: float | None = None
    first_s: float | None = None
    first_energy: float | None = None
    total_s: float
    problem: str | None = None
    infeasible: bool = False
    memory_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A line of the table. `missed` names the targets that were not reached."""

    section: str
    name: str
    operators: int
    tensors: int
    ram: str
    ram_bytes: int
    deadline: str
    result: Result
    baselines: dict[str, float | None]
    missed: tuple[str, ...]

    @property
    def best_baseline(self) -> tuple[str, float] | None:
        """Name and energy of the baseline that needs least."""
        known = [(energy, name) for name, energy in self.baselines.items() if energy is not None]
        return min(known)[::-1] if known else None


def solved(problem: Problem, time_limit_s: float) -> Result:
    """Solve and time; an exception of the scheduler is a result too."""
    once_j = problem.compute_once.energy_j
    seen: list[tuple[float, float]] = []

    def note(plan: Plan, after_s: float) -> None:
        seen.append((after_s, replay(plan, problem).energy_j / once_j))

    began = time.perf_counter()
    try:
        found = solve(problem, time_limit_s=time_limit_s, gap=GAP, on_plan=note)
    except (Infeasible, NoPlanInTime) as error:
        return Result(
            total_s=time.perf_counter() - began,
            problem=_why(problem, error),
            infeasible=isinstance(error, Infeasible),
        )
    first_s, first_energy = seen[0] if seen else (None, None)
    return Result(
        energy=found.cost.energy_j / once_j,
        bound=found.lower_bound_j / once_j,
        gap=found.gap,
        first_s=first_s,
        first_energy=first_energy,
        total_s=time.perf_counter() - began,
    )


def _why(problem: Problem, error: FedpoetError) -> str:
    least = floor(problem)
    if problem.budget.ram_bytes < least.ram_bytes:
        return f"below the floor of {least.ram_bytes:,} bytes ({least.operator[:40]})"
    return "no plan keeps the deadline" if isinstance(error, Infeasible) else "no plan in time"


def row(point: Point, *, time_limit_s: float, baseline_s: float | None, alone: bool = False) -> Row:
    """Plan a point and, unless `baseline_s` is None, its baselines; `alone`: in a fresh process."""
    problem = point.problem
    plan = _solved_alone if alone else solved
    result = plan(problem, time_limit_s)
    compared = baseline_s is not None and not result.infeasible
    names = _worth_comparing(result)
    energies = _baselines(problem, baseline_s, names) if compared and baseline_s is not None else {}
    made = Row(
        section=point.section,
        name=point.name,
        operators=len(problem.graph.operators),
        tensors=len(problem.graph.tensors),
        ram=point.ram,
        ram_bytes=problem.budget.ram_bytes,
        deadline=point.deadline,
        result=result,
        baselines=energies,
        missed=(),
    )
    return replace(made, missed=_missed(made, point))


def _worth_comparing(result: Result) -> tuple[str, ...]:
    proven = result.gap is not None and result.gap <= GAP
    return tuple(n for n in BASELINES if not (proven and n in SLOW_BASELINES))


def _baselines(problem: Problem, seconds: float, names: tuple[str, ...]) -> dict[str, float | None]:
    once_j = problem.compute_once.energy_j
    found = {n: BASELINES[n](problem, time_limit_s=seconds) for n in names}
    return {n: replay(p, problem).energy_j / once_j if p else None for n, p in found.items()}


def _missed(made: Row, point: Point) -> tuple[str, ...]:
    """Targets are for points that have a plan; one without is a miss unless it is proven to have none."""
    result, targets = made.result, point.targets
    if result.energy is None:
        return () if result.infeasible else ("plan",)
    missed = []
    if result.first_s is None or result.first_s > targets.first_s:
        missed.append("first")
    if targets.gap is not None and result.gap is not None and result.gap > targets.gap:
        missed.append("gap")
    best = made.best_baseline
    if targets.beats_baselines and best is not None and result.energy > best[1] * (1 + 1e-9):
        missed.append("baseline")
    return tuple(missed)


def _solved_alone(problem: Problem, time_limit_s: float) -> Result:
    """The same in a process of its own, with the most memory it had."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "problem.json"
        write_problem(problem, path)
        command = [sys.executable, "-m", "benchmarks.rows", str(path), str(time_limit_s)]
        root = Path(__file__).parents[1]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, cwd=root)
    return Result(**json.loads(done.stdout))


def cache_seconds(problem: Problem, time_limit_s: float) -> float:
    """Seconds to have a plan that a cache on disk knows, for a problem read anew from its file."""
    with tempfile.TemporaryDirectory() as folder:
        path, cache = Path(folder) / "problem.json", PlanCache(folder=Path(folder) / "plans")
        write_problem(problem, path)
        cached_solve(problem, cache, time_limit_s=time_limit_s)
        again = read_problem(path)
        began = time.perf_counter()
        cached_solve(again, cache, time_limit_s=time_limit_s)
        return time.perf_counter() - began


def _main() -> None:
    path, seconds = sys.argv[1:]
    result = solved(read_problem(Path(path)), float(seconds))
    # Linux counts in units of 1,024 bytes. A solver in a process of its own counts like this one.
    used = (
        resource.getrusage(w).ru_maxrss for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    print(json.dumps(asdict(replace(result, memory_bytes=1024 * sum(used)))))


if __name__ == "__main__":
    _main()
