"""Tensors that the same operators make, read and change move together: one tensor stands for them all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from ..graph import Graph, Operator, Tensor
from ..liveness import with_frees
from ..plan import Compute, Free, PageIn, PageOut, Plan, Step
from ..problem import Cost, CostTable, Problem


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundles:
    """`members[b]` are the original tensors, largest first, that tensor b of the reduced problem is."""

    original: Problem
    reduced: Problem
    members: tuple[tuple[int, ...], ...]

    @property
    def all_single(self) -> bool:
        """Whether no two tensors were put together."""
        return len(self.members) == len(self.original.graph.tensors)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """Put tensors of one role together: same producer, readers, in-place changes and end.

    A bundle costs what its members cost, so plans keep their cost. With `proportional` its bytes cost
    what the cheapest byte among its members costs: the linear relaxation then bounds all plans of the
    original, also those that treat the members differently, since a part of the bundle stands for a part
    of the members and costs no more.
    """

    proportional: bool = False

    def apply(self, problem: Problem) -> tuple[Problem, Bundles]:
        """The problem with one tensor for each bundle."""
        graph, costs = problem.graph, problem.costs
        members = _members(graph)
        bundle_of = {k: b for b, ks in enumerate(members) for k in ks}
        charge = _cheapest_bytes if self.proportional else _sum
        size = [t.size_bytes for t in graph.tensors]

        def renamed(ks: Iterable[int]) -> tuple[int, ...]:
            return tuple(dict.fromkeys(bundle_of[k] for k in ks))

        reduced = Problem(
            graph=Graph(
                operators=tuple(_renamed(op, renamed) for op in graph.operators),
                tensors=tuple(_bundled(graph, b, ks) for b, ks in enumerate(members)),
                results=renamed(graph.results),
                name=graph.name,
            ),
            costs=CostTable(
                operators=costs.operators,
                page_in=tuple(charge(costs.page_in, size, ks) for ks in members),
                page_out=tuple(charge(costs.page_out, size, ks) for ks in members),
                idle_w=costs.idle_w,
                overlap=costs.overlap,
            ),
            budget=problem.budget,
        )
        return reduced, Bundles(original=problem, reduced=reduced, members=members)

    def invert(self, plan: Plan, inverse: Bundles) -> Plan:
        """Each step of a bundle becomes a step of every member."""
        steps: list[Step] = []
        for step in plan.steps:
            match step:
                case Compute():
                    steps.append(step)
                case Free(b) | PageOut(b) | PageIn(b):
                    steps += (type(step)(k) for k in inverse.members[b])
        return replace(
            plan,
            graph_digest=inverse.original.graph.digest,
            steps=tuple(steps),
            paged_at_start=tuple(
                sorted(k for b in plan.paged_at_start for k in inverse.members[b])
            ),
        )


def reduced_plan(plan: Plan, inverse: Bundles) -> Plan:
    """The plan that treats every bundle as the original plan treats its largest member.

    It need not keep the budget: the original may treat the members differently.
    """
    leader = {ks[0]: b for b, ks in enumerate(inverse.members)}
    steps: list[Step] = []
    for step in plan.steps:
        match step:
            case Compute():
                steps.append(step)
            case PageOut(k) | PageIn(k) if k in leader:
                steps.append(type(step)(leader[k]))
    paged = tuple(leader[k] for k in plan.paged_at_start if k in leader)
    graph = inverse.reduced.graph
    return replace(
        plan,
        graph_digest=graph.digest,
        steps=with_frees(graph, steps, paged),
        paged_at_start=paged,
    )


def _members(graph: Graph) -> tuple[tuple[int, ...], ...]:
    found: dict[object, list[int]] = {}
    results = frozenset(graph.results)
    for t in graph.tensors:
        role = (
            graph.producer.get(t.id),
            graph.is_persistent(t.id),
            t.pageable,
            t.id in results,
            graph.users[t.id],
            graph.mutators[t.id],
        )
        found.setdefault(role, []).append(t.id)
    size = [t.size_bytes for t in graph.tensors]
    return tuple(tuple(sorted(ks, key=lambda k: (-size[k], k))) for ks in found.values())


def _bundled(graph: Graph, bundle: int, ks: tuple[int, ...]) -> Tensor:
    first = graph.tensors[ks[0]]
    others = "" if len(ks) == 1 else f" (+{len(ks) - 1})"
    size_bytes = sum(graph.tensors[k].size_bytes for k in ks)
    return replace(first, id=bundle, name=first.name + others, size_bytes=size_bytes)


def _renamed(op: Operator, renamed: Callable[[Iterable[int]], tuple[int, ...]]) -> Operator:
    return replace(
        op, inputs=renamed(op.inputs), outputs=renamed(op.outputs), mutates=renamed(op.mutates)
    )


def _sum(costs: Sequence[Cost], size: Sequence[int], ks: tuple[int, ...]) -> Cost:  # noqa: ARG001
    return Cost(
        time_s=sum(costs[k].time_s for k in ks), energy_j=sum(costs[k].energy_j for k in ks)
    )


def _cheapest_bytes(costs: Sequence[Cost], size: Sequence[int], ks: tuple[int, ...]) -> Cost:
    if len(ks) == 1:
        return costs[ks[0]]
    whole = sum(size[k] for k in ks)
    used = [k for k in ks if size[k]]
    return Cost(
        time_s=whole * min((costs[k].time_s / size[k] for k in used), default=0.0),
        energy_j=whole * min((costs[k].energy_j / size[k] for k in used), default=0.0),
    )
