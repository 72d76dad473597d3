"""Addresses for blocks that are needed at known times, in as few bytes as possible.

The most bytes needed at one time, the peak, is a lower bound that cannot always be reached. First come
fixed orders, each block to the lowest gap that it fits. Then, until the peak is reached or the effort
is used up, two ways to improve take turns: a search from the ground up that cuts off whatever cannot
end below what is known (`skyline`), and orders in which blocks at the top come earlier.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from .blocks import Block, Blocks, Effort, Ints
from .skyline import search

# What the search and the changed orders may spend at a turn, in blocks placed per block.
PLACED_PER_TURN = 3
# How far noise moves a block in a varied order, as a share of all blocks.
NOISE = (0.02, 0.1, 0.3)
# A changed order that is worse is taken anyway at this rate, to leave a dead end.
WORSE_RATE = 0.02


def pack(blocks: Sequence[Block], generator: np.random.Generator, effort: int) -> tuple[int, ...]:
    """An address for each block; `effort` is about how many blocks are placed on trial in all."""
    data, left = Blocks(blocks), Effort(effort, len(blocks))
    if not data.count:
        return ()
    orders = _fixed_orders(data)
    climber = min((_Climber(data, o, generator) for o in orders), key=lambda c: c.best_bytes)
    best = climber.best
    for order in _varied(orders, generator):
        top = data.top(best)
        if top <= data.peak_bytes or left.is_spent:
            break
        share = generator.choice((0.0, 0.5, 0.9)) if generator.random() < 0.5 else 1.0
        aim = int(data.peak_bytes + share * (top - 1 - data.peak_bytes))
        found = search(data, order, aim, left, PLACED_PER_TURN * data.count)
        if found is not None:
            best = found
        climber.climb(left)
        if climber.best_bytes < data.top(best):
            best = climber.best
    return tuple(int(address) for address in best)


def _fixed_orders(data: Blocks) -> tuple[Ints, ...]:
    """Orders that are good for one kind of problem or another."""
    size, duration, crowd = data.size, data.durations(), data.crowds()
    start = data.first.min(axis=0)
    by = (
        (-size, -duration),
        (-duration, -size),
        (-size * duration,),
        (-crowd, -size),
        (-crowd, -duration, -size),
        (-crowd, -size * duration),
        (start, -duration),
    )
    # The last key of lexsort is the first that counts.
    return tuple(np.lexsort(keys[::-1]) for keys in by)


def _varied(orders: tuple[Ints, ...], generator: np.random.Generator) -> Iterator[Ints]:
    """The orders as they are, then with more or less noise, for ever."""
    yield from orders
    count = len(orders[0])
    while True:
        for order in orders:
            noise = generator.normal(0.0, generator.choice(NOISE) * count, count)
            yield order[np.argsort(np.arange(count) + noise)]


def first_fit(data: Blocks, order: Ints) -> Ints:
    """Each block in turn goes to the lowest gap between those it meets that were placed before."""
    address = np.zeros(data.count, dtype=np.int64)
    upper = np.zeros(data.count, dtype=np.int64)
    placed = np.zeros(data.count, dtype=np.bool_)
    for n in order.tolist():
        met = data.meeting(n, placed)
        lower = address[met]
        by_address = lower.argsort()
        # A gap begins where everything below it ends: at the ground, then after each block.
        ends = np.zeros(len(met) + 1, dtype=np.int64)
        np.maximum.accumulate(upper[met[by_address]], out=ends[1:])
        fits = lower[by_address] - ends[:-1] >= data.size[n]
        address[n] = ends[fits.argmax()] if fits.any() else ends[-1]
        upper[n] = address[n] + data.size[n]
        placed[n] = True
    return address


class _Climber:
    """Changes an order, one block at a time, for a lower top when the blocks are placed in turn."""

    def __init__(self, data: Blocks, order: Ints, generator: np.random.Generator) -> None:
        self.data, self.generator = data, generator
        self.order = order
        self.address = self.best = first_fit(data, order)
        self.bytes = self.best_bytes = data.top(self.address)

    def climb(self, left: Effort) -> None:
        """Try a few changes."""
        for _ in range(PLACED_PER_TURN):
            if left.is_spent or self.best_bytes <= self.data.peak_bytes:
                return
            order = self._changed()
            left.spend(self.data.count)
            address = first_fit(self.data, order)
            top = self.data.top(address)
            if top <= self.bytes or self.generator.random() < WORSE_RATE:
                self.order, self.address, self.bytes = order, address, top
                if top < self.best_bytes:
                    self.best, self.best_bytes = address, top

    def _changed(self) -> Ints:
        """A block at the top, or one that it rests on, comes earlier or changes places."""
        tower = self._tower()
        n = tower[0] if self.generator.random() < 0.5 else int(self.generator.choice(tower))
        at = int(np.flatnonzero(self.order == n)[0])
        if self.generator.random() < 0.5:
            before = np.zeros(self.data.count, dtype=np.bool_)
            before[self.order[:at]] = True
            earlier = self.data.meeting(n, before)
            if not earlier.size:
                return self.order
            other = int(np.flatnonzero(self.order == self.generator.choice(earlier))[0])
            order = self.order.copy()
            order[[at, other]] = order[[other, at]]
            return order
        to = int(self.generator.integers(at)) if at and self.generator.random() < 0.7 else 0
        return np.insert(np.delete(self.order, at), to, n)

    def _tower(self) -> list[int]:
        """A block at the top, one it rests on, and so on down to the ground."""
        upper = self.address + self.data.size
        tower = [int(self.generator.choice(np.flatnonzero(upper == upper.max())))]
        everyone = np.ones(self.data.count, dtype=np.bool_)
        while self.address[tower[-1]] > 0:
            met = self.data.meeting(tower[-1], everyone)
            under = met[upper[met] == self.address[tower[-1]]]
            tower.append(int(self.generator.choice(under)))
        return tower
