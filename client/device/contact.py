"""The connection to the coordinator, kept up: lost ones are made again, later each time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from random import Random
from typing import TypeVar

from protos.device_pb2 import Capabilities, Notice
from scheduler.errors import ConnectionLost, TurnedAway

from . import backoff
from .fabric import Wire

log = logging.getLogger("fedpoet.device")
Done = TypeVar("Done")

# The device itself is not wanted; any other refusal is about what was asked for.
FATAL = frozenset({"unknown-device", "revoked", "untrusted", "wrong-role", "protocol"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Talk:
    """What is said over a connection: tasks that are known, what is heard, what the device is."""

    held: Callable[[], Iterable[bytes]]
    hear: Callable[[Wire, Notice], Awaitable[None]]
    capabilities: Callable[[], Capabilities]


class Contact:
    """Connects with `connect`; what fails because a connection is lost is tried again on the next."""

    def __init__(
        self,
        connect: Callable[[], AbstractAsyncContextManager[Wire]],
        talk: Talk,
        generator: Random,
    ) -> None:
        self._connect, self._talk, self._generator = connect, talk, generator
        self._wire: Wire | None = None
        self._up, self._changed = asyncio.Event(), asyncio.Event()

    async def run(self) -> None:
        """Stay connected, for ever. Raises TurnedAway when this device is not wanted."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._stay())
            group.create_task(self._keep_reporting())

    def report_soon(self) -> None:
        """What the device says of itself has changed."""
        self._changed.set()

    async def attempt(self, do: Callable[[Wire], Awaitable[Done]]) -> Done:
        """What `do` returns, which gets a connection, and another one as often as that is lost."""
        pauses = backoff.pauses(self._generator)
        while True:
            await self._up.wait()
            if (wire := self._wire) is None:
                continue
            try:
                return await do(wire)
            except ConnectionLost as error:
                log.warning("interrupted: %s", error)
                await asyncio.sleep(next(pauses))

    async def _stay(self) -> None:
        pauses = backoff.pauses(self._generator)
        while True:
            try:
                async with self._connect() as wire:
                    await wire.report(self._talk.capabilities())
                    pauses = backoff.pauses(self._generator)
                    self._wire = wire
                    self._up.set()
                    async for notice in wire.notices(self._talk.held()):
                        await self._talk.hear(wire, notice)
            except ConnectionLost as error:
                log.warning("not connected: %s", error)
            except TurnedAway as error:
                if error.reason in FATAL:
                    raise
                log.warning("refused: %s", error)
            finally:
                self._up.clear()
                self._wire = None
            await asyncio.sleep(next(pauses))

    async def _keep_reporting(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            try:
                await self.attempt(lambda wire: wire.report(self._talk.capabilities()))
            except TurnedAway as error:
                if error.reason in FATAL:
                    raise
                log.warning("the report is refused: %s", error)
