"""From a method of the service to a gRPC handler: admission, decoding, refusals and their count."""

from __future__ import annotations

import asyncio
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
Result = TypeVar("Result")
Context = grpc.aio.ServicerContext[Any, Any]
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
KINDS = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")


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
            async def run(caller: Caller) -> bytes:
                return (await do(caller, self._parse(kind, data))).SerializeToString()

            return await self._guard(name, context, roles, run)

        return grpc.unary_unary_rpc_method_handler(handle)

    def downward(
        self, name: str, kind: type[Message], do: Downward
    ) -> grpc.RpcMethodHandler[bytes, bytes]:
        """One message up, many down."""

        async def handle(data: bytes, context: Context) -> None:
            async def send(message: Message) -> None:
                await context.write(message.SerializeToString())

            await self._guard(
                name, context, (Role.DEVICE,), lambda c: do(c, self._parse(kind, data), send)
            )

        return grpc.unary_stream_rpc_method_handler(handle)

    def upward(
        self, name: str, kind: type[Message], do: Upward
    ) -> grpc.RpcMethodHandler[bytes, bytes]:
        """Many messages up, one down. `do` gets a function for the next one; after the last it gives None."""

        async def handle(stream: AsyncIterator[bytes], context: Context) -> bytes:
            async def take() -> Message | None:
                data = await anext(stream, None)
                return None if data is None else self._parse(kind, data)

            async def run(caller: Caller) -> bytes:
                return (await do(caller, take)).SerializeToString()

            return await self._guard(name, context, (Role.DEVICE,), run)

        return grpc.stream_unary_rpc_method_handler(handle)

    def around(self, name: str, handler: Any) -> Any:
        """A handler that gRPC brings, for those who may call; it reads its messages itself."""
        (kind,) = (kind for kind in KINDS if getattr(handler, kind))

        async def handle(request: Any, context: Context) -> Any:
            async def run(_: Caller) -> Any:
                answer = getattr(handler, kind)(request, context)
                if not isinstance(answer, AsyncIterator):
                    return await answer
                async for message in answer:
                    await context.write(message)
                return None

            return await self._guard(name, context, tuple(Role), run)

        return handler._replace(**{kind: handle})

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
        do: Callable[[Caller], Awaitable[Result]],
    ) -> Result:
        self._counts.called(name)
        try:
            with self._gate.admitted(context.auth_context(), roles, context.peer()) as caller:
                return await do(caller)
        except grpc.aio.AbortError:
            raise  # the handler has said what is wrong
        except grpc.aio.InternalError as error:
            # The device gave the call up, or its connection broke, while something was sent to it.
            raise asyncio.CancelledError from error
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
