"""Flower's SuperLink as a fabric: its fleet API, behind the same Wire as the device service.

The API carries no promise of stability, so all that is known of it is here and in `superlink_calls`, and
tests/client/device/test_superlink.py holds that against a real SuperLink. A SuperLink signs nothing: what it
sends is believed because of TLS. It has no way to wait, so it is asked every POLL_S.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Container, Iterable
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

import httpx
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from client.outbox import seal_standing
from protos.arrays import decode_arrays
from protos.device_pb2 import (
    Capabilities,
    Chunk,
    DeclineReason,
    DeclineRequest,
    HelloReply,
    KeepAlive,
    Notice,
    Receipt,
    SignedTask,
    UpdateHeader,
    UpdateOffsetReply,
)
from protos.tasks import Task, decode_task, encode_task
from protos.values import from_numbers
from scheduler.errors import BadFile, ConnectionLost, FedpoetError, TurnedAway, Untrusted
from scheduler.files import read_bytes

from .superlink_calls import HEARTBEAT_S, Calls
from .vault import Vault

log = logging.getLogger("fedpoet.device")

POLL_S = 3.0  # what a SuperNode does
KEY_RECORD = "superlink-key"
Result = TypeVar("Result")


class SuperLink:
    """A SuperLink at an address, HOST:PORT; `calls` makes a new connection.

    `registers` says that the node's key is its own and the SuperLink is told of it, else it knows it.
    """

    def __init__(
        self,
        address: str,
        calls: Callable[[], Calls],
        *,
        registers: bool,
        now_s: Callable[[], float],
    ) -> None:
        self._address, self._calls = address, calls
        self._registers, self._now_s = registers, now_s

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[SuperLinkWire]:
        """A connection as an active node."""
        calls = await asyncio.to_thread(self._calls)
        wire = SuperLinkWire(self._address, calls, self._now_s)
        try:
            await wire.activate(registers=self._registers)
            log.info("connected as node %d", calls.node_id)
            try:
                yield wire
            finally:
                await wire.deactivate()
        finally:
            calls.close()

    def opened(self, signed: SignedTask, seen: Container[bytes]) -> Task:
        """The task, if it is new and in time; its sender was checked by TLS."""
        task = decode_task(signed.task)
        if task.task_id in seen:
            raise Untrusted("a task that came before")
        if self._now_s() > task.expires_at_s:
            raise Untrusted("a task that has expired; check the clock")
        return task


class SuperLinkWire:
    """A Wire. Flower's client blocks, so that it is called in threads, one call at a time."""

    def __init__(self, address: str, calls: Calls, now_s: Callable[[], float]) -> None:
        self._address, self._calls, self._now_s = address, calls, now_s
        self._calling = asyncio.Lock()
        self._capabilities = Capabilities()
        self.limits = HelloReply()

    async def activate(self, *, registers: bool) -> None:
        """Become a node that is online."""
        if registers:
            with suppress(TurnedAway, ConnectionLost):  # known from before: then activating is all
                await self._told(self._calls.register)
        await self._told(self._calls.activate)

    async def deactivate(self) -> None:
        """Be offline, if the SuperLink can be told."""
        with suppress(TurnedAway, ConnectionLost):
            await self._told(self._calls.deactivate)

    async def report(self, capabilities: Capabilities) -> None:
        """Kept until the coordinator asks, in a message to this node."""
        self._capabilities = capabilities

    async def notices(self, held: Iterable[bytes]) -> AsyncIterator[Notice]:  # noqa: ARG002 (a Wire's)
        """Tasks as they come. A message counts as received only once its task has been taken on."""
        beat_at_s = time.monotonic()
        while True:
            if time.monotonic() >= beat_at_s:
                beat_at_s = time.monotonic() + HEARTBEAT_S / 2
                yield Notice(keep_alive=KeepAlive())
            pulled = await self._told(self._calls.pull)
            if pulled is None:
                await asyncio.sleep(POLL_S)
                continue
            message, task = pulled
            if task is None:
                standing = seal_standing(_standing(self._capabilities))
                await self._told(partial(self._calls.tell, message, standing))
                continue
            yield Notice(task=SignedTask(task=encode_task(task)))
            await self._told(partial(self._calls.confirm, message))

    def model(self, digest: bytes, offset_bytes: int) -> AsyncIterator[Chunk]:
        """Never needed: a message's arrays come with it."""
        raise ConnectionLost(f"the model {digest.hex()} is gone from the vault at {offset_bytes}")

    async def update_offset(self, task_id: bytes, digest: bytes) -> UpdateOffsetReply:  # noqa: ARG002
        """A SuperLink takes an update whole."""
        return UpdateOffsetReply()

    async def send_update(self, header: UpdateHeader, data: Iterable[bytes]) -> Receipt:
        """The reply to a message."""
        arrays = decode_arrays(b"".join(data))
        metrics = from_numbers(header.metrics)
        await self._told(partial(self._calls.reply, header.task_id, arrays, metrics))
        return Receipt(task_id=header.task_id, digest=header.digest, received_at_s=self._now_s())

    async def decline(self, request: DeclineRequest) -> None:
        """An error in place of a reply."""
        reason = request.detail or DeclineReason.Name(request.reason)
        await self._told(partial(self._calls.refuse, request.task_id, reason))

    async def heartbeat(self, task_id: bytes) -> bool:  # noqa: ARG002
        """The node is alive; a SuperLink does not tell whether a reply is still wanted."""
        if not await self._told(self._calls.heartbeat):
            raise ConnectionLost(f"{self._address} does not know this node any more")
        return True

    async def leave(self, within_s: float) -> None:
        """The end of the connection says so."""

    async def _told(self, call: Callable[[], Result]) -> Result:
        """What a call returns; its errors in the words of a Wire."""
        async with self._calling:
            try:
                return await asyncio.to_thread(call)
            except httpx.HTTPStatusError as error:
                code, text = error.response.status_code, error.response.text[:200]
                said = f"{self._address}: {text} ({code})"
                if code >= 500 or code == httpx.codes.TOO_MANY_REQUESTS:
                    raise ConnectionLost(said) from error
                unknown = code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN)
                raise TurnedAway(said, reason="untrusted" if unknown else "") from error
            except httpx.HTTPError as error:
                raise ConnectionLost(f"{self._address}: {error}") from error
            except FedpoetError:
                raise
            except Exception as error:  # whatever an unexpected answer leads to in Flower's code
                said = f"{self._address}: {type(error).__name__}: {error}"
                raise TurnedAway(said) from error
            except SystemExit as error:  # how Flower says that versions do not fit
                raise TurnedAway(
                    f"{self._address} runs another version of Flower: {error}", reason="protocol"
                ) from error


