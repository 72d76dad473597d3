"""A plan with one tensor handled in another way in one gap, everything else as it was."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from .graph import Graph
from .handling import Gap, Way
from .liveness import with_frees
from .plan import Compute, Free, PageIn, PageOut, Plan, Step
from .problem import Problem
from .prune import without_useless
from .replay import resident_at_start


@dataclass(frozen=True, slots=True)
class Impossible:
    """No plan takes this way, whatever the budget."""

    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Reworked:
    """The changed plan, not checked; `brings_back` are tensors moved for the sake of a rerun."""

    plan: Plan
    brings_back: tuple[int, ...] = ()


def rework(way: Way, gap: Gap, plan: Plan, problem: Problem) -> tuple[Reworked, ...] | Impossible:
    """Plans that take `way` in `gap`; several where the inputs of a rerun can be had in several ways."""
    match way:
        case Way.KEPT:
            return (_kept(gap, plan, problem),)
        case Way.PAGED:
            return _paged(gap, plan, problem)
        case Way.RECOMPUTED:
            return _recomputed(gap, plan, problem)


def _kept(gap: Gap, plan: Plan, problem: Problem) -> Reworked:
    edit = _Edit(plan, gap)
    home = plan.paged_at_start
    if gap.between_steps:
        home = tuple(k for k in home if k != gap.tensor)
        # Later gaps may read the copy that would not be there at the start any more.
        edit.after[-1].append(PageOut(gap.tensor))
    return Reworked(plan=edit.made(problem, home))


def _paged(gap: Gap, plan: Plan, problem: Problem) -> tuple[Reworked, ...] | Impossible:
    tensor = problem.graph.tensors[gap.tensor]
    if not tensor.pageable:
        return Impossible(f"{tensor.name} may not go to the page store")
    edit = _Edit(plan, gap)
    edit.page_out_after(gap.begin, gap.tensor)
    home = plan.paged_at_start
    if gap.between_steps:
        home = tuple(sorted({*home, gap.tensor}))
    if not (gap.between_steps and gap.end == len(plan.steps)):
        edit.before[gap.end].append(PageIn(gap.tensor))
    return (Reworked(plan=edit.made(problem, home)),)


def _recomputed(gap: Gap, plan: Plan, problem: Problem) -> tuple[Reworked, ...] | Impossible:
    graph = problem.graph
    name = graph.tensors[gap.tensor].name
    operator = graph.producer.get(gap.tensor)
    if operator is None:
        return Impossible(f"{name} is there before the step: no operator computes it")
    moment = _moment(plan, graph, gap.end)
    why = _no_rerun(graph, operator, moment.stage)
    if why is not None:
        return Impossible(why)
    places = {gap.end: moment}
    after_last_run = _after_last_run(plan, gap.end)
    if after_last_run > gap.begin:
        places[after_last_run] = _moment(plan, graph, after_last_run)
    return tuple(
        made for there in places.values() for made in _reruns(gap, plan, problem, operator, there)
    )


def _reruns(
    gap: Gap, plan: Plan, problem: Problem, operator: int, moment: _Moment
) -> Iterator[Reworked]:
    """Plans that rerun at a moment; of the inputs that are missing then, none, some or all are kept."""
    ways = _Ways(problem, moment)
    inputs = problem.graph.operators[operator].inputs
    missing = sorted(set(inputs) - moment.resident, key=lambda k: (-ways.cost_j(k), k))
    for count in range(len(missing) + 1):
        edit = _Edit(plan, gap)
        brought = ways.add_rerun(edit, operator, frozenset(missing[:count]))
        made = edit.made(problem, plan.paged_at_start)
        yield Reworked(plan=made, brings_back=tuple(brought))


def _after_last_run(plan: Plan, position: int) -> int:
    """The place behind the operator run before `position`, and behind the frees that follow it."""
    steps = plan.steps
    runs = (p for p in range(position - 1, -1, -1) if isinstance(steps[p], Compute))
    place = next(runs, -1) + 1
    while place < position and isinstance(steps[place], Free):
        place += 1
    return place


def _no_rerun(graph: Graph, operator: int, stage: int) -> str | None:
    """Why an operator may not run again in a stage, or None when it may."""
    if graph.can_rerun(operator, stage):
        return None
    op = graph.operators[operator]
    if not op.recomputable:
        return f"{op.name} must not run twice"
    changed = next(k for k in op.inputs if any(operator < m < stage for m in graph.mutators[k]))
    return f"{op.name} reads {graph.tensors[changed].name}, which was changed in place since"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Moment:
    """What is in RAM and in the page store right before a step of a plan, in its current content."""

    position: int
    stage: int
    resident: frozenset[int]
    stored: frozenset[int]
    last_touch: dict[int, int]


def _moment(plan: Plan, graph: Graph, position: int) -> _Moment:
    resident = resident_at_start(graph, plan.paged_at_start)
    stored = set(plan.paged_at_start)
    touched: dict[int, int] = {}
    stage = 0
    for place, step in enumerate(plan.steps[:position]):
        match step:
            case Compute(operator):
                op = graph.operators[operator]
                resident.update(op.outputs)
                touched.update(dict.fromkeys((*op.inputs, *op.outputs), place))
                if operator == stage:
                    stored.difference_update(op.mutates)
                    stage += 1
            case Free(tensor):
                resident.discard(tensor)
            case PageOut(tensor):
                stored.add(tensor)
            case PageIn(tensor):
                resident.add(tensor)
    return _Moment(
        position=position,
        stage=stage,
        resident=frozenset(resident),
        stored=frozenset(stored),
        last_touch=touched,
    )


class _Ways:
    """How tensors that are not resident at a moment can be brought back, and for how many joules."""

    def __init__(self, problem: Problem, moment: _Moment) -> None:
        self.graph, self.costs, self.moment = problem.graph, problem.costs, moment
        self._known: dict[int, tuple[float, bool]] = {}

    def cost_j(self, k: int) -> float:
        """The cheaper of paging and recomputing, 0 for a resident tensor."""
        return self._best(k)[0]

    def _best(self, k: int) -> tuple[float, bool]:
        """Joules of the cheapest way back, and whether that is a rerun."""
        if k in self.moment.resident:
            return 0.0, False
        if k not in self._known:
            page_j, rerun_j = self._page_j(k), self._rerun_j(k)
            self._known[k] = min(page_j, rerun_j), rerun_j < page_j
        return self._known[k]

    def _page_j(self, k: int) -> float:
        if not self.graph.tensors[k].pageable:
            return float("inf")
        out = 0.0 if k in self.moment.stored else self.costs.total_j(self.costs.page_out[k])
        return out + self.costs.total_j(self.costs.page_in[k])

    def _rerun_j(self, k: int) -> float:
        operator = self.graph.producer.get(k)
        if operator is None or not self.graph.can_rerun(operator, self.moment.stage):
            return float("inf")
        own_j = self.costs.total_j(self.costs.operators[operator])
        return own_j + sum(self._best(i)[0] for i in self.graph.operators[operator].inputs)

    def add_rerun(self, edit: _Edit, operator: int, kept: frozenset[int]) -> list[int]:
        """Add a rerun at the moment, and what brings back its inputs; returns those."""
        brought: list[int] = []
        self._add_rerun(edit, edit.before[self.moment.position], operator, kept, brought)
        return brought

    def _add_rerun(
        self,
        edit: _Edit,
        steps: list[Step],
        operator: int,
        kept: frozenset[int],
        brought: list[int],
    ) -> None:
        for k in self.graph.operators[operator].inputs:
            if k in self.moment.resident or k in kept or k in brought:
                continue
            brought.append(k)
            cost_j, by_rerun = self._best(k)
            if by_rerun:
                self._add_rerun(edit, steps, self.graph.producer[k], kept, brought)
            elif cost_j < float("inf"):
                edit.page_out_after(self.moment.last_touch.get(k, -1), k)
                steps.append(PageIn(k))
        steps.append(Compute(operator))


@dataclass(slots=True)
class _Edit:
    """A plan's computes and moves, to which some are added; the gap's own way back is left out."""

    plan: Plan
    gap: Gap
    before: dict[int, list[Step]] = field(default_factory=lambda: defaultdict(list))
    after: dict[int, list[Step]] = field(default_factory=lambda: defaultdict(list))

    def page_out_after(self, position: int, k: int) -> None:
        """Add a page-out after a step; `made` drops it where a valid copy is there already."""
        self.after[position].append(PageOut(k))

    def made(self, problem: Problem, paged_at_start: tuple[int, ...]) -> Plan:
        """The plan with its frees, and without moves that nothing needs any more."""
        arrival = {p for p in self.gap.moves[-1:] if not isinstance(self.plan.steps[p], PageOut)}
        steps = list(self.after[-1])
        for position, step in enumerate(self.plan.steps):
            steps += self.before[position]
            if not isinstance(step, Free) and position not in arrival:
                steps.append(step)
            steps += self.after[position]
        end = len(self.plan.steps)
        steps += (*self.before[end], *self.after[end])
        graph = problem.graph
        moves = without_useless(graph, tuple(steps), paged_at_start)
        return Plan(
            graph_digest=graph.digest,
            budget=problem.budget,
            steps=with_frees(graph, moves, paged_at_start),
            paged_at_start=paged_at_start,
        )
