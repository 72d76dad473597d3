"""How much one device may ask of the service, so that it cannot harm the others."""

from __future__ import annotations

from dataclasses import dataclass

from protos.blobs import CHUNK_BYTES
from scheduler.errors import BadInput


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits of the device service; those without another word hold for each device.

    `message_bytes` bounds one message, whatever is in it. `streams` are models and updates under way at
    once. `calls` may come at once, and `calls_per_s` in the long run. `stall_s` is how long an upload or
    a download may stand still, `transfer_s` how long it may take in all; the next one goes on from there.
    A Wait says something every `keep_alive_s`. `connections` may have calls at once, a few more than one
    since those that a network lost are noticed late; one without any call ends after `idle_s`.
    """

    message_bytes: int = CHUNK_BYTES + 2**16
    chunk_bytes: int = CHUNK_BYTES
    update_bytes: int = 2 * 2**30
    metrics: int = 64
    name_chars: int = 200
    detail_chars: int = 1000
    workloads: int = 64
    held_tasks: int = 256
    streams: int = 4
    calls: int = 60
    calls_per_s: float = 10.0
    stall_s: float = 30.0
    transfer_s: float = 3600.0
    keep_alive_s: float = 20.0
    connections: int = 8
    idle_s: float = 20.0
    connection_streams: int = 16
    handshake_s: float = 10.0

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if not getattr(self, name) > 0:
                raise BadInput(f"limit {name} is {getattr(self, name)}; it must be more than 0")


@dataclass(slots=True, kw_only=True)
class Allowance:
    """Calls that a device has left: `most` at once, filled up by `per_s` each second."""

    most: int
    per_s: float
    left: float
    at_s: float

    def take(self, now_s: float) -> bool:
        """Take one more call at `now_s`; whether it is allowed. A clock that goes back gives none."""
        self.left = min(self.most, self.left + max(0.0, now_s - self.at_s) * self.per_s)
        self.at_s = now_s
        if self.left < 1:
            return False
        self.left -= 1
        return True
