"""Why there is no plan."""

from __future__ import annotations

from .backends import Verdict
from .decode import decode
from .errors import Infeasible, NoPlanInTime
from .floor import floor
from .formulation import formulate
from .incumbent import without_deadline
from .programs import COMPLETE_OPERATORS, Programs
from .replay import replay
from .reruns import NEAR, all_reruns, near_reruns


def no_plan_in_time(programs: Programs) -> NoPlanInTime:
    """What to say where no plan was found, though none was proven impossible."""
    why = programs.cut_short or "the time limit ended"
    return NoPlanInTime(f"{why} before a plan was found: give more time, RAM or deadline")


def infeasible(programs: Programs) -> Infeasible:
    """What to say where no plan keeps the budget."""
    problem = programs.incumbent.reduced
    floors, budget = floor(problem), problem.budget
    fastest_s = _least_time_s(programs) if budget.time_s is not None else None
    if fastest_s is None:
        return Infeasible(
            f"no plan fits {budget.ram_bytes} bytes of RAM: the floor of {floors.ram_bytes} bytes "
            f"({floors.operator}) is reached only where all tensors may be paged and the page store "
            f"(limit: {budget.page_store_bytes}) holds them; allow more RAM or page store",
            floor_bytes=floors.ram_bytes,
            operator=floors.operator,
        )
    return Infeasible(
        f"no plan within {budget.ram_bytes} bytes of RAM meets the deadline of "
        f"{budget.time_s:.6g} s; the fastest found takes {fastest_s:.6g} s: "
        "allow that much time or more RAM",
        floor_bytes=floors.ram_bytes,
        operator=floors.operator,
        least_time_s=fastest_s,
    )


def _least_time_s(programs: Programs) -> float | None:
    problem = programs.incumbent.reduced
    patient = without_deadline(problem)
    small = len(problem.graph.operators) <= COMPLETE_OPERATORS
    reruns = all_reruns(problem.graph) if small else near_reruns(patient, NEAR)
    form = formulate(patient, reruns, minimize_time=True)
    outcome = programs.minimize(form, end_s=programs.end_s, gap=1e-6)
    if outcome.verdict not in (Verdict.OPTIMAL, Verdict.FEASIBLE):
        return None
    return replay(decode(form), patient).time_s
