"""Virtual time."""

from __future__ import annotations


class VirtualClock:
    """Seconds since the run began; they pass only when somebody advances them."""

    def __init__(self) -> None:
        self._now_s = 0.0

    def now_s(self) -> float:
        """Virtual seconds since the run began."""
        return self._now_s

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        if seconds < 0:
            raise ValueError(f"time cannot run back by {-seconds} s")
        self._now_s += seconds
