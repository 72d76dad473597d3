"""Virtual time, on simpy's kernel."""

from __future__ import annotations

import math
from collections.abc import Callable

from simpy import Environment, Event


class VirtualClock:
    """Seconds since the run began. A run that goes on after a stop begins at the time it had."""

    def __init__(self, now_s: float = 0.0) -> None:
        self.kernel = Environment(initial_time=now_s)

    def now_s(self) -> float:
        """Virtual seconds since the run began."""
        return float(self.kernel.now)

    def at(self, time_s: float) -> Event:
        """An event at exactly `time_s`, or now when that is past."""
        first, *more = delays_s(self.now_s(), time_s)
        if not more:
            return self.kernel.timeout(first)
        event, halfway = self.kernel.event(), self.kernel.timeout(first)

        def end(_: Event) -> None:
            event.succeed()

        def go_on(_: Event) -> None:
            self.kernel.timeout(more[0]).callbacks.append(end)

        halfway.callbacks.append(go_on)
        return event

    def run(self, until_s: float, stop: Callable[[], bool]) -> None:
        """Let time pass until `stop()`, at most to `until_s`; of the last moment, all events happen.

        Without an event before an endless `until_s`, no time passes.
        """
        kernel = self.kernel
        while (next_s := kernel.peek()) <= until_s and next_s < math.inf:
            if next_s > kernel.now and stop():
                return
            kernel.step()
        if kernel.now < until_s < math.inf and not stop():
            kernel.run(self.at(until_s))


def delays_s(now_s: float, time_s: float) -> tuple[float, ...]:
    """One delay or two, after which it is exactly `time_s` in floating point; 0 when that is past.

    The kernel adds delays to the time it has; a journey taken up again must end at the very moment it
    would have ended without the stop. Where rounding leaves no single delay, the second one is exact: it
    begins so near to its end that their difference is (Sterbenz's lemma).
    """
    delay = max(0.0, time_s - now_s)
    for candidate in (delay, math.nextafter(delay, math.inf), math.nextafter(delay, 0.0)):
        if now_s + candidate == max(now_s, time_s):
            return (candidate,)
    first = 0.75 * delay
    return first, time_s - (now_s + first)
