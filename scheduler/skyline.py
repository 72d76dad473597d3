"""Addresses for blocks by a search from the ground up, with a limit on the bytes in all.

Blocks are placed in order of address, each as low as those below it allow. Then a section of time in
which the blocks still to come do not fit above those placed can never be mended, and a block that
fits below another one entirely goes first. Both cut off most of the search.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .blocks import Blocks, Effort, Ints


def search(
    data: Blocks, order: Ints, limit_bytes: int, left: Effort, most_tried: int
) -> Ints | None:
    """Addresses below the limit, or None if there are none or none was found in so many tries.

    Of blocks that could be placed at the same address, those that come first in `order` are tried
    first.
    """
    skyline = _Skyline(data, order, limit_bytes)
    choices: list[Iterator[int]] = [skyline.choices()]
    for tried in range(most_tried):
        n = next(choices[-1], None)
        while n is None:
            choices.pop()
            if not choices:
                left.spend(tried)
                return None
            skyline.take_back()
            n = next(choices[-1], None)
        if skyline.place(n):
            if skyline.is_complete:
                left.spend(tried)
                return skyline.address
            choices.append(skyline.choices())
    left.spend(most_tried)
    return None


class _Skyline:
    """Blocks placed so far. `ground` is the lowest address for each block that waits.

    `rest` is, per section, the bytes that still wait.
    """

    def __init__(self, data: Blocks, order: Ints, limit_bytes: int) -> None:
        self.data, self.limit_bytes = data, limit_bytes
        self.rank = np.empty(data.count, dtype=np.int64)
        self.rank[order] = np.arange(data.count)
        self.rest = data.load.copy()
        self.ground = np.zeros(data.count, dtype=np.int64)
        self.waits = np.ones(data.count, dtype=bool)
        self.address = np.zeros(data.count, dtype=np.int64)
        self.done: list[tuple[int, Ints, Ints]] = []

    @property
    def is_complete(self) -> bool:
        return len(self.done) == self.data.count

    def choices(self) -> Iterator[int]:
        """Blocks that may come next: no other block would fit below them."""
        waiting = np.flatnonzero(self.waits)
        lower = self.ground[waiting]
        upper = lower + self.data.size[waiting]
        if upper.max() > self.limit_bytes:
            return iter(())
        lowest = lower < upper.min()
        waiting, lower = waiting[lowest], lower[lowest]
        return iter(waiting[np.lexsort((self.rank[waiting], lower))].tolist())

    def place(self, n: int) -> bool:
        """Place a block on its ground, unless what waits there with it would not fit any more."""
        lower, size = int(self.ground[n]), int(self.data.size[n])
        if lower + self.data.highest(self.rest, n) > self.limit_bytes:
            return False
        self.waits[n] = False
        above = self.data.meeting(n, self.waits)
        self.done.append((n, above, self.ground[above]))
        self.address[n] = lower
        self.ground[above] = np.maximum(self.ground[above], lower + size)
        self.data.add(self.rest, n, -size)
        return True

    def take_back(self) -> None:
        """Undo the last placing."""
        n, above, ground = self.done.pop()
        self.waits[n] = True
        self.ground[above] = ground
        self.data.add(self.rest, n, int(self.data.size[n]))
