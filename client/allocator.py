"""An instrument that is independent of our own accounting: what torch's CPU allocator really did.

It reads the allocation events of torch's profiler. Memory that a kernel's library takes past
torch's allocator (oneDNN's and the BLAS's private scratch space, thread stacks) is not seen by it.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

from torch._C._profiler import _ExperimentalConfig
from torch.autograd import (  # type: ignore[attr-defined]
    ProfilerConfig,
    ProfilerState,
    _disable_profiler_legacy,
    _enable_profiler_legacy,
    _profiler_enabled,
)

from scheduler.errors import FedpoetError


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Bytes allocated beyond those held at the start: at most, and still at the end."""

    peak_bytes: int
    kept_bytes: int


class AllocatorTrace:
    """Records the calling thread's allocations while open; `usage` is there once it is closed.

    Blocks that were allocated while no trace was open are unknown to torch's profiler: freeing them
    is not seen, so what is freed must have been allocated under a trace for the peak to be exact.
    """

    usage: Usage

    def __enter__(self) -> Self:
        if profiler_is_running():
            raise FedpoetError("a torch profiler is running; stop it to measure memory")
        # Garbage from elsewhere that is collected meanwhile would count as freed here.
        self._collecting = gc.isenabled()
        gc.disable()
        options = _ExperimentalConfig()
        _enable_profiler_legacy(
            ProfilerConfig(ProfilerState.CPU, False, True, False, False, False, options)
        )
        return self

    def __exit__(self, *_: object) -> None:
        threads = [_usage(events) for events in _disable_profiler_legacy()]
        if self._collecting:
            gc.enable()
        # Threads may reach their peaks together: the sum is never too low.
        self.usage = Usage(
            peak_bytes=sum(u.peak_bytes for u in threads),
            kept_bytes=sum(u.kept_bytes for u in threads),
        )


def profiler_is_running() -> bool:
    """Whether a torch profiler of somebody else's runs, so that nothing can be measured."""
    return bool(_profiler_enabled())


def known_blocks() -> contextlib.AbstractContextManager[object]:
    """Lets torch's profiler know what is allocated inside, so that a later trace sees it freed."""
    return contextlib.nullcontext() if profiler_is_running() else AllocatorTrace()


def _usage(events: Iterable[Any]) -> Usage:
    held = peak = 0
    for event in events:
        if event.kind() == "memory_alloc":
            held += event.cpu_memory_usage()
            peak = max(peak, held)
    return Usage(peak_bytes=peak, kept_bytes=held)
