"""What the service does for each call of device.proto."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Collection
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from typing import BinaryIO, TypeVar

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from protos import device_pb2 as pb
from protos.blobs import chunks
from protos.trust import PROTOCOL, Role, require_proof
from scheduler.errors import Untrusted
from server.identity import Identity, device_public_key, issue
from server.keyring import DEVICE_S, ticket_name

from .calls import Calls, Send
from .gate import Caller, Gate
from .limits import Limits
from .presence import Presence, Waiting
from .refusals import Reason, Refusal
from .requests import check_report, check_wait, declined, require_protocol, require_text
from .store import Store
from .uploads import Taken, Uploads

SERVICE = pb.DESCRIPTOR.services_by_name["DeviceService"].full_name
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class Around:
    """What the handlers work with. `on_change` gets the tasks that have ended; none when a device came."""

    store: Store
    authority: Identity
    limits: Limits
    gate: Gate
    presence: Presence
    pool: Executor
    now_s: Callable[[], float]
    new_id: Callable[[], int]
    on_change: Callable[[Collection[bytes]], None]


class Handlers:
    """The service's methods; each gets a caller that was admitted and a message that could be read."""

    def __init__(self, around: Around) -> None:
        self._around = around
        self._uploads = Uploads(
            around.store,
            around.limits,
            around.pool,
            around.now_s,
            self._end,
            lambda task_id: around.on_change([task_id]),
        )

    def registered(self, calls: Calls) -> dict[str, grpc.RpcMethodHandler[bytes, bytes]]:
        """All methods by name."""
        anybody = (Role.DEVICE, Role.ENROLLMENT)
        return {
            "Hello": calls.unary("Hello", pb.HelloRequest, self.hello, anybody),
            "Enroll": calls.unary("Enroll", pb.EnrollRequest, self.enroll, anybody),
            "Report": calls.unary("Report", pb.Capabilities, self.report),
            "Wait": calls.downward("Wait", pb.WaitRequest, self.wait),
            "FetchModel": calls.downward("FetchModel", pb.FetchModelRequest, self.fetch_model),
            "UpdateOffset": calls.unary("UpdateOffset", pb.UpdateOffsetRequest, self.update_offset),
            "SendUpdate": calls.upward("SendUpdate", pb.UpdatePart, self.send_update),
            "Decline": calls.unary("Decline", pb.DeclineRequest, self.decline),
            "Heartbeat": calls.unary("Heartbeat", pb.HeartbeatRequest, self.heartbeat),
            "Leave": calls.unary("Leave", pb.LeaveRequest, self.leave),
        }

    async def hello(self, _: Caller, request: pb.HelloRequest) -> pb.HelloReply:
        """Protocol and limits."""
        limits = self._around.limits
        require_protocol(request.protocol)
        require_text(request.client, limits.name_chars, "the client's name")
        return pb.HelloReply(
            protocol=PROTOCOL,
            chunk_bytes=limits.chunk_bytes,
            update_bytes=limits.update_bytes,
            keep_alive_s=limits.keep_alive_s,
            stall_s=limits.stall_s,
            upload_s=limits.transfer_s,
        )

    async def enroll(self, caller: Caller, request: pb.EnrollRequest) -> pb.EnrollReply:
        """A certificate for a ticket, or a newer one for a device."""
        require_protocol(request.protocol)
        key = device_public_key(request.public_key)
        require_proof(key, request.proof, request.secret, request.public_key)
        around, now_s = self._around, self._around.now_s()
        authority, roster = around.authority, around.store.roster

        def certify(device_id: int) -> x509.Certificate:
            return issue(authority, Role.DEVICE, str(device_id), key, now_s=now_s, valid_s=DEVICE_S)

        if caller.device_id is not None:
            if request.secret:
                raise Untrusted("this device is enrolled; a new certificate needs no ticket")
            device_id, certificate = caller.device_id, certify(caller.device_id)
            await self._in_thread(partial(roster.renew, device_id, request.public_key, certificate))
        else:
            if caller.name != ticket_name(request.secret):
                raise Untrusted("the secret is not that of the ticket the call is made with")
            device_id, certificate = await self._in_thread(
                partial(
                    roster.enroll,
                    request.secret,
                    request.public_key,
                    issue=certify,
                    new_id=around.new_id,
                    now_s=now_s,
                )
            )
        pem = certificate.public_bytes(serialization.Encoding.PEM)
        return pb.EnrollReply(
            device_id=device_id,
            certificate_chain=pem + authority.certificate_pem,
            expires_at_s=certificate.not_valid_after_utc.timestamp(),
        )

    async def report(self, caller: Caller, request: pb.Capabilities) -> pb.ReportReply:
        """Note what the device says of itself."""
        check_report(request, self._around.limits)
        device_id = _id_of(caller)
        request.DiscardUnknownFields()
        await self._in_thread(
            partial(self._around.store.roster.report, device_id, request, self._around.now_s())
        )
        self._around.presence.report(device_id, request)
        return pb.ReportReply()

    async def wait(self, caller: Caller, request: pb.WaitRequest, send: Send) -> None:
        """Tasks as they come, until the device goes or is told to."""
        around, device_id = self._around, _id_of(caller)
        check_wait(request, around.limits)
        if not around.presence.reported(device_id):
            self._remember_report(device_id)
        waiting = around.presence.open(device_id)
        around.on_change(())
        try:
            await self._notices(waiting, set(request.held), send)
        except Refusal as refusal:
            if refusal.reason is Reason.REVOKED:
                await self._end_all(device_id, "the device was revoked")
            raise
        finally:
            if around.presence.close(waiting):
                now_s = around.now_s()
                await self._in_thread(partial(around.store.roster.saw, device_id, now_s))

    def _remember_report(self, device_id: int) -> None:
        device = self._around.store.roster.find(device_id)
        if device is None or device.report is None:
            raise Refusal(Reason.OUT_OF_ORDER, "a device reports before it waits")
        self._around.presence.report(device_id, device.report)

    async def _notices(self, waiting: Waiting, told: set[bytes], send: Send) -> None:
        around = self._around
        while True:
            waiting.changed.clear()
            open_tasks = around.store.tasks.open_for(waiting.device_id, around.now_s())
            for task_id, signed in open_tasks.items():
                if task_id not in told:
                    await send(pb.Notice(task=signed))
                    told.add(task_id)
            ended = told - open_tasks.keys()
            told -= ended
            for task_id in sorted(ended - around.store.tasks.answered(ended, waiting.device_id)):
                await send(pb.Notice(withdrawn=pb.Withdrawn(task_id=task_id)))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(waiting.changed.wait(), around.limits.keep_alive_s)
            if waiting.end is not None:
                raise waiting.end
            around.gate.require_enrolled(waiting.device_id)
            if not waiting.changed.is_set():
                await send(pb.Notice(keep_alive=pb.KeepAlive()))

    async def fetch_model(self, caller: Caller, request: pb.FetchModelRequest, send: Send) -> None:
        """The model of an open task."""
        around, device_id = self._around, _id_of(caller)
        if not around.store.tasks.model_allowed(request.digest, device_id, around.now_s()):
            raise Refusal(Reason.NO_SUCH_MODEL, "this device has no open task with such a model")
        until_s = around.now_s() + around.limits.transfer_s
        with around.gate.stream(device_id):
            path = around.store.blobs.model(request.digest)
            size_bytes = (await self._in_thread(path.stat)).st_size
            if request.offset_bytes > size_bytes:
                raise Refusal(Reason.OUT_OF_ORDER, f"the model has {size_bytes} bytes")
            file = await self._in_thread(lambda: path.open("rb"))
            with file:
                async for chunk in self._chunks(file, request.offset_bytes):
                    left_s = min(around.limits.stall_s, until_s - around.now_s())
                    try:
                        await asyncio.wait_for(send(chunk), left_s)
                    except TimeoutError:
                        raise Refusal(
                            Reason.TOO_SLOW, "the model is not taken; go on in another call"
                        ) from None

    async def _chunks(self, file: BinaryIO, offset_bytes: int) -> AsyncIterator[pb.Chunk]:
        pieces = chunks(
            file, offset_bytes=offset_bytes, chunk_bytes=self._around.limits.chunk_bytes
        )
        while (chunk := await self._in_thread(lambda: next(pieces, None))) is not None:
            yield chunk

    async def update_offset(
        self, caller: Caller, request: pb.UpdateOffsetRequest
    ) -> pb.UpdateOffsetReply:
        """Where an update goes on."""
        offset_bytes, receipt = self._uploads.offset(
            _id_of(caller), request.task_id, request.digest
        )
        return pb.UpdateOffsetReply(offset_bytes=offset_bytes, receipt=receipt)

    async def send_update(self, caller: Caller, take: Taken) -> pb.Receipt:
        """An update, onto the disk."""
        device_id = _id_of(caller)
        with self._around.gate.stream(device_id):
            return await self._uploads.receive(device_id, take)

    async def decline(self, caller: Caller, request: pb.DeclineRequest) -> pb.DeclineReply:
        """Note that there will be no update."""
        around, device_id = self._around, _id_of(caller)
        require_text(request.detail, around.limits.detail_chars, "the detail")
        entry = around.store.tasks.find(request.task_id)
        if entry is None or entry.task.device_id != device_id:
            raise Refusal(Reason.NO_SUCH_TASK, "this device has no such task")
        await self._end([request.task_id], declined(request.reason, request.detail))
        return pb.DeclineReply()

    async def heartbeat(self, caller: Caller, request: pb.HeartbeatRequest) -> pb.HeartbeatReply:
        """Whether a task is still wanted."""
        around = self._around
        is_open = bool(request.task_id) and around.store.tasks.is_open(
            request.task_id, _id_of(caller), around.now_s()
        )
        return pb.HeartbeatReply(open=is_open)

    async def leave(self, caller: Caller, _: pb.LeaveRequest) -> pb.LeaveReply:
        """The device goes, and will send nothing for its open tasks."""
        around, device_id = self._around, _id_of(caller)
        around.presence.end(Refusal(Reason.LEFT, "the device left"), device_id)
        await self._end_all(device_id, declined(pb.DECLINE_REASON_LEFT, ""))
        return pb.LeaveReply()

    async def _end_all(self, device_id: int, reason: str) -> None:
        around = self._around
        await self._end(list(around.store.tasks.open_for(device_id, around.now_s())), reason)

    async def _end(self, ids: list[bytes], reason: str) -> None:
        around = self._around
        await self._in_thread(partial(around.store.tasks.decline, ids, reason, around.now_s()))
        for task_id in ids:
            around.store.blobs.drop_incoming(task_id)
        around.on_change(ids)

    async def _in_thread(self, do: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._around.pool, do)


def _id_of(caller: Caller) -> int:
    if caller.device_id is None:
        raise Refusal(Reason.WRONG_ROLE, "only a device may call this")
    return caller.device_id
