"""An explanation in words."""

from __future__ import annotations

from ..explain import Alternative, Explanation, GapExplained, worst_moment
from ..graph import Graph
from ..handling import Gap, Way
from ..plan import Compute, Plan
from ..problem import Problem
from .terminal import made_by
from .text import human_j, human_s

# A difference smaller than this share of the plan's energy is none.
NOTHING = 1e-9


def explanation_lines(told: Explanation, problem: Problem) -> str:
    """What the plan does with each tensor in each gap, and what the other ways would take."""
    graph = problem.graph
    lines = []
    for one in told.tensors:
        tensor = graph.tensors[one.tensor]
        source = made_by(graph, tensor.id)
        origin = f"computed by {source}" if tensor.id in graph.producer else source
        lines.append(f"{tensor.name}: {tensor.size_bytes:,} bytes, {origin}")
        if not one.gaps:
            lines.append("  used at once: there is nothing to decide")
        for gap in one.gaps:
            lines.append(f"  {_where(gap.gap, told.plan, graph)}: {_done(gap, tensor.size_bytes)}")
            lines += (f"    {way:11} {_other(other, told, problem)}" for way, other in gap.others)
    return "\n".join(lines)


def _where(gap: Gap, plan: Plan, graph: Graph) -> str:
    if gap.between_steps and gap.begin < 0:
        return "all the time"
    begin, end = _moment(gap.begin, plan, graph), _moment(gap.end, plan, graph)
    return f"from {begin} to {end}" + (" of the next step" if gap.between_steps else "")


def _moment(position: int, plan: Plan, graph: Graph) -> str:
    if position < 0:
        return "the start"
    if position >= len(plan.steps):
        return "the end"
    step = plan.steps[position]
    if not isinstance(step, Compute):
        return f"step {position}"
    name = graph.operators[step.operator].name
    again = Compute(step.operator) in plan.steps[:position]
    return f"{name} (again)" if again else name


def _done(gap: GapExplained, size_bytes: int) -> str:
    if gap.gap.way is Way.KEPT:
        return f"kept, {size_bytes:,} bytes of RAM for {human_s(gap.span_s)}"
    cost = f"{human_j(gap.cost.energy_j)} and {human_s(gap.cost.time_s)}"
    shared = "" if gap.gap.moves else ", paid for with another gap"
    return f"{gap.gap.way}, which takes {cost}{shared}"


def _other(other: Alternative | str, told: Explanation, problem: Problem) -> str:
    """What a way would take: as a valid plan, or what stands against it."""
    if isinstance(other, str):
        return f"impossible: {other}"
    needs = ""
    if other.brings_back:
        names = [problem.graph.tensors[k].name for k in other.brings_back]
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        needs = f"; needs {', '.join(names[:3])}{more}, not in RAM then"
    change_j = other.used.energy_j - told.used.energy_j
    change = f"{_share(other.used.energy_j, told.used.energy_j)} energy ({_signed(change_j)})"
    if other.broken is not None:
        return f"{_broken(other, problem)}, for {change}{needs}"
    better = change_j < -NOTHING * told.used.energy_j
    said = "; this plan is better, the one explained is not the best" if better else ""
    time = f"{_share(other.used.time_s, told.used.time_s)} time"
    return f"{change}, {time}{needs}{said}"


def _broken(other: Alternative, problem: Problem) -> str:
    budget, used = problem.budget, other.used
    rule = other.broken.rule if other.broken is not None else ""
    if rule == "ram":
        held, moment = worst_moment(used, problem.graph)
        over = held - budget.ram_bytes
        return f"would hold {held:,} bytes at {moment}, {over:,} over the budget"
    if rule == "deadline" and budget.time_s is not None:
        over_s = human_s(used.time_s - budget.time_s)
        return f"would take {human_s(used.time_s)}, {over_s} over the deadline"
    return f"would break a rule: {other.broken}"


def _share(value: float, of: float) -> str:
    return f"{value / of - 1:+.2%}" if of else "+0.00%"


def _signed(joules: float) -> str:
    return f"{'-' if joules < 0 else '+'}{human_j(abs(joules))}"
