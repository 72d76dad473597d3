"""Addresses: checked by a law of its own, the search against brute force, and what a person expects."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler import (
    Budget,
    Compute,
    Free,
    InvalidPlan,
    PageIn,
    PageOut,
    Plan,
    Problem,
    check,
    keep_all,
    page_all,
    replay,
)
from scheduler.arena import Arena, Placement, arena, arena_bytes, fits
from scheduler.blocks import Block, Blocks, Effort
from scheduler.check_arena import check_arena
from scheduler.files import read_problem
from scheduler.packing import pack
from scheduler.skyline import search
from tests.scheduler.problems import chain, training_step
from tests.strategies import blocks, planned

PLENTY = 10**6


@settings(max_examples=200)
@given(planned(), st.sampled_from((1, 8)))
def test_every_arena_keeps_the_law_and_holds_the_peak(
    case: tuple[Problem, Plan], align_bytes: int
) -> None:
    problem, plan = case
    found = arena(plan, problem, align_bytes=align_bytes, effort=500)
    check_arena(found, plan, problem)
    assert found.align_bytes == align_bytes
    used = replay(plan, problem)
    assert found.total_bytes >= used.peak_bytes
    assert fits(found, Budget(ram_bytes=found.total_bytes))
    assert not fits(found, Budget(ram_bytes=found.total_bytes - 1))


def lowest_top(given: list[Block]) -> int:
    """The least bytes by brute force: some order, each block as low as it goes, is best."""
    best = PLENTY
    for order in permutations(given):
        placed: list[tuple[Block, int]] = []
        for block in order:
            met = [(b, at) for b, at in placed if meet(b, block)]
            spots = sorted({0, *(at + b.size_bytes for b, at in met)})
            free = [
                s
                for s in spots
                if all(at + b.size_bytes <= s or s + block.size_bytes <= at for b, at in met)
            ]
            placed.append((block, free[0]))
        best = min(best, max((at + b.size_bytes for b, at in placed), default=0))
    return best


def meet(one: Block, other: Block) -> bool:
    return any(a <= d and c <= b for a, b in one.spans for c, d in other.spans)


@settings(max_examples=150)
@given(blocks(most=6), st.randoms(use_true_random=False))
def test_the_search_is_complete(given: list[Block], draw: random.Random) -> None:
    """It finds addresses within the least bytes there are, in whatever order, and none within fewer."""
    least = lowest_top(given)
    data = Blocks(given)
    order = np.array(draw.sample(range(len(given)), len(given)))
    found = search(data, order, least, Effort(PLENTY, 1), PLENTY)
    assert found is not None
    assert data.top(found) == least
    assert search(data, order, least - 1, Effort(PLENTY, 1), PLENTY) is None


@settings(max_examples=100)
@given(blocks(most=12), st.integers(0, 100))
def test_packed_blocks_never_overlap_and_the_same_seed_packs_alike(
    given: list[Block], seed: int
) -> None:
    at = pack(given, np.random.default_rng(seed), 2000)
    for n, one in enumerate(given):
        assert at[n] >= 0
        for m in range(n):
            if meet(one, given[m]):
                assert at[m] + given[m].size_bytes <= at[n] or at[n] + one.size_bytes <= at[m]
    assert pack(given, np.random.default_rng(seed), 2000) == at


def test_the_peak_is_reached_where_no_single_order_reaches_it() -> None:
    """Forty blocks: the best order leaves gaps of 3 bytes, and the search closes them."""
    draw = random.Random(0)
    given = []
    for _ in range(40):
        first = draw.randint(0, 60)
        size_bytes = draw.choice((1, 2, 3, 5, 8, 13))
        spans = ((first, min(60, first + draw.randint(0, 25))),)
        given.append(Block(size_bytes=size_bytes, spans=spans))
    data = Blocks(given)
    assert data.peak_bytes == 58
    orders = pack(given, np.random.default_rng(0), 0)
    assert data.top(np.array(orders)) == 61
    found = pack(given, np.random.default_rng(0), 5000)
    assert data.top(np.array(found)) == 58


def test_no_blocks_need_no_bytes() -> None:
    assert pack([], np.random.default_rng(0), 100) == ()


INSTANCE = Path("tests/data/transformer-m4.json")


@pytest.mark.parametrize("make", [keep_all, page_all])
@pytest.mark.parametrize("problem", [chain(8), training_step(), read_problem(INSTANCE)])
def test_plain_plans_fit_an_arena_of_exactly_their_peak(
    make: Callable[[Problem], Plan], problem: Problem
) -> None:
    plan = make(problem)
    assert arena_bytes(plan, problem) == replay(plan, problem).peak_bytes


def away_and_back() -> tuple[Problem, Plan]:
    """The momentum lives in RAM, leaves it in the middle of the step, and is back for its update."""
    problem = training_step()
    steps = (
        *(PageOut(2), Free(2), Compute(0), Compute(1), Compute(2), Free(0), Free(3)),
        *(PageIn(2), Compute(3), Free(5)),
    )
    plan = Plan(graph_digest=problem.graph.digest, budget=problem.budget, steps=steps)
    check(plan, problem)
    return problem, plan


def test_a_tensor_at_home_in_ram_ends_the_step_where_it_began_it() -> None:
    problem, plan = away_and_back()
    found = arena(plan, problem)
    check_arena(found, plan, problem)
    first, second = [s for s in found.slots if s.tensor == 2]
    assert (first.first_step, first.last_step) == (0, 1)
    assert (second.first_step, second.last_step) == (7, 9)
    assert first.offset_bytes == second.offset_bytes
    workspace = [s for s in found.slots if s.operator == 3]
    assert [(s.first_step, s.size_bytes) for s in workspace] == [(8, 2)]


def changed(found: Arena, n: int, **changes: int) -> Arena:
    slots = list(found.slots)
    slots[n] = replace(slots[n], **changes)
    return replace(found, slots=tuple(slots))


def place_of(found: Arena, **wanted: int) -> int:
    return next(
        n for n, s in enumerate(found.slots) if all(getattr(s, f) == v for f, v in wanted.items())
    )


def home(found: Arena) -> int:
    return place_of(found, tensor=2, first_step=7)


def elsewhere(found: Arena) -> Arena:
    """The momentum comes back to a place of its own above all others."""
    moved = changed(found, home(found), offset_bytes=found.total_bytes)
    return replace(moved, total_bytes=found.total_bytes + 4)


BROKEN: dict[str, tuple[str, Callable[[Arena], Arena]]] = {
    "a stay left out": ("arena-cover", lambda a: replace(a, slots=a.slots[1:])),
    "a stay that ends too early": (
        "arena-cover",
        lambda a: changed(a, home(a), last_step=8),
    ),
    "a place for nothing": (
        "arena-cover",
        lambda a: replace(a, slots=(*a.slots, replace(a.slots[0], tensor=7))),
    ),
    "a workspace left out": (
        "arena-cover",
        lambda a: replace(a, slots=tuple(s for s in a.slots if s.operator is None)),
    ),
    "too few bytes": ("arena-size", lambda a: changed(a, home(a), size_bytes=3)),
    "a place beyond the end": ("arena-size", lambda a: replace(a, total_bytes=a.total_bytes - 1)),
    "a place before the start": ("arena-size", lambda a: changed(a, home(a), offset_bytes=-1)),
    "an address that is not aligned": ("arena-size", lambda a: replace(a, align_bytes=3)),
    "two tensors at one place": (
        "arena-overlap",
        lambda a: changed(
            a, place_of(a, tensor=4), offset_bytes=a.slots[place_of(a, tensor=1)].offset_bytes
        ),
    ),
    "another address at the end": ("arena-home", elsewhere),
}


@pytest.mark.parametrize(("rule", "spoil"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_arena_is_refused_by_its_rule(rule: str, spoil: Callable[[Arena], Arena]) -> None:
    problem, plan = away_and_back()
    with pytest.raises(InvalidPlan) as caught:
        check_arena(spoil(arena(plan, problem)), plan, problem)
    assert caught.value.rule == rule


def test_alignment_costs_what_it_must() -> None:
    """Four tensors of 10 bytes at once, each at a multiple of 64: the last ends at 3 * 64 + 10."""
    problem = chain(3)
    plan = keep_all(problem)
    assert replay(plan, problem).peak_bytes == 40
    found = arena(plan, problem, align_bytes=64)
    check_arena(found, plan, problem)
    assert found.total_bytes == 3 * 64 + 10
    assert arena_bytes(plan, problem) == 40
    assert all(isinstance(s, Placement) and s.size_bytes == 10 for s in found.slots)
