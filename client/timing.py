"""How long something takes, measured so that noise counts little."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

Clock = Callable[[], float]


def clock_of(device: torch.device) -> Clock:
    """The machine's clock; for a GPU its own, by events, which waits for all that the GPU was given."""
    return time.perf_counter if device.type == "cpu" else _CudaClock(device)


class _CudaClock:
    def __init__(self, device: torch.device) -> None:
        self._device, self._now_s = device, 0.0
        self._last = self._event()

    def __call__(self) -> float:
        # From event to event, since torch tells the time between two in single precision.
        event = self._event()
        event.synchronize()
        self._now_s += self._last.elapsed_time(event) / 1000
        self._last = event
        return self._now_s

    def _event(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._device))
        return event


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
    latency_s, s_per_byte = 0.0, b / bb
    if det > 0:  # it is 0 where one time is so short that the others are lost in rounding
        best_s, best_s_per_byte = (a * bb - b * ab) / det, (b * aa - a * ab) / det
        if best_s >= 0 and best_s_per_byte > 0:
            latency_s, s_per_byte = best_s, best_s_per_byte
    return Line(latency_s=latency_s, bytes_per_s=1 / s_per_byte)


def _dot(p: Sequence[float], q: Sequence[float]) -> float:
    return math.fsum(x * y for x, y in zip(p, q, strict=True))
