"""Why a plan keeps, pages or recomputes a tensor: each other way is tried, and judged by the law."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from .check import check
from .errors import InvalidPlan, UnknownName
from .graph import Graph
from .handling import Gap, Way, gaps
from .plan import Compute, Plan, cost_of
from .problem import Cost, Problem
from .replay import Replay, replay
from .rework import Impossible, Reworked, rework


@dataclass(frozen=True, slots=True, kw_only=True)
class Alternative:
    """A plan that differs in one gap only, and what the accountant and the law say of it.

    `brings_back` are tensors that it needs in RAM for a rerun and that it pages in or recomputes.
    `broken` is the rule it breaks; None for a valid plan.
    """

    way: Way
    plan: Plan
    used: Replay
    brings_back: tuple[int, ...]
    broken: InvalidPlan | None


@dataclass(frozen=True, slots=True, kw_only=True)
class GapExplained:
    """One gap: what the plan spends on it, the time it spans, and the other ways.

    A way is a str, in plain words, where it is impossible whatever the budget.
    """

    gap: Gap
    cost: Cost
    span_s: float
    others: tuple[tuple[Way, Alternative | str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorExplained:
    """All gaps of a tensor; none when it is used at once."""

    tensor: int
    gaps: tuple[GapExplained, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Tensors that a name stands for; `used` is what the plan itself uses."""

    plan: Plan
    used: Replay
    tensors: tuple[TensorExplained, ...]


def explain(name: str, plan: Plan, problem: Problem) -> Explanation:
    """Explain what a valid plan does with the outputs of an operator, or with one tensor.

    An operator is named by its name or id; one without outputs stands for what it changes in place.
    Raises UnknownName, with the names that come close.
    """
    graph, used = problem.graph, replay(plan, problem)
    tensors = named(name, graph)
    found = gaps(plan, graph)
    explained = (
        TensorExplained(
            tensor=k,
            gaps=tuple(_explained(gap, plan, used, problem) for gap in found if gap.tensor == k),
        )
        for k in tensors
    )
    return Explanation(plan=plan, used=used, tensors=tuple(explained))


def named(name: str, graph: Graph) -> tuple[int, ...]:
    """Tensors that a name stands for, as in `explain`. Raises UnknownName."""
    operators = [op for op in graph.operators if name in (op.name, str(op.id))]
    exact = [op for op in operators if op.name == name] or operators
    if exact:
        return tuple(k for op in exact for k in op.outputs or op.mutates)
    tensors = tuple(t.id for t in graph.tensors if t.name == name)
    if tensors:
        return tensors
    names = dict.fromkeys((*(op.name for op in graph.operators), *(t.name for t in graph.tensors)))
    close = difflib.get_close_matches(name, names, n=5, cutoff=0.4)
    within = [known for known in names if name.lower() in known.lower()]
    raise UnknownName(
        "operator or tensor", name, tuple(dict.fromkeys((*within[:5], *close))) or tuple(names)[:5]
    )


def _explained(gap: Gap, plan: Plan, used: Replay, problem: Problem) -> GapExplained:
    costs = [cost_of(plan.steps[position], problem.costs) for position in gap.moves]
    others = tuple(
        (way, _alternative(way, gap, plan, problem)) for way in Way if way is not gap.way
    )
    return GapExplained(
        gap=gap,
        cost=Cost(
            time_s=sum(c.time_s for c in costs),
            energy_j=sum(problem.costs.total_j(c) for c in costs),
        ),
        span_s=_span_s(gap, plan, used, problem),
        others=others,
    )


def _span_s(gap: Gap, plan: Plan, used: Replay, problem: Problem) -> float:
    """Seconds from the end of the run before the gap to the start of the run after it."""
    last = len(plan.steps)
    begin_s, end_s = 0.0, used.time_s
    if gap.begin >= 0:
        begin_s = used.frames[gap.begin].time_s if gap.begin < last else used.time_s
    if gap.end < last:
        end_s = used.frames[gap.end].time_s - cost_of(plan.steps[gap.end], problem.costs).time_s
    return end_s - begin_s + (used.time_s if gap.begin >= gap.end else 0.0)


def _alternative(way: Way, gap: Gap, plan: Plan, problem: Problem) -> Alternative | str:
    """The cheapest valid plan that takes `way`; without a valid one, the one that holds least RAM."""
    tried = rework(way, gap, plan, problem)
    if isinstance(tried, Impossible):
        return tried.why
    judged = [_judged(way, candidate, problem) for candidate in tried]
    valid = [one for one in judged if one.broken is None]
    if valid:
        return min(valid, key=lambda one: one.used.energy_j)
    return min(judged, key=lambda one: one.used.peak_bytes)


def _judged(way: Way, candidate: Reworked, problem: Problem) -> Alternative:
    broken = None
    try:
        check(candidate.plan, problem)
    except InvalidPlan as error:
        broken = error
    return Alternative(
        way=way,
        plan=candidate.plan,
        used=replay(candidate.plan, problem),
        brings_back=candidate.brings_back,
        broken=broken,
    )


def worst_moment(used: Replay, graph: Graph) -> tuple[int, str]:
    """The most RAM held at any step, and the operator that runs then or next."""
    if used.start_bytes >= used.peak_bytes:
        return used.start_bytes, "the start of the step"
    position = max(range(len(used.frames)), key=lambda n: used.frames[n].ram_bytes)
    later = (f.step.operator for f in used.frames[position:] if isinstance(f.step, Compute))
    operator = next(later, None)
    name = "the end of the step" if operator is None else graph.operators[operator].name
    return used.frames[position].ram_bytes, name
