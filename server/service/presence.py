"""Which devices are there now: those with an open Wait."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass, field

from protos.device_pb2 import Capabilities

from .refusals import Reason, Refusal


@dataclass(slots=True, kw_only=True, eq=False)
class Waiting:
    """An open Wait. `changed` is set when there is something to look at; `end` is why it has to end."""

    device_id: int
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    end: Refusal | None = None


class Presence:
    """Open Waits and what devices said of themselves last.

    Waits belong to the thread of the event loop; who is there, and the reports, may be read by any.
    """

    def __init__(self) -> None:
        self._waiting: dict[int, Waiting] = {}
        self._reports: dict[int, Capabilities] = {}
        self._lock = threading.Lock()

    def open(self, device_id: int) -> Waiting:
        """A new Wait; that which the device had before ends."""
        new = Waiting(device_id=device_id)
        with self._lock:
            old = self._waiting.get(device_id)
            self._waiting[device_id] = new
        if old is not None:
            _end(old, Refusal(Reason.REPLACED, "the device waits anew"))
        return new

    def close(self, waiting: Waiting) -> bool:
        """The Wait has ended; whether the device is gone with it, having no newer one."""
        with self._lock:
            if self._waiting.get(waiting.device_id) is not waiting:
                return False
            del self._waiting[waiting.device_id]
            return True

    def tell(self, device_id: int) -> None:
        """There is something to look at for a device, if it is there."""
        if waiting := self._waiting.get(device_id):
            waiting.changed.set()

    def end(self, why: Refusal, device_id: int | None = None) -> None:
        """End the Wait of one device, or all."""
        with self._lock:
            some = [w for d, w in self._waiting.items() if device_id in (None, d)]
        for waiting in some:
            _end(waiting, why)

    def report(self, device_id: int, report: Capabilities) -> None:
        """What a device says of itself."""
        with self._lock:
            self._reports[device_id] = report

    def reported(self, device_id: int) -> bool:
        """Whether a device has said anything of itself."""
        return device_id in self._reports

    def there(self) -> dict[int, Capabilities]:
        """What the devices that are there said of themselves last, in ascending order of id."""
        with self._lock:
            return {d: self._reports[d] for d in sorted(self._waiting) if d in self._reports}


def _end(waiting: Waiting, why: Refusal) -> None:
    waiting.end = why
    waiting.changed.set()
