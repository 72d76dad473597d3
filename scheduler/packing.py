"""Addresses for blocks that are needed at known times, in as few bytes as possible.

The most bytes needed at one time, the peak, is a lower bound that cannot always be reached. First come
fixed orders, each block to the lowest gap that it fits. Then, until the peak is reached or the effort
is used up, two ways to improve take turns: a search from the ground up that cuts off whatever cannot
end below what is known (`skyline`), and orders in which blocks at the top come earlier.
"""

from __future__ import annotations

import math
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
# How many orders are changed in parallel: which of them gets lowest, the start does not tell.
CLIMBERS = 3
# Blocks of less than one in so many parts of the peak are small.
SMALL_SHARE = 50
# Large ones are packed first by themselves if they are at most this share of all.
LARGE_SHARE = 0.7


def pack(blocks: Sequence[Block], generator: np.random.Generator, effort: int) -> tuple[int, ...]:
    """An address for each block; `effort` is about how many blocks are placed on trial in all."""
    data = Blocks(blocks)
    if not data.count:
        return ()
    orders = _fixed_orders(data)
    large = np.flatnonzero(data.size * SMALL_SHARE >= data.peak_bytes)
    if 0 < large.size < LARGE_SHARE * data.count:
        # Where the large ones go decides most, and they are few: the others fit in between.
        left = Effort(effort // 2, large.size)
        few = Blocks([blocks[n] for n in large.tolist()])
        upwards = _improved(few, _fixed_orders(few), generator, left).argsort(kind="stable")
        others = orders[0][~np.isin(orders[0], large)]
        orders = (np.concatenate((large[upwards], others)), *orders)
    address = _improved(data, orders, generator, Effort(effort // 2, data.count))
    return tuple(int(a) for a in address)


def _improved(
    data: Blocks, orders: tuple[Ints, ...], generator: np.random.Generator, left: Effort
) -> Ints:
    """Addresses by the best of these orders, and by what is found from there."""
    climbers = _climbers(data, orders, generator)
    best = climbers[0].best
    for turn, order in enumerate(_varied(orders, generator)):
        top = data.top(best)
        if top <= data.peak_bytes or left.is_spent:
            break
        share = generator.choice((0.0, 0.5, 0.9)) if generator.random() < 0.5 else 1.0
        aim = int(data.peak_bytes + share * (top - 1 - data.peak_bytes))
        found = search(data, order, aim, left, PLACED_PER_TURN * data.count)
        climber = climbers[turn % len(climbers)]
        climber.climb(left)
        known = [best, climber.best] if found is None else [best, climber.best, found]
        best = min(known, key=data.top)
    return best


def _fixed_orders(data: Blocks) -> tuple[Ints, ...]:
    """Orders that are good for one kind of problem or another."""
    size, duration, crowd = data.size, data.durations(), data.crowds()
    start, end = data.first.min(axis=0), data.last.max(axis=0)
    magnitude = np.log2(size).astype(np.int64)
    by = (
        (-size, -duration),
        (-duration, -size),
        (-size * duration,),
        (-crowd, -size),
        (-crowd, -duration, -size),
        (-crowd, -size * duration),
        (start, -duration),
        # Blocks of one size, placed in the order of time, leave no gaps between them.
        (-size, start),
        (-size, -end),
        (-magnitude, start),
        (-magnitude, -end),
    )
    # The last key of lexsort is the first that counts.
    return tuple(np.lexsort(keys[::-1]) for keys in by)


def _climbers(
    data: Blocks, orders: tuple[Ints, ...], generator: np.random.Generator
) -> list[_Climber]:
    """Climbers from the best few orders, the best of all first; one is enough where it is perfect."""
    climbers: list[_Climber] = []
    for order in orders:
        climbers.append(_Climber(data, order, generator))
        if climbers[-1].best_bytes <= data.peak_bytes:
            break
    return sorted(climbers, key=lambda c: c.best_bytes)[:CLIMBERS]


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
    _place(data, order, address, 0, math.inf)
    return address


def _place(data: Blocks, order: Ints, address: Ints, start: int, limit_bytes: float) -> int:
    """Find addresses for the blocks from position `start` of the order on, those before have theirs.

    Returns how many it placed: it stops at a block that does not end within the limit.
    """
    placed = np.zeros(data.count, dtype=np.bool_)
    placed[order[:start]] = True
    upper = address + data.size
    for position, n in enumerate(order[start:].tolist()):
        met = data.meeting(n, placed)
        lower = address[met]
        by_address = lower.argsort()
        # A gap begins where everything below it ends: at the ground, then after each block.
        ends = np.zeros(len(met) + 1, dtype=np.int64)
        np.maximum.accumulate(upper[met[by_address]], out=ends[1:])
        fits = lower[by_address] - ends[:-1] >= data.size[n]
        address[n] = ends[fits.argmax()] if fits.any() else ends[-1]
        upper[n] = address[n] + data.size[n]
        if upper[n] > limit_bytes:
            return position
        placed[n] = True
    return data.count - start


class _Climber:
    """Changes an order, one block at a time, for a lower top when the blocks are placed in turn."""

    def __init__(self, data: Blocks, order: Ints, generator: np.random.Generator) -> None:
        self.data, self.generator = data, generator
        self.order = order
        self.address = self.best = first_fit(data, order)
        self.bytes = self.best_bytes = data.top(self.address)

    def climb(self, left: Effort) -> None:
        """Try some changes, at the price of placing every block a few times."""
        placed = 0
        while placed < PLACED_PER_TURN * self.data.count:
            if left.is_spent or self.best_bytes <= self.data.peak_bytes:
                return
            order = self._changed()
            same = int((order != self.order).argmax())
            address = self.address.copy()
            limit = math.inf if self.generator.random() < WORSE_RATE else self.bytes
            count = _place(self.data, order, address, same, limit)
            # Choosing a change costs about as much as placing a few blocks.
            placed += count + 5
            left.spend(count + 5)
            if count == self.data.count - same:
                self.order, self.address, self.bytes = order, address, self.data.top(address)
                if self.bytes < self.best_bytes:
                    self.best, self.best_bytes = address, self.bytes

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
