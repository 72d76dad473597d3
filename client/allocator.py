"""An instrument that is independent of our own accounting: what torch's allocators really did.

On the CPU it reads the allocation events of torch's profiler. Memory that a kernel's library takes past
torch's allocator (oneDNN's and the BLAS's private scratch space, thread stacks) is not seen by it.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol, Self

import torch
from torch._C._profiler import _ExperimentalConfig
from torch.autograd import (  # type: ignore[attr-defined]
    ProfilerConfig,
    ProfilerState,
    _disable_profiler_legacy,
    _enable_profiler_legacy,
    _profiler_enabled,
)

from scheduler.errors import BadInput, FedpoetError


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Bytes allocated beyond those held at the start: at most, and still at the end."""

    peak_bytes: int
    kept_bytes: int


class Trace(Protocol):
    """Watches an allocator while open; `usage` is there once it is closed."""

    usage: Usage

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


def allocator_trace(device: torch.device) -> Trace:
    """A trace of the allocator of a device's memory."""
    return AllocatorTrace() if device.type == "cpu" else CudaTrace(device)


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


class CudaTrace:
    """What torch.cuda.max_memory_allocated says, from when it is opened.

    Torch's allocator does its accounts when it is asked, in the order of the program: nothing needs to
    be waited for. All of the device counts, whoever allocates there meanwhile.
    """

    usage: Usage

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def __enter__(self) -> Self:
        self._collecting = gc.isenabled()
        gc.disable()
        torch.cuda.reset_peak_memory_stats(self._device)
        self._start_bytes = torch.cuda.memory_allocated(self._device)
        return self

    def __exit__(self, *_: object) -> None:
        if self._collecting:
            gc.enable()
        self.usage = Usage(
            peak_bytes=torch.cuda.max_memory_allocated(self._device) - self._start_bytes,
            kept_bytes=torch.cuda.memory_allocated(self._device) - self._start_bytes,
        )


def clear_scratch(device: torch.device) -> None:
    """Free what a device's libraries keep, such as a workspace of cuBLAS for every thread that used it.

    They take it anew when they need it. On the CPU they keep nothing that torch counts.
    """
    if device.type == "cuda":
        torch._C._cuda_clearCublasWorkspaces()  # noqa: SLF001


def take_scratch(device: torch.device) -> None:
    """Let a device's libraries allocate now what they keep for this thread."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.current_blas_handle()  # type: ignore[no-untyped-call]


class LibraryScratch:
    """What a device's libraries allocate from now on and keep; what they kept before is freed."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        clear_scratch(device)
        self._start_bytes = self._allocated_bytes()

    def bytes(self) -> int:
        """Bytes, once all operators have run and nothing else of them is left."""
        return max(0, self._allocated_bytes() - self._start_bytes)

    def _allocated_bytes(self) -> int:
        return torch.cuda.memory_allocated(self._device) if self._device.type == "cuda" else 0


def require_exact(device: torch.device) -> None:
    """Raise BadInput if the device's allocator takes more for a tensor than can be known beforehand.

    With segments of a fixed size, what is left of one may stay with a tensor: up to 1 MiB
    (`should_split` in c10/cuda/CUDACachingAllocator.cpp). With expandable ones it is less than 512 B.
    """
    settings = torch._C._accelerator_getAllocatorSettings()  # noqa: SLF001
    if device.type == "cuda" and "expandable_segments:True" not in settings:
        raise BadInput(
            "torch's allocator may take up to 1 MiB more on the GPU for a tensor than the tensor has, "
            "so no budget could be held: set the environment variable "
            "PYTORCH_ALLOC_CONF=expandable_segments:True before the program starts"
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
