"""Problems traced from torch: sections 2 and 3."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch

from benchmarks.models import STEPS, Step, transformer_stack
from benchmarks.points import GROWTH, TRACED, Point, budgets
from client.prepare import pose_step
from scheduler import Problem, load_device

DEVICE = "raspberry-pi-4b"
# Encoder layers that make about 100, 250, 500, 1,000 and 2,000 operators.
LAYERS = (3, 8, 17, 33, 67)
UNJOINED = 10**6


def posed(step: Step, max_operators: int | None = None, *, overlap: bool = True) -> Problem:
    """The planning problem of a step, everything counted as RAM; the seed is fixed.

    Without `overlap` paging waits for compute, as today's executor pages.
    """
    torch.manual_seed(0)
    module = step.build().train()
    optimizer = step.optimizer(module.parameters())
    options = {} if max_operators is None else {"max_operators": max_operators}
    device = load_device(DEVICE)
    device = replace(device, overlap=device.overlap and overlap)
    return pose_step(module, step.loss, optimizer, step.batch(), device=device, **options).problem


def models(
    wanted: Callable[[str], bool],
    *,
    shares: tuple[str, ...],
    deadline: float | None,
    overlap: bool,
) -> Iterator[Point]:
    """Section 2: the networks of `models`, at budgets down to little more than the floor."""
    how = "beside compute" if overlap else "one after another"
    for step in STEPS:
        if wanted(step.name):
            yield from budgets(
                f"2. traced models on {DEVICE}, paging {how}",
                step.name,
                posed(step, overlap=overlap),
                TRACED,
                deadlines=(deadline,),
                shares=shares,
            )


def stacks(
    wanted: Callable[[str], bool], *, layers: tuple[int, ...], deadline: float | None
) -> Iterator[Point]:
    """Section 3: transformer stacks of growing depth, at half of what keep-all needs."""
    for count in layers:
        step = transformer_stack(count)
        if wanted(step.name):
            yield from budgets(
                "3. growth: transformer stacks",
                step.name,
                posed(step, UNJOINED),
                GROWTH,
                deadlines=(deadline,),
                shares=("50%",),
            )
