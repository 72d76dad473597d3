"""A fixed address for everything that a plan holds in RAM, so that one block of bytes serves it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from .blocks import Block
from .graph import Graph
from .packing import pack
from .plan import Compute, Free, PageIn, PageOut, Plan
from .problem import Budget, Problem
from .replay import resident_at_start

# About how many blocks are placed on trial where the peak is not reached at once.
EFFORT = 200_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """A stay of a tensor in RAM, or the workspace of an operator's run, and its address.

    The bytes are its own from the first to the last step, both included: a stay begins with the
    Compute or PageIn that brings the tensor (or with step 0) and ends with its Free (or the last
    step). Exactly one of `tensor` and `operator` is set.
    """

    tensor: int | None = None
    operator: int | None = None
    first_step: int
    last_step: int
    offset_bytes: int
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Arena:
    """Where everything stands. `total_bytes` is never less than the plan's peak."""

    slots: tuple[Placement, ...]
    total_bytes: int
    align_bytes: int


def arena(
    plan: Plan,
    problem: Problem,
    *,
    align_bytes: int = 1,
    generator: np.random.Generator | None = None,
    effort: int = EFFORT,
) -> Arena:
    """Addresses that are multiples of `align_bytes`, in as few bytes as are found.

    A persistent tensor that lives in RAM ends the step where it began it, since the step repeats; in
    between it may be paged in to another place. The plan must be valid. It counts in plan order, so
    that it holds beside paging too (`overlap`). The same generator state gives the same addresses.
    """
    stays = tuple(_stays(plan, problem.graph))
    at = pack(
        [Block(size_bytes=_aligned(s.size_bytes, align_bytes), spans=s.spans) for s in stays],
        generator or np.random.default_rng(0),
        effort,
    )
    slots = tuple(
        Placement(
            tensor=stay.tensor,
            operator=stay.operator,
            first_step=first,
            last_step=last,
            offset_bytes=offset,
            size_bytes=stay.size_bytes,
        )
        for stay, offset in zip(stays, at, strict=True)
        for first, last in stay.spans
    )
    total = max((s.offset_bytes + s.size_bytes for s in slots), default=0)
    return Arena(slots=slots, total_bytes=total, align_bytes=align_bytes)


def arena_bytes(plan: Plan, problem: Problem) -> int:
    """Bytes of an arena for the plan, to stand beside its peak."""
    return arena(plan, problem).total_bytes


def fits(found: Arena, budget: Budget) -> bool:
    """Whether one block of the budget's RAM is enough."""
    return found.total_bytes <= budget.ram_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stay:
    """What needs one address; two spans where a tensor leaves and ends the step where it began."""

    tensor: int | None = None
    operator: int | None = None
    size_bytes: int
    spans: tuple[tuple[int, int], ...]


def _stays(plan: Plan, graph: Graph) -> Iterator[_Stay]:
    """Everything of more than no bytes, with the first and last step that needs it."""
    size = [t.size_bytes for t in graph.tensors]
    since = dict.fromkeys(sorted(resident_at_start(graph, plan.paged_at_start)), 0)
    from_start = set(since)
    left: dict[int, int] = {}
    for n, step in enumerate(plan.steps):
        match step:
            case Compute(operator):
                op = graph.operators[operator]
                since.update(dict.fromkeys(op.outputs, n))
                if op.workspace_bytes:
                    yield _Stay(operator=operator, size_bytes=op.workspace_bytes, spans=((n, n),))
            case PageIn(k):
                since[k] = n
            case Free(k):
                first = since.pop(k)
                if k in from_start and k not in left and graph.is_persistent(k):
                    # It ends the step in RAM again, and there its first address is waited for.
                    left[k] = n
                elif size[k]:
                    yield _Stay(tensor=k, size_bytes=size[k], spans=((first, n),))
            case PageOut():
                pass
    last = len(plan.steps) - 1
    for k, first in since.items():
        spans = ((0, left[k]), (first, last)) if k in left else ((first, last),)
        if size[k]:
            yield _Stay(tensor=k, size_bytes=size[k], spans=spans)


def _aligned(size_bytes: int, align_bytes: int) -> int:
    return -(-size_bytes // align_bytes) * align_bytes
