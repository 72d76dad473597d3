"""From a method of the service to a gRPC handler: admission, decoding, refusals and their count."""

from __future__ import annotations

import errno
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Protocol, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import DecodeError, Message

from protos.trust import Role
from scheduler.errors import BadMessage, Untrusted

from .gate import Caller, Gate
from .limits import Limits
from .refusals import REASON_KEY, Counts, Reason, Refusal

log = logging.getLogger("fedpoet.service")

Request = TypeVar("Request", bound=Message)
Part = TypeVar("Part", bound=Message)
Context = grpc.aio.ServicerContext[Any, Any]
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


class Send(Protocol):
    """Sends one message of a stream; returns when there is room for the next."""

    async def __call__(self, message: Message) -> None:
        """Send it."""


Unary = Callable[[Caller, Any], Awaitable[Message]]
Downward = Callable[[Caller, Any, Send], Awaitable[None]]
Upward = Callable[[Caller, Callable[[], Awaitable[Any]]], Awaitable[Message]]


class Calls:
    """Makes handlers. Messages come as bytes, so that a damaged one is refused like everything else."""

    def __init__(self, gate: Gate, limits: Limits, counts: Counts) -> None:
        self._gate, self._limits, self._counts = gate, limits, counts

    def unary(
        self, name: str, kind: type[Message], do: Unary, roles: tuple[Role, ...] = (Role.DEVICE,)
    ) -> grpc.RpcMethodHandler[bytes, bytes]:
        """One message up, one down."""

        async def handle(data: bytes, context: Context) -> bytes:
            return await self._guard(name, context, roles, lambda c: do(c, self._parse(kind, data)))

        return grpc.unary_unary_rpc_method_handler(handle)

    def downward(
        self, name: str, kind: type[Message], do: Downward
    ) -> grpc.RpcMethodHandler[bytes, bytes]:
        """One message up, many down."""

        async def handle(data: bytes, context: Context) -> None:
            async def send(message: Message) -> None:
                await context.write(message.SerializeToString())

            async def run(caller: Caller) -> Message:
                await do(caller, self._parse(kind, data), send)
                return kind()

            await self._guard(name, context, (Role.DEVICE,), run)

        return grpc.unary_stream_rpc_method_handler(handle)

    def upward(
        self, name: str, kind: type[Message], do: Upward
    ) -> grpc.RpcMethodHandler[bytes, bytes]:
        """Many messages up, one down. `do` gets a function for the next one; after the last it gives None."""

        async def handle(stream: AsyncIterator[bytes], context: Context) -> bytes:
            async def take() -> Message | None:
                data = await anext(stream, None)
                return None if data is None else self._parse(kind, data)

            return await self._guard(name, context, (Role.DEVICE,), lambda c: do(c, take))

        return grpc.stream_unary_rpc_method_handler(handle)

    def _parse(self, kind: type[Request], data: bytes) -> Request:
        if len(data) > self._limits.message_bytes:
            raise Refusal(
                Reason.TOO_LARGE,
                f"a message has {len(data)} bytes; {self._limits.message_bytes} are allowed",
            )
        try:
            return kind.FromString(data)
        except DecodeError as error:
            raise Refusal(Reason.MALFORMED, f"not a {kind.DESCRIPTOR.name}") from error

    async def _guard(
        self,
        name: str,
        context: Context,
        roles: tuple[Role, ...],
        do: Callable[[Caller], Awaitable[Message]],
    ) -> bytes:
        self._counts.called(name)
        try:
            caller = self._gate.admit(context.auth_context(), roles)
            return (await do(caller)).SerializeToString()
        except Refusal as refusal:
            found = refusal
        except BadMessage as error:
            found = Refusal(Reason(error.reason), str(error))
        except Untrusted as error:
            found = Refusal(Reason.UNTRUSTED, str(error))
        except OSError as error:
            found = _of_disk(name, error)
        except Exception:
            log.exception("%s failed", name)
            found = Refusal(Reason.FAULT, "a fault of the coordinator; its log says more")
        self._counts.refused(found.reason)
        log.info("refused %s of %s: %s", name, context.peer(), found.reason)
        await context.abort(
            found.status, str(found), trailing_metadata=((REASON_KEY, found.reason.value),)
        )
        raise AssertionError("abort raises")


def _of_disk(name: str, error: OSError) -> Refusal:
    log.error("%s: %s", name, error)
    if error.errno in NO_SPACE:
        return Refusal(Reason.NO_ROOM, "the coordinator's disk is full; try again later")
    return Refusal(Reason.FAULT, "the coordinator cannot use its disk; its log says more")
