"""Pages in host memory: where a model on a device pages to, by copies beside the device's compute.

Pinned host memory is RAM that the system never writes to storage, so pages are not encrypted there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, Self

import torch
from torch import Tensor

from scheduler.errors import PageStoreFull

from .layout import raw


class Moment(Protocol):
    """A point in the work that a device has been given."""

    def has_passed(self) -> bool:
        """Whether the device is done with everything before it."""

    def wait(self) -> None:
        """Let whatever is asked of the device from now on run after it."""


class Lanes(Protocol):
    """Copies between a device's memory and host memory, in lanes beside the device's compute."""

    def buffer(self, size_bytes: int) -> Tensor:
        """Host memory of so many bytes; let go, nobody gets it before its copies have ended."""

    def copy(self, lane: str, target: Tensor, source: Tensor, after: Moment | None) -> Moment:
        """Begin a copy, which runs after all that was asked of the device so far, and after `after`.

        Copies in one lane run one after the other. Returns the copy's end.
        """


class Immediate:
    """Copies that have ended when they are asked for, for tensors on the CPU."""

    def buffer(self, size_bytes: int) -> Tensor:
        """Memory that torch does not count, as a store that is no RAM of the step."""
        return torch.frombuffer(bytearray(max(1, size_bytes)), dtype=torch.uint8)[:size_bytes]

    def copy(self, lane: str, target: Tensor, source: Tensor, after: Moment | None) -> Moment:
        """Copy now."""
        del lane, after
        target.copy_(source)
        return _PASSED


class _Passed:
    def has_passed(self) -> bool:
        return True

    def wait(self) -> None:
        pass


_PASSED = _Passed()


class CudaLanes:
    """Copies on side streams of a CUDA device, from and to pinned memory.

    The streams wait for each other on the device; the host goes on. Memory on the device belongs to
    the stream that is current when it is allocated: it may be let go once that stream has been told to
    wait for the copies that use it.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._streams: dict[str, torch.cuda.Stream] = {}

    def buffer(self, size_bytes: int) -> Tensor:
        """Pinned memory. Torch keeps what is let go for the next that asks, once copies have ended."""
        return torch.empty(size_bytes, dtype=torch.uint8, pin_memory=True)

    def copy(self, lane: str, target: Tensor, source: Tensor, after: Moment | None) -> Moment:
        """Copy on the lane's own stream."""
        if lane not in self._streams:
            self._streams[lane] = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        stream = self._streams[lane]
        stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(stream):
            if after is not None:
                after.wait()
            target.copy_(source, non_blocking=True)
        return _CudaMoment(self._device, stream.record_event())


@dataclass(frozen=True, slots=True)
class _CudaMoment:
    device: torch.device
    event: torch.cuda.Event

    def has_passed(self) -> bool:
        return bool(self.event.query())  # type: ignore[no-untyped-call]

    def wait(self) -> None:
        torch.cuda.current_stream(self.device).wait_event(self.event)


@dataclass(slots=True, eq=False)
class Move:
    """A copy on its way."""

    end: Moment

    def done(self) -> bool:
        """Whether the device is done with it."""
        return self.end.has_passed()

    def result(self) -> None:
        """Let what is asked of the device from now on run after it; the host goes on."""
        self.end.wait()

    def exception(self) -> None:
        """None: what cannot be moved is refused when that is asked for."""


@dataclass(slots=True, eq=False)
class HostPage(Move):
    """The copy of a storage into a page, and the page. `last` is the end of the last copy that uses it."""

    buffer: Tensor
    last: Moment


class HostStore:
    """Pages in host memory; a context manager. `capacity_bytes` limits what pages may take together.

    It moves them itself (see pager.Transfers): the plan's reads, the plan's writes and copies for the
    way back in a lane each. Memory of pages that are gone is kept for others of the same size, since
    pinning takes long. An error of the device itself, such as a kernel that fails, ends the process's
    use of the device: it cannot be undone.
    """

    def __init__(self, lanes: Lanes, *, capacity_bytes: int | None = None) -> None:
        self._lanes, self._capacity_bytes = lanes, capacity_bytes
        self._ends: dict[str, Moment] = {}
        self._spare: dict[int, list[HostPage]] = {}
        self.used_bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def write(self, k: int, tensor: Tensor) -> HostPage:
        """Write a tensor's storage. Raises PageStoreFull, after which the store is as it was before."""
        return self._out("writes", k, tensor)

    def copy_out(self, k: int, tensor: Tensor) -> HostPage:
        """Write a tensor's storage beside the writes of the plan. Raises PageStoreFull."""
        return self._out("copies", k, tensor)

    def read(self, page: HostPage, tensor: Tensor, *, drop: bool) -> Move:
        """Fill a tensor's storage from a page, once it is written; `drop` gives its room back."""
        page.last = self._copy("reads", raw(tensor), page.buffer, page.end)
        if drop:
            self.drop(page)
        return Move(page.last)

    def drop(self, page: HostPage) -> None:
        """Make the room of a page free; who gets it waits, on the device, for the page's last copy."""
        self.used_bytes -= len(page.buffer)
        self._spare.setdefault(len(page.buffer), []).append(page)

    def require_done(self) -> None:
        """Let what is asked of the device from now on run after all moves."""
        for end in self._ends.values():
            end.wait()
        self._ends.clear()

    def settle(self) -> None:
        """The same: no move fails after it was asked for."""
        self.require_done()

    def close(self) -> None:
        """Give the memory of pages that are gone back, after all moves."""
        self.require_done()
        self._spare.clear()

    def _out(self, lane: str, k: int, tensor: Tensor) -> HostPage:
        source = raw(tensor)
        used_bytes = self.used_bytes + len(source)
        if self._capacity_bytes is not None and used_bytes > self._capacity_bytes:
            raise PageStoreFull(
                f"host memory for pages is full: {len(source)} bytes for tensor {k} do not fit beside "
                f"the {self.used_bytes} in use of {self._capacity_bytes}; allow more of it or raise "
                "the RAM budget"
            )
        buffer, free = self._buffer(len(source), k)
        end = self._copy(lane, buffer, source, free)
        self.used_bytes = used_bytes
        return HostPage(end, buffer, end)

    def _copy(self, lane: str, target: Tensor, source: Tensor, after: Moment | None) -> Moment:
        self._ends[lane] = end = self._lanes.copy(lane, target, source, after)
        return end

    def _buffer(self, size_bytes: int, k: int) -> tuple[Tensor, Moment | None]:
        """Memory for a page, and when it is free."""
        if spare := self._spare.get(size_bytes):
            page = spare.pop(0)
            return page.buffer, page.last
        try:
            return self._lanes.buffer(size_bytes), None
        except RuntimeError as error:
            raise PageStoreFull(
                f"the system has no host memory of {size_bytes} bytes for tensor {k}, beside the "
                f"{self.used_bytes} bytes of pages ({str(error).splitlines()[0]}); end what else "
                "takes memory or raise the RAM budget"
            ) from error
