"""The law: what a valid plan is, rule by rule. Shares no code with the formulation.

same-graph      the plan was made for this graph, in a version of the format that is known here
same-budget     the plan was made for a budget no larger than the problem's
known-ids       steps name operators and tensors that exist
start           only persistent, pageable tensors live in the page store between steps
graph-order     operators run for the first time in graph order, each at least once
run-once        an operator that is not recomputable runs once
inputs          an operator's inputs are resident, with the content they had at its first run
outputs         an operator's outputs are not resident when it runs
free            only a resident tensor is freed
page-out        only a resident, pageable tensor is paged out
page-in         only a tensor with a valid page copy, and not resident, is paged in
end             persistent tensors end where they began, results are resident, nothing else is
ram, page-store, deadline   at no step does `replay` find more than the budget
"""

from __future__ import annotations

from bisect import bisect_left

from .errors import InvalidPlan
from .graph import SOURCES, Graph
from .plan import PLAN_VERSION, Compute, Free, PageIn, PageOut, Plan
from .problem import Problem
from .replay import Replay, replay

MOVES = (Free, PageOut, PageIn)
# The deadline is a sum of floating-point times: it may differ in the last digits.
TIME_TOLERANCE = 1e-9


def check(plan: Plan, problem: Problem) -> Replay:
    """What a valid plan uses. Raises InvalidPlan with the first rule that the plan breaks."""
    _check_made_for(plan, problem)
    walk = _Walk(problem.graph, plan)
    for position, step in enumerate(plan.steps):
        walk.take(position, step)
    walk.end()
    return _within_budget(plan, problem)


def is_valid(plan: Plan, problem: Problem) -> bool:
    """Whether the plan passes `check`."""
    try:
        check(plan, problem)
    except InvalidPlan:
        return False
    return True


def _check_made_for(plan: Plan, problem: Problem) -> None:
    if plan.version != PLAN_VERSION:
        raise InvalidPlan(
            "same-graph", f"plan format {plan.version} is not known; this is format {PLAN_VERSION}"
        )
    if plan.graph_digest != problem.graph.digest:
        raise InvalidPlan(
            "same-graph",
            f"the plan is for graph {plan.graph_digest[:12]}, "
            f"the problem has {problem.graph.digest[:12]}: plan again",
        )
    have, want = plan.budget, problem.budget
    for name in ("ram_bytes", "time_s", "page_store_bytes"):
        mine, limit = getattr(have, name), getattr(want, name)
        if limit is not None and (mine is None or mine > limit * (1 + TIME_TOLERANCE)):
            raise InvalidPlan(
                "same-budget", f"the plan was made for {name} {mine}, the problem allows {limit}"
            )
    graph = problem.graph
    for tensor in plan.paged_at_start:
        if not 0 <= tensor < len(graph.tensors):
            raise InvalidPlan(
                "known-ids",
                f"paged_at_start names tensor {tensor}; the graph has {len(graph.tensors)}",
            )
        if not (graph.is_persistent(tensor) and graph.tensors[tensor].pageable):
            raise InvalidPlan(
                "start", f"{graph.tensors[tensor].name} cannot live in the page store between steps"
            )
    if len(set(plan.paged_at_start)) != len(plan.paged_at_start):
        raise InvalidPlan("start", "paged_at_start names a tensor twice")


