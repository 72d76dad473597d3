"""The training steps that `prove_ram` trains under a limit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import nn

from benchmarks import models
from benchmarks.drawn import Draw, masks, pictures, sequences, texts
from benchmarks.networks import Stack, UNet, bert, resnet18, vgg16


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A training step and the shares of keep-all's RAM, or of the model's, that it is to train in."""

    name: str
    build: Callable[[], nn.Module]
    draw: Draw
    batch: int
    optimizer: models.Optimizer = models.sgd
    shares: tuple[str, ...] = ("40%", "20%")
    steps: int = 4


CASES = (
    Case(name="resnet18 batch 64", build=resnet18, draw=pictures, batch=64),
    Case(name="vgg16 batch 64", build=vgg16, draw=pictures, batch=64),
    Case(name="unet batch 8", build=partial(UNet, 32, 2), draw=masks, batch=8),
    Case(name="bert4 batch 16", build=partial(bert, 4, 512), draw=texts, batch=16),
    Case(
        name="resnet18 batch 8, Adam",
        build=resnet18,
        draw=pictures,
        batch=8,
        optimizer=models.adam,
        shares=("60% of the model",),
    ),
    # Its parameters alone, without gradients and state, are more than the budget.
    Case(
        name="stack 12 batch 4, Adam",
        build=partial(Stack, 12, 512, 8, 12),
        draw=partial(sequences, features=512),
        batch=4,
        optimizer=models.adam,
        shares=("20% of the model",),
    ),
)
QUICK = (
    Case(name="resnet18 / 4", build=partial(resnet18, width=16), draw=pictures, batch=32, steps=2),
    Case(
        name="resnet18 / 2, Adam",
        build=partial(resnet18, width=32),
        draw=pictures,
        batch=2,
        optimizer=models.adam,
        shares=("60% of the model",),
        steps=2,
    ),
)
