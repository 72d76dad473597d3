"""The device service as a fabric: enrolment, certificates that are renewed in time, signed tasks."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Container
from contextlib import asynccontextmanager

from protos.device_pb2 import SignedTask
from protos.tasks import Task, open_task
from protos.trust import read_ticket
from scheduler.errors import Untrusted

from .identity import (
    Identity,
    credentials_of,
    enrolled,
    enrollment,
    own_key,
    write_identity,
)
from .link import Link
from .vault import Vault

log = logging.getLogger("fedpoet.device")


class DeviceService:
    """A coordinator at an address, HOST:PORT, that knows this device."""

    def __init__(
        self, address: str, identity: Identity, vault: Vault, now_s: Callable[[], float]
    ) -> None:
        self._address, self._identity, self._vault, self._now_s = address, identity, vault, now_s

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Link]:
        """A connection that is ready for a report; a certificate that runs out is renewed on it."""
        async with Link(self._address, self._identity.credentials) as link:
            await link.hello()
            if self._identity.is_due(self._now_s()):
                await self._renew(link)
            log.info("connected as device %d", self._identity.device_id)
            yield link

    def opened(self, signed: SignedTask, seen: Container[bytes]) -> Task:
        """The task, if its signature holds and it is for this device, new and in time."""
        return open_task(
            signed,
            authority=self._identity.credentials.authority,
            device_id=self._identity.device_id,
            now_s=self._now_s(),
            seen=seen,
        )

    async def _renew(self, link: Link) -> None:
        key = own_key(self._vault)
        reply = await link.enroll(enrollment(key))
        authority = self._identity.credentials.authority_pem
        try:
            self._identity = enrolled(reply, key, authority, self._now_s())
        except Untrusted as error:
            log.warning("the certificate could not be renewed: %s", error)
            return
        write_identity(self._vault, self._identity)
        log.info("the certificate is renewed")


async def enroll(vault: Vault, address: str, ticket: str, now_s: Callable[[], float]) -> Identity:
    """A new identity for a ticket, kept in the vault. Raises Untrusted, ConnectionLost or TurnedAway."""
    opened = read_ticket(ticket, now_s())
    credentials, key = credentials_of(opened), own_key(vault)
    async with Link(address, credentials) as link:
        await link.hello()
        reply = await link.enroll(enrollment(key, opened.secret))
    identity = enrolled(reply, key, credentials.authority_pem, now_s())
    write_identity(vault, identity)
    return identity
