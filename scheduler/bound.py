"""Bounds on all plans of a problem that is too large for one program: its relaxation, then its branches."""

from __future__ import annotations

from dataclasses import replace

from .backends import Outcome, Verdict
from .impossible import infeasible
from .presence import presence_rows
from .problem import Problem
from .programs import Programs
from .reductions.bundle import Bundle
from .reruns import worthwhile_reruns
from .rounding import rounding_rows
from .stages import relaxation, relaxation_without_chains
from .timeline import Slot
from .variables import Formulation, value_of

# The relaxation may take this share of the time that is left.
BOUND_SHARE = 0.75
# So many rounds of rows that together raise the bound by no more than this share are the last ones.
PATIENCE = 2
LEAST_RISE = 1e-4
# Reruns that the relaxation uses at least this much are offered to the programs that find plans.
LEAST_USE = 0.5
# Of the weaker relaxation, which offers and uses few.
LEAST_USE_WITHOUT_CHAINS = 0.1
# No relaxation is made in which slots read or compute more tensors than this; about how long each takes.
MOST_TOUCHES = 120_000
TOUCH_S = 2e-4


def without_store(problem: Problem) -> Problem:
    """The problem without a limit on page copies: its rows would leave out plans whose copies come and go."""
    return replace(problem, budget=replace(problem.budget, page_store_bytes=None))


def relax(programs: Programs) -> frozenset[Slot]:
    """Bound all plans by the relaxation with every rerun that may be worth it; the reruns it uses.

    Raises:
        Infeasible: the relaxation has no solution, and no plan is known.
    """
    end_s = programs.clock() + programs.left_s() * BOUND_SHARE
    chosen = _what_to_relax(programs)
    if chosen is None:
        return _relax_without_chains(programs, end_s)
    problem, reruns, is_whole = chosen
    form = relaxation(problem, reruns)
    begun_s = programs.clock()
    outcome = _relaxed(programs, form, end_s)
    if outcome.verdict is Verdict.INFEASIBLE and programs.incumbent.plan is None:
        raise infeasible(programs)
    used = _used(form)
    bounds = [programs.incumbent.bound_j]
    while outcome.verdict is Verdict.OPTIMAL and not programs.is_done():
        took_s, begun_s = programs.clock() - begun_s, programs.clock()
        if begun_s + took_s > end_s or _stands_still(bounds):
            break
        rows = [*(rounding_rows(form) if is_whole else ()), *presence_rows(form)]
        if not rows:
            break
        for row in rows:
            form.model.addConstraint(row)
        outcome = _relaxed(programs, form, end_s)
        used = _used(form) or used
        bounds.append(programs.incumbent.bound_j)
    return used


def _stands_still(bounds: list[float]) -> bool:
    """Whether the last few rounds of rows have hardly raised the bound."""
    return len(bounds) > PATIENCE and bounds[-1] - bounds[-1 - PATIENCE] <= LEAST_RISE * bounds[-1]


def branch(programs: Programs) -> None:
    """Branch and bound on the program with every rerun that may be worth it, from the best plan."""
    problem = without_store(programs.incumbent.problem)
    reruns = worthwhile_reruns(problem)
    if programs.is_done() or not programs.has_time_for(problem, reruns):
        return
    outcome, plan = programs.solved(problem, reruns, programs.end_s)
    programs.note_bound(outcome)
    if plan is not None:
        programs.incumbent.offer(plan)


def _what_to_relax(programs: Programs) -> tuple[Problem, frozenset[Slot], bool] | None:
    """A problem that there is time to relax, its reruns, and whether its tensors are whole ones."""
    original = without_store(programs.incumbent.problem)
    reruns = worthwhile_reruns(original)
    if _has_time_to_relax(programs, original, reruns):
        return original, reruns, True
    # Parts of a bundle are no whole numbers: rows for those hold for tensors only.
    bundled, bundles = Bundle(proportional=True).apply(original)
    if bundles.all_single or not _has_time_to_relax(programs, bundled, reruns):
        return None
    return bundled, reruns, False


def _relax_without_chains(programs: Programs, end_s: float) -> frozenset[Slot]:
    """Where even the bundled relaxation would take too long, a smaller and weaker one."""
    problem, _ = Bundle(proportional=True).apply(without_store(programs.incumbent.problem))
    if not programs.has_time_for(problem, frozenset()):
        return frozenset()
    form = relaxation_without_chains(problem)
    _relaxed(programs, form, end_s)
    return _used(form, LEAST_USE_WITHOUT_CHAINS)


def _has_time_to_relax(programs: Programs, problem: Problem, reruns: frozenset[Slot]) -> bool:
    each = [len(op.inputs) + len(op.outputs) for op in problem.graph.operators]
    touches = sum(each) + sum(each[slot.operator] for slot in reruns)
    return touches <= MOST_TOUCHES and touches * TOUCH_S <= programs.left_s() * BOUND_SHARE


def _relaxed(programs: Programs, form: Formulation, end_s: float) -> Outcome:
    outcome = programs.minimize(form, end_s=end_s, relaxed=True)
    programs.note_bound(outcome)
    return outcome


def _used(form: Formulation, least: float = LEAST_USE) -> frozenset[Slot]:
    """Where the relaxation runs operators again; nowhere if it was not solved."""
    graph = form.problem.graph
    runs = zip(form.run, form.timeline.slots, strict=True)
    return frozenset(
        slot
        for term, slot in runs
        if value_of(term) > least and graph.can_rerun(slot.operator, slot.stage)
    )
