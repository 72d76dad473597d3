"""Examples divided anew: over any number of partitions, unevenly by class or by size.

A workload has natural partitions, such as one per person. To try a larger or a more uneven fleet, its
training examples are put together and dealt again. Whatever the way, every example is in one partition, and
every partition has as many as are asked for at least.
"""

from __future__ import annotations

import heapq
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from scheduler.errors import BadInput

from .workload import Examples, Workload

Positions = NDArray[np.int64]
Form = Literal["dirichlet", "power-law"]


def redivided(
    workload: Workload,
    form: Form,
    *,
    alpha: float,
    partitions: int,
    generator: np.random.Generator,
    least: int | None = None,
) -> Workload:
    """The workload with its training examples dealt to `partitions` anew; the test stays.

    `dirichlet` and `power-law` are the functions below; `alpha` is the concentration or the exponent. A
    partition has at least `least` examples; None asks for a whole batch. Loads all training examples.

    Raises BadInput for too few examples, and for a Dirichlet split of targets that are not class numbers.
    """
    parts = [workload.examples(n) for n in range(workload.partitions)]
    x, y = torch.cat([p.x for p in parts]), torch.cat([p.y for p in parts])
    least = workload.batch_size if least is None else least
    if form == "power-law":
        dealt = power_law(len(y), partitions, exponent=alpha, generator=generator, least=least)
    elif y.dim() != 1 or y.is_floating_point():
        raise BadInput(
            f"workload {workload.name!r} has no class number per example, which a Dirichlet split goes by"
        )
    else:
        dealt = dirichlet(y.numpy(), partitions, alpha=alpha, generator=generator, least=least)

    def data(partition: int) -> Examples:
        chosen = torch.from_numpy(dealt[partition])
        return Examples(x=x[chosen], y=y[chosen])

    return replace(workload, partitions=partitions, data=data)


def dirichlet(
    labels: NDArray[np.integer],
    partitions: int,
    *,
    alpha: float,
    generator: np.random.Generator,
    least: int = 1,
) -> tuple[Positions, ...]:
    """Positions of each partition's examples, in ascending order; `labels` are class numbers [n].

    Every class is dealt in shares drawn from a Dirichlet distribution of concentration `alpha`: about
    equal shares when it is large, one partition with nearly the whole class when it is small. Partitions
    with fewer than `least` then take examples, drawn at random, from whichever has most.

    Raises BadInput for too few examples, and for an alpha that is not more than 0 and at most 1e6.
    """
    _require(len(labels), partitions, least)
    if not 0 < alpha <= 1e6:
        raise BadInput(f"alpha of a Dirichlet split must be more than 0, at most 1e6, not {alpha}")
    owner = np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        positions = generator.permutation(np.flatnonzero(labels == label))
        shares = generator.dirichlet(np.full(partitions, alpha))
        cuts = np.round(np.cumsum(shares)[:-1] * len(positions)).astype(np.int64)
        owner[positions] = np.searchsorted(cuts, np.arange(len(positions)), side="right")
    return _topped_up(_by_owner(owner, partitions), least, generator)


def power_law(
    count: int,
    partitions: int,
    *,
    exponent: float,
    generator: np.random.Generator,
    least: int = 1,
) -> tuple[Positions, ...]:
    """Positions of each partition's examples, out of `count`, in ascending order.

    Beyond `least` examples each, the partition of rank r, from 1, gets a share in proportion to
    r**-exponent: 0 makes all equal, and with 1 the largest has twice as many as the second. Who has which
    rank, and which examples, is drawn at random.

    Raises BadInput for too few examples, and for an exponent that is not from 0 to 10.
    """
    _require(count, partitions, least)
    if not 0 <= exponent <= 10:
        raise BadInput(f"the exponent of a power law must be from 0 to 10, not {exponent}")
    weights = np.arange(1, partitions + 1, dtype=np.float64) ** -exponent
    spare = count - least * partitions
    # Rounding the running sum, not each share, makes the sizes add up.
    ends = np.round(np.cumsum(weights) / weights.sum() * spare).astype(np.int64)
    sizes = generator.permutation(least + np.diff(ends, prepend=0))
    owner = np.empty(count, dtype=np.int64)
    owner[generator.permutation(count)] = np.repeat(np.arange(partitions), sizes)
    return _by_owner(owner, partitions)


def _require(count: int, partitions: int, least: int) -> None:
    if partitions < 1 or least < 0:
        raise BadInput(
            f"a split needs 1 partition or more, of 0 examples or more, not {partitions} of {least}"
        )
    if count < partitions * least:
        raise BadInput(
            f"{count:,} examples are too few for {partitions:,} partitions of at least {least:,}; "
            f"ask for {count // least:,} partitions or fewer, or for a smaller batch"
        )


def _by_owner(owner: NDArray[np.int64], partitions: int) -> tuple[Positions, ...]:
    """Positions by the partition that owns them."""
    order = np.argsort(owner, kind="stable")
    ends = np.cumsum(np.bincount(owner, minlength=partitions))
    return tuple(np.split(order, ends[:-1]))


def _topped_up(
    parts: tuple[Positions, ...], least: int, generator: np.random.Generator
) -> tuple[Positions, ...]:
    """The parts, after those with fewer than `least` took one example after another from the largest."""
    held = {n: list(part) for n, part in enumerate(parts)}
    largest = [(-len(part), n) for n, part in held.items() if len(part) > least]
    heapq.heapify(largest)
    for part in held.values():
        while len(part) < least:
            size, donor = heapq.heappop(largest)
            part.append(held[donor].pop(int(generator.integers(-size))))
            if -size - 1 > least:
                heapq.heappush(largest, (size + 1, donor))
    return tuple(np.sort(np.array(part, dtype=np.int64)) for part in held.values())
