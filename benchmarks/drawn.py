"""Random batches for the networks of the benchmarks."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

Batch: TypeAlias = tuple[Tensor, Tensor]
Draw: TypeAlias = Callable[[int, torch.Generator], Batch]


def pictures(size: int, generator: torch.Generator) -> Batch:
    x = torch.randn(size, 3, 32, 32, generator=generator)
    return x, torch.randint(0, 10, (size,), generator=generator)


def vectors(size: int, generator: torch.Generator, features: int = 784) -> Batch:
    x = torch.randn(size, features, generator=generator)
    return x, torch.randint(0, 10, (size,), generator=generator)


def masks(size: int, generator: torch.Generator, pixels: int = 64) -> Batch:
    x = torch.randn(size, 3, pixels, pixels, generator=generator)
    return x, torch.randint(0, 2, (size, pixels, pixels), generator=generator)


def sequences(
    size: int, generator: torch.Generator, features: int = 40, steps: int = 64, classes: int = 12
) -> Batch:
    x = torch.randn(size, steps, features, generator=generator)
    return x, torch.randint(0, classes, (size,), generator=generator)


def texts(size: int, generator: torch.Generator) -> Batch:
    x = torch.randint(0, 30522, (size, 128), generator=generator)
    return x, torch.randint(0, 2, (size,), generator=generator)
