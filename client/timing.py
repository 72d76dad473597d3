"""How long something takes, measured so that noise counts little."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How much to measure: `least` samples in any case, up to `most` until `limit_s` have passed."""

    least: int = 3
    most: int = 25
    limit_s: float = 0.1


def median_s(
    run: Callable[[], object],
    clock: Clock,
    effort: Effort,
    before: Callable[[], object] = lambda: None,
) -> float:
    """Median seconds of a run; `before` is called before each and is not timed.

    The first run only warms up. Seconds are those of `clock`, what `before` takes counts towards the
    limit.
    """
    before()
    run()
    samples: list[float] = []
    start_s = clock()
    while len(samples) < effort.least or (
        len(samples) < effort.most and clock() - start_s < effort.limit_s
    ):
        before()
        begun_s = clock()
        run()
        samples.append(clock() - begun_s)
    return statistics.median(samples)


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A transfer's time: `latency_s`, then `bytes_per_s`."""

    latency_s: float
    bytes_per_s: float


def fit_line(timings: Sequence[tuple[int, float]]) -> Line:
    """The line through (bytes, seconds) whose relative errors have the least sum of squares.

    Relative, or the largest transfer would decide alone. More bytes never take less time on it, and no
    latency is negative: where the best line says otherwise it is the best one of those allowed.
    Raises ValueError without two sizes, or where a time is not positive.
    """
    if len({size for size, _ in timings}) < 2 or any(s <= 0 for _, s in timings):
        raise ValueError("a line needs times, more than 0, of two sizes at least")
    # Errors over times: minimize the sum of (a / s + b * n / s - 1) squared.
    ones = [1 / s for _, s in timings]
    sizes = [n / s for n, s in timings]
    aa, ab, bb = (_dot(p, q) for p, q in ((ones, ones), (ones, sizes), (sizes, sizes)))
    a, b = math.fsum(ones), math.fsum(sizes)
    det = aa * bb - ab * ab
    latency_s = (a * bb - b * ab) / det
    s_per_byte = (b * aa - a * ab) / det
    if latency_s < 0:
        latency_s, s_per_byte = 0.0, b / bb
    if s_per_byte <= 0:
        latency_s, s_per_byte = 0.0, b / bb
    return Line(latency_s=latency_s, bytes_per_s=1 / s_per_byte)


def _dot(p: Sequence[float], q: Sequence[float]) -> float:
    return math.fsum(x * y for x, y in zip(p, q, strict=True))
