"""Who takes part in a round."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from scheduler.errors import BadInput

Sampler = Callable[[Sequence[int]], tuple[int, ...]]
"""From the ids of all nodes, in ascending order, to the cohort of the next round."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quorum:
    """How many nodes a run waits for, and how long. `pause_s(seconds)` lets time pass."""

    nodes: int
    timeout_s: float
    pause_s: Callable[[float], None]
    look_every_s: float = 1.0


def everyone(nodes: Sequence[int]) -> tuple[int, ...]:
    """Every node in every round."""
    return tuple(nodes)


def uniform(size: int, generator: np.random.Generator) -> Sampler:
    """`size` nodes at random, or all when there are fewer; `generator` is drawn from once per round."""
    if size < 1:
        raise BadInput(f"a cohort has 1 node or more, not {size}")

    def sample(nodes: Sequence[int]) -> tuple[int, ...]:
        chosen = generator.choice(len(nodes), size=min(size, len(nodes)), replace=False)
        return tuple(sorted(nodes[i] for i in chosen))

    return sample
