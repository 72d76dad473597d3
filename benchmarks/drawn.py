"""Random batches, for trainings whose numbers are compared; `models` has those for planning alone."""

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


def vectors(size: int, generator: torch.Generator) -> Batch:
    x = torch.randn(size, 784, generator=generator)
    return x, torch.randint(0, 10, (size,), generator=generator)


def masks(size: int, generator: torch.Generator) -> Batch:
    x = torch.randn(size, 3, 64, 64, generator=generator)
    return x, torch.randint(0, 2, (size, 64, 64), generator=generator)


def sequences(size: int, generator: torch.Generator, features: int = 40) -> Batch:
    x = torch.randn(size, 64, features, generator=generator)
    return x, torch.randint(0, 12, (size,), generator=generator)


def texts(size: int, generator: torch.Generator) -> Batch:
    x = torch.randint(0, 30522, (size, 128), generator=generator)
    return x, torch.randint(0, 2, (size,), generator=generator)