class _Walk:
    """State while walking a plan: `version[k]` counts the in-place changes of tensor k so far."""

    def __init__(self, graph: Graph, plan: Plan) -> None:
        self.graph, self.plan = graph, plan
        self.paged = frozenset(plan.paged_at_start)
        self.version = [0] * len(graph.tensors)
        self.resident = {
            t.id for t in graph.tensors if t.kind in SOURCES and t.id not in self.paged
        }
        self.stored = dict.fromkeys(self.paged, 0)
        self.next_new = 0

    def take(self, position: int, step: object) -> None:
        if isinstance(step, Compute):
            if not 0 <= step.operator < len(self.graph.operators):
                raise _unknown(position, "operator", step.operator, len(self.graph.operators))
            self._compute(position, step.operator)
        elif isinstance(step, MOVES):
            if not 0 <= step.tensor < len(self.graph.tensors):
                raise _unknown(position, "tensor", step.tensor, len(self.graph.tensors))
            self._move(position, step, step.tensor)
        else:
            raise InvalidPlan("known-ids", f"{step!r} is not a step", position)

    def _compute(self, position: int, operator: int) -> None:
        op = self.graph.operators[operator]
        first = operator == self.next_new
        if operator > self.next_new:
            wanted = self.graph.operators[self.next_new].name
            raise InvalidPlan("graph-order", f"{op.name} runs before {wanted} ever ran", position)
        if not first and not op.recomputable:
            raise InvalidPlan("run-once", f"{op.name} must not run twice", position)
        for k in op.inputs:
            self._require_input(position, operator, k, first)
        if present := [k for k in op.outputs if k in self.resident]:
            names = ", ".join(self.graph.tensors[k].name for k in present)
            raise InvalidPlan(
                "outputs", f"{op.name} computes {names}, resident already: free it first", position
            )
        self.resident.update(op.outputs)
        if first:
            self.next_new += 1
            for k in op.mutates:
                self.version[k] += 1

    def _require_input(self, position: int, operator: int, k: int, first: bool) -> None:
        op, name = self.graph.operators[operator], self.graph.tensors[k].name
        if k not in self.resident:
            raise InvalidPlan("inputs", f"{op.name} reads {name}, which is not resident", position)
        seen = bisect_left(self.graph.mutators[k], operator)
        # What an operator changed itself does not count: a rerun leaves that tensor as it is.
        own = 1 if not first and k in op.mutates else 0
        if self.version[k] != seen + own:
            raise InvalidPlan(
                "inputs", f"{op.name} reads {name} after it was changed in place", position
            )

    def _move(self, position: int, step: object, tensor: int) -> None:
        item = self.graph.tensors[tensor]
        here = tensor in self.resident
        if isinstance(step, Free):
            if not here:
                raise InvalidPlan("free", f"{item.name} is not resident", position)
            self.resident.remove(tensor)
        elif isinstance(step, PageOut):
            if not (here and item.pageable):
                why = "is not pageable" if here else "is not resident"
                raise InvalidPlan("page-out", f"{item.name} {why}", position)
            self.stored[tensor] = self.version[tensor]
        else:
            if here:
                raise InvalidPlan("page-in", f"{item.name} is resident already", position)
            if self.stored.get(tensor) != self.version[tensor]:
                why = (
                    "has no page copy"
                    if tensor not in self.stored
                    else "was changed since it was paged out"
                )
                raise InvalidPlan("page-in", f"{item.name} {why}", position)
            self.resident.add(tensor)

    def end(self) -> None:
        if self.next_new < len(self.graph.operators):
            raise InvalidPlan(
                "graph-order", f"{self.graph.operators[self.next_new].name} never runs"
            )
        wanted = {t.id for t in self.graph.tensors if self.graph.is_persistent(t.id)} - self.paged
        wanted.update(self.graph.results)
        for k in sorted(wanted ^ self.resident):
            state = "is still resident" if k in self.resident else "is not resident"
            raise InvalidPlan("end", f"{self.graph.tensors[k].name} {state} when the step ends")
        for k in sorted(self.paged):
            if self.stored[k] != self.version[k]:
                raise InvalidPlan(
                    "end",
                    f"the new content of {self.graph.tensors[k].name} is not in the page store",
                )


def _unknown(position: int, what: str, value: int, count: int) -> InvalidPlan:
    message = f"{what} {value} does not exist; the graph has {count}"
    return InvalidPlan("known-ids", message, position)


def _within_budget(plan: Plan, problem: Problem) -> Replay:
    budget, used = problem.budget, replay(plan, problem)
    if used.start_bytes > budget.ram_bytes:
        raise InvalidPlan(
            "ram",
            f"{used.start_bytes} bytes are resident at the start, the budget is {budget.ram_bytes}",
        )
    if used.peak_bytes > budget.ram_bytes:
        position, ram_bytes = next(
            (n, held) for n, held in enumerate(used.ram_bytes) if held > budget.ram_bytes
        )
        raise InvalidPlan(
            "ram", f"{ram_bytes} bytes are held, the budget is {budget.ram_bytes}", position
        )
    limit = budget.page_store_bytes
    if limit is not None and used.page_store_peak_bytes > limit:
        raise InvalidPlan(
            "page-store", f"{used.page_store_peak_bytes} bytes are stored, the budget is {limit}"
        )
    if budget.time_s is not None and used.time_s > budget.time_s * (1 + TIME_TOLERANCE):
        raise InvalidPlan(
            "deadline", f"the step takes {used.time_s:.6g} s, the budget is {budget.time_s:.6g} s"
        )
    return used
