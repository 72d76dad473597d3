"""What a coordinator can be reached over, as the rest of the client sees it. Each fabric is one module."""

from __future__ import annotations

from collections.abc import AsyncIterator, Container, Iterable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from protos.device_pb2 import (
    Capabilities,
    Chunk,
    DeclineRequest,
    HelloReply,
    Notice,
    Receipt,
    SignedTask,
    UpdateHeader,
    UpdateOffsetReply,
)
from protos.tasks import Task


class Wire(Protocol):
    """An open connection. Every method raises ConnectionLost where a later try may help, else TurnedAway."""

    @property
    def limits(self) -> HelloReply:
        """The limits that hold here."""

    async def report(self, capabilities: Capabilities) -> None:
        """Say what the device is and can do now."""

    def notices(self, held: Iterable[bytes]) -> AsyncIterator[Notice]:
        """What the coordinator has to say, until the connection is lost. `held` are ids of known tasks."""

    def model(self, digest: bytes, offset_bytes: int) -> AsyncIterator[Chunk]:
        """A model's chunks from `offset_bytes` on."""

    async def update_offset(self, task_id: bytes, digest: bytes) -> UpdateOffsetReply:
        """How much of an update has arrived."""

    async def send_update(self, header: UpdateHeader, data: Iterable[bytes]) -> Receipt:
        """Send an update from `header.offset_bytes` on; the receipt once it has arrived."""

    async def decline(self, request: DeclineRequest) -> None:
        """Say that there will be no update for a task."""

    async def heartbeat(self, task_id: bytes) -> bool:
        """Whether the task that the device works on is still wanted."""

    async def leave(self, within_s: float) -> None:
        """Say that the device goes."""


class Fabric(Protocol):
    """Makes connections, and knows whom to believe."""

    def connect(self) -> AbstractAsyncContextManager[Wire]:
        """A connection that is ready for a report."""

    def opened(self, signed: SignedTask, seen: Container[bytes]) -> Task:
        """The task, if this device may act on it. Raises Untrusted or BadMessage."""
