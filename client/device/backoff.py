"""How long to wait before the next try."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random


def pauses(generator: Random, *, first_s: float = 0.5, most_s: float = 60.0) -> Iterator[float]:
    """Seconds to wait before each next try: twice as long each time up to `most_s`, half of it by chance.

    By chance, so that a fleet that lost its coordinator does not come back all at once.
    """
    longest_s = first_s
    while True:
        yield longest_s * generator.uniform(0.5, 1.0)
        longest_s = min(most_s, 2 * longest_s)
