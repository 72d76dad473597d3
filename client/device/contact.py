"""The connection to the coordinator, kept up: lost ones are made again, later each time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from random import Random
from typing import TypeVar

from protos.device_pb2 import Capabilities, Notice
from scheduler.errors import ConnectionLost, TurnedAway

from . import backoff
from .link import Link

log = logging.getLogger("fedpoet.device")
Done = TypeVar("Done")

# The device itself is not wanted; any other refusal is about what was asked for.
FATAL = frozenset({"unknown-device", "revoked", "untrusted", "wrong-role", "protocol"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Talk:
    """What is said over a connection: how it begins, what is heard, what the device says of itself."""

    begin: Callable[[Link], Awaitable[None]]
    held: Callable[[], Iterable[bytes]]
    hear: Callable[[Link, Notice], Awaitable[None]]
    capabilities: Callable[[], Capabilities]


class Contact:
    """Makes links with `connect`; all that fails because a link is lost is tried again on the next."""

    def __init__(self, connect: Callable[[], Link], talk: Talk, generator: Random) -> None:
        self._connect, self._talk, self._generator = connect, talk, generator
        self._link: Link | None = None
        self._up, self._changed = asyncio.Event(), asyncio.Event()

    async def run(self) -> None:
        """Stay connected, for ever. Raises TurnedAway when this device is not wanted."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._stay())
            group.create_task(self._keep_reporting())

    def report_soon(self) -> None:
        """What the device says of itself has changed."""
        self._changed.set()

    async def attempt(self, do: Callable[[Link], Awaitable[Done]]) -> Done:
        """What `do` returns, which gets a link, and another one as often as that is lost."""
        pauses = backoff.pauses(self._generator)
        while True:
            await self._up.wait()
            if (link := self._link) is None:
                continue
            try:
                return await do(link)
            except ConnectionLost as error:
                log.warning("interrupted: %s", error)
                await asyncio.sleep(next(pauses))

    async def _stay(self) -> None:
        pauses = backoff.pauses(self._generator)
        while True:
            try:
                async with self._connect() as link:
                    await self._talk.begin(link)
                    await link.report(self._talk.capabilities())
                    pauses = backoff.pauses(self._generator)
                    self._link = link
                    self._up.set()
                    async for notice in link.notices(self._talk.held()):
                        await self._talk.hear(link, notice)
            except ConnectionLost as error:
                log.warning("not connected: %s", error)
            except TurnedAway as error:
                if error.reason in FATAL:
                    raise
                log.warning("refused: %s", error)
            finally:
                self._up.clear()
                self._link = None
            await asyncio.sleep(next(pauses))

    async def _keep_reporting(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            try:
                await self.attempt(lambda link: link.report(self._talk.capabilities()))
            except TurnedAway as error:
                if error.reason in FATAL:
                    raise
                log.warning("the report is refused: %s", error)
