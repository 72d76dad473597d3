"""A connection to the coordinator. Everything that is sent passes the outbox here."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Awaitable, Iterable
from importlib.metadata import version
from typing import Any, Self, TypeVar

import grpc
import grpc.aio

from client.outbox import released
from protos import device_pb2 as pb
from protos.blobs import CHUNK_BYTES
from protos.device_pb2_grpc import DeviceServiceStub
from protos.trust import PROTOCOL
from scheduler.errors import ConnectionLost, TurnedAway

from .identity import Credentials

REASON_KEY = "fedpoet-reason"
_CALL_S = 30.0
_MESSAGE_BYTES = CHUNK_BYTES + 2**16
# What may be otherwise at the next try. INTERNAL and UNKNOWN are faults of the coordinator.
_PASSING = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.OUT_OF_RANGE,
        grpc.StatusCode.DATA_LOSS,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
    }
)
Reply = TypeVar("Reply")


class Link:
    """An open channel; every method raises ConnectionLost where a later try may help, else TurnedAway."""

    def __init__(self, address: str, credentials: Credentials) -> None:
        self._address = address
        self._channel = grpc.aio.secure_channel(
            address,
            grpc.ssl_channel_credentials(
                root_certificates=credentials.authority_pem.encode(),
                private_key=credentials.key_pem.encode(),
                certificate_chain=credentials.certificate_pem.encode(),
            ),
            options=(
                ("grpc.max_receive_message_length", _MESSAGE_BYTES),
                ("grpc.enable_retries", 0),  # `backoff` decides when to try again
                ("grpc.use_local_subchannel_pool", 1),  # and a new link is a new connection
            ),
        )
        self._stub: Any = DeviceServiceStub(self._channel)
        self.limits = pb.HelloReply()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._channel.close()

    async def hello(self) -> None:
        """Agree on the protocol, and learn the limits that hold."""
        client = f"fedpoet {version('fedpoet')}"
        request = pb.HelloRequest(protocol=PROTOCOL, client=client)
        self.limits = await self._told(self._stub.Hello(released(request), timeout=_CALL_S))

    async def enroll(self, request: pb.EnrollRequest) -> pb.EnrollReply:
        """Get a certificate."""
        return await self._told(self._stub.Enroll(released(request), timeout=_CALL_S))

    async def report(self, capabilities: pb.Capabilities) -> None:
        """Say what the device is and can do now."""
        await self._told(self._stub.Report(released(capabilities), timeout=_CALL_S))

    async def notices(self, held: Iterable[bytes]) -> AsyncIterator[pb.Notice]:
        """What the coordinator has to say, until the connection is lost."""
        request = pb.WaitRequest(protocol=PROTOCOL, held=held)
        silent_s = 2 * (self.limits.keep_alive_s or _CALL_S) + 1
        call = self._stub.Wait(released(request))
        try:
            while True:
                notice = await self._told(asyncio.wait_for(call.read(), silent_s))
                if notice is grpc.aio.EOF:
                    raise ConnectionLost(f"{self._address} ended the connection")
                yield notice
        finally:
            call.cancel()

    async def model(self, digest: bytes, offset_bytes: int) -> AsyncIterator[pb.Chunk]:
        """A model's chunks from `offset_bytes` on."""
        request = pb.FetchModelRequest(digest=digest, offset_bytes=offset_bytes)
        silent_s = self.limits.stall_s or _CALL_S
        call = self._stub.FetchModel(released(request))
        try:
            while True:
                chunk = await self._told(asyncio.wait_for(call.read(), silent_s))
                if chunk is grpc.aio.EOF:
                    return
                yield chunk
        finally:
            call.cancel()

    async def update_offset(self, task_id: bytes, digest: bytes) -> pb.UpdateOffsetReply:
        """How much of an update has arrived."""
        request = pb.UpdateOffsetRequest(task_id=task_id, digest=digest)
        return await self._told(self._stub.UpdateOffset(released(request), timeout=_CALL_S))

    async def send_update(self, header: pb.UpdateHeader, data: Iterable[bytes]) -> pb.Receipt:
        """Send an update from `header.offset_bytes` on; the receipt once it is on the coordinator's disk."""

        async def parts() -> AsyncIterator[pb.UpdatePart]:
            yield released(pb.UpdatePart(header=header))
            offset_bytes = header.offset_bytes
            for piece in data:
                chunk = pb.Chunk(offset_bytes=offset_bytes, data=piece, crc32=zlib.crc32(piece))
                yield released(pb.UpdatePart(chunk=chunk))
                offset_bytes += len(piece)

        return await self._told(self._stub.SendUpdate(parts()))

    async def decline(self, request: pb.DeclineRequest) -> None:
        """Say that there will be no update for a task."""
        await self._told(self._stub.Decline(released(request), timeout=_CALL_S))

    async def heartbeat(self, task_id: bytes) -> bool:
        """Whether the task that the device works on is still wanted."""
        request = released(pb.HeartbeatRequest(task_id=task_id))
        reply = await self._told(self._stub.Heartbeat(request, timeout=_CALL_S))
        return bool(reply.open)

    async def leave(self, within_s: float) -> None:
        """Say that the device goes."""
        await self._told(self._stub.Leave(released(pb.LeaveRequest()), timeout=within_s))

    async def _told(self, call: Awaitable[Reply]) -> Reply:
        try:
            return await call
        except TimeoutError as error:
            raise ConnectionLost(f"{self._address} has been silent for too long") from error
        except grpc.aio.AioRpcError as error:
            said = f"{self._address}: {error.details()} ({error.code().name})"
            if error.code() in _PASSING:
                raise ConnectionLost(said) from error
            raise TurnedAway(said, reason=_reason(error)) from error
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            # The channel was closed under the call, by whoever found the connection lost.
            raise ConnectionLost(f"the connection to {self._address} was closed") from None


def _reason(error: grpc.aio.AioRpcError) -> str:
    for key, value in error.trailing_metadata() or ():
        if key == REASON_KEY:
            return str(value)
    return ""
