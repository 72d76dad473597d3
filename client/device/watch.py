"""The facts over time: now and then while the device rests, often while it trains."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

from .facts import Sources, averaged_load
from .policy import Policy, Reason, verdict
from .standing import Standing

log = logging.getLogger("fedpoet.device")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How often facts are read: every `rest_s` seconds, and every `train_s` while the device trains.

    Training has to be over two seconds after the policy forbids it. That includes reading the facts.
    """

    rest_s: float = 10.0
    train_s: float = 0.4


class Watch:
    """Knows how things stand. `on_change` is called when they stand so differently that it matters."""

    def __init__(
        self,
        policy: Policy,
        sources: Sources,
        pace: Pace,
        *,
        clock: Callable[[], float],
        on_change: Callable[[], None],
    ) -> None:
        self._policy, self._sources, self._pace = policy, sources, pace
        self._clock, self._on_change = clock, on_change
        self._looking = asyncio.Lock()
        self._training = 0
        self._own_load, self._looked_at_s = 0.0, clock()
        self.standing: Standing | None = None

    async def run(self) -> None:
        """Look now and then, for ever."""
        while True:
            await self.look()
            await asyncio.sleep(self._pace.rest_s)

    async def look(self) -> Standing:
        """How things stand now."""
        async with self._looking:
            now_s = self._clock()
            self._own_load = averaged_load(
                self._own_load, min(self._training, 1), now_s - self._looked_at_s
            )
            self._looked_at_s = now_s
            facts = await asyncio.to_thread(self._sources.facts, self._own_load)
            found = Standing(facts=facts, reason=verdict(self._policy, facts))
            before, self.standing = self.standing, found
        if before is None or found.differs(before):
            log.info("training is %s", "allowed" if found.ready else f"not allowed: {found.reason}")
            self._on_change()
        return found

    async def until_forbidden(self) -> Reason:
        """Returns, with why, as soon as the policy does not allow training; meanwhile we train."""
        self._training += 1
        try:
            while (found := await self.look()).ready:
                await asyncio.sleep(self._pace.train_s)
            return found.reason
        finally:
            self._training -= 1

    async def until_free_of_charge(self) -> None:
        """Returns as soon as an update may be sent; on a metered network, the owner may not want that."""
        while self._policy.unmetered and not (await self.look()).facts.unmetered:
            await asyncio.sleep(self._pace.rest_s)
