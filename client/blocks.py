"""Which blocks of a file are free."""

from __future__ import annotations


class BlockAllocator:
    """Hands out runs of blocks, first those given back, then new ones at the end of the file."""

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self._free: list[tuple[int, int]] = []
        self._end = 0
        self.used = 0

    def take(self, count: int) -> list[tuple[int, int]] | None:
        """Runs (first block, blocks) of `count` blocks together; None if the limit forbids it."""
        if self._limit is not None and self.used + count > self._limit:
            return None
        runs: list[tuple[int, int]] = []
        wanted = count
        while wanted and self._free:
            first, length = self._free.pop(0)
            taken = min(length, wanted)
            runs.append((first, taken))
            if taken < length:
                self._free.insert(0, (first + taken, length - taken))
            wanted -= taken
        if wanted:
            runs.append((self._end, wanted))
            self._end += wanted
        self.used += count
        return runs

    def give_back(self, runs: list[tuple[int, int]]) -> None:
        """Make the runs free again."""
        self.used -= sum(length for _, length in runs)
        merged: list[tuple[int, int]] = []
        for first, length in sorted([*self._free, *runs]):
            if merged and merged[-1][0] + merged[-1][1] == first:
                merged[-1] = (merged[-1][0], merged[-1][1] + length)
            else:
                merged.append((first, length))
        self._free = merged
