"""Blocks of bytes that are needed at known times, as arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Ints: TypeAlias = NDArray[np.int64]
Flags: TypeAlias = NDArray[np.bool_]

# Up to this many blocks, who meets whom is kept; above, it is found anew each time, to save RAM.
MEETINGS_KEPT = 3000
_NEVER = 1 << 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Bytes with one address, needed from the first to the last time of each of one or two spans."""

    size_bytes: int
    spans: tuple[tuple[int, int], ...]


class Effort:
    """How much may still be tried. Placing one block costs more where there are many."""

    def __init__(self, effort: int, count: int) -> None:
        self._left, self._price = float(effort), 1.0 + count / 1000

    def spend(self, placed: int) -> None:
        """Count blocks placed on trial."""
        self._left -= placed * self._price

    @property
    def is_spent(self) -> bool:
        """Whether it is time to stop."""
        return self._left <= 0


class Blocks:
    """Blocks meet when they are needed at the same time: then their bytes must not overlap.

    `first` and `last` have a row for each span. Time is divided into sections in each of which the
    same blocks are needed; `load` has the bytes of each, and the highest load is the peak.
    """

    def __init__(self, blocks: Sequence[Block]) -> None:
        self.count = len(blocks)
        self.size: Ints = np.array([b.size_bytes for b in blocks], dtype=np.int64)
        self.first: Ints = np.full((2, self.count), _NEVER, dtype=np.int64)
        self.last: Ints = np.full((2, self.count), -1, dtype=np.int64)
        for n, block in enumerate(blocks):
            for row, (first, last) in enumerate(block.spans):
                self.first[row, n], self.last[row, n] = first, last
        starts = np.unique(self.first[self.first < _NEVER])
        self._begin = np.searchsorted(starts, self.first)
        self._end = np.searchsorted(starts, self.last, side="right")
        self.load: Ints = np.zeros(len(starts), dtype=np.int64)
        for n in range(self.count):
            self.add(self.load, n, int(self.size[n]))
        self.peak_bytes = int(self.load.max(initial=0))

    def top(self, address: Ints) -> int:
        """Bytes that blocks at these addresses take in all."""
        return int((address + self.size).max(initial=0))

    def add(self, sections: Ints, n: int, amount: int) -> None:
        """Add to a number per section, wherever block n is needed."""
        for row in (0, 1):
            sections[self._begin[row, n] : self._end[row, n]] += amount

    def highest(self, sections: Ints, n: int) -> int:
        """The largest number per section where block n is needed."""
        return max(
            int(sections[self._begin[row, n] : self._end[row, n]].max(initial=0)) for row in (0, 1)
        )

    def durations(self) -> Ints:
        """How long each block is needed."""
        lengths: Ints = np.maximum(self.last - self.first + 1, 0)
        return np.asarray(lengths[0] + lengths[1])

    def crowds(self) -> Ints:
        """The highest load while each block is needed."""
        return np.array([self.highest(self.load, n) for n in range(self.count)], dtype=np.int64)

    def meeting(self, n: int, among: Flags) -> Ints:
        """The blocks that block n meets, of those that are flagged; n is never one of them."""
        met = self._meetings[n] if self.count <= MEETINGS_KEPT else self._meets(n)
        return np.flatnonzero(met & among)

    @cached_property
    def _meetings(self) -> tuple[Flags, ...]:
        return tuple(self._meets(n) for n in range(self.count))

    def _meets(self, n: int) -> Flags:
        found: Flags = np.zeros(self.count, dtype=np.bool_)
        for row in (0, 1):
            first, last = self.first[row, n], self.last[row, n]
            if first <= last:
                found |= ((self.first <= last) & (self.last >= first)).any(axis=0)
        found[n] = False
        return found