def load_key(vault: Vault, path: Path | None) -> ec.EllipticCurvePrivateKey:
    """The node's key (P-384): from a file in OpenSSH format, else the device's own, made once."""
    if path is not None:
        try:
            key = serialization.load_ssh_private_key(read_bytes(path), password=None)
        except ValueError as error:
            raise BadFile(f"{path} is not a private key in OpenSSH format: {error}") from error
    elif (kept := vault.get(KEY_RECORD)) is not None:
        key = serialization.load_der_private_key(kept, password=None)  # type: ignore[assignment]
    else:
        made = ec.generate_private_key(ec.SECP384R1())
        vault.put(
            KEY_RECORD,
            made.private_bytes(
                serialization.Encoding.DER,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            ),
        )
        return made
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise BadFile(
            f"{path or vault.folder}: not a key on an elliptic curve; use ecdsa, 384 bits"
        )
    return key


def _standing(said: Capabilities) -> dict[str, int | float]:
    """The report in the words of an answer to a query; no battery is said of on mains."""
    standing: dict[str, int | float] = {
        "charging": int(said.charging),
        "idle": int(said.idle),
        "unmetered": int(said.unmetered),
        "free-ram-bytes": min(said.free_ram_bytes, said.ram_budget_bytes),
        "ready": int(said.ready),
    }
    return standing | {"battery": said.battery} if said.HasField("battery") else standing
