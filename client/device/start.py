"""From a folder and the owner's wishes to a device that takes part."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random

from protos.trust import read_ticket
from scheduler.errors import BadInput, StateError

from .ask import Describe, Described, Failed, Measure, Message, Owner
from .facts import Sources
from .identity import (
    Identity,
    credentials_of,
    enrolled,
    enrollment,
    own_key,
    read_identity,
    write_identity,
)
from .link import Link
from .member import Joining, Member
from .policy import Policy
from .vault import Vault
from .watch import Pace
from .worker import Worker

PROFILE = "measured.toml"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What the owner says on the command line. `device` None measures this machine, once.

    `workloads` are names or path.py:name; `ram_bytes` None is what the profile leaves for training.
    """

    address: str
    folder: Path
    ticket: str | None
    workloads: tuple[str, ...]
    device: str | None
    ram_bytes: int | None
    partition: int
    compression: str
    policy: Policy
    pace: Pace
    keep_warm_s: float


async def take_part(
    wishes: Wishes, sources: Sources, *, generator: Random, now_s: Callable[[], float]
) -> None:
    """Join and take part until SIGTERM, which keeps all work for the next start, or SIGINT, which ends it.

    Raises BadInput, StateError, Untrusted, ConnectionLost (of the first enrolment only) and TurnedAway.
    """
    told = asyncio.Event()
    running = asyncio.ensure_future(_joined(wishes, sources, told, generator, now_s))

    def leave() -> None:
        told.set()
        running.cancel()

    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, running.cancel)
    loop.add_signal_handler(signal.SIGINT, leave)
    with suppress(asyncio.CancelledError):
        await running


async def _joined(
    wishes: Wishes,
    sources: Sources,
    leaving: asyncio.Event,
    generator: Random,
    now_s: Callable[[], float],
) -> None:
    vault = Vault(wishes.folder)
    with only_one(wishes.folder):
        vault.tidy()
        identity = read_identity(vault) or await _enroll(vault, wishes, now_s)
        profile = wishes.folder / PROFILE
        owner = Owner(
            device=wishes.device or str(profile),
            ram_bytes=wishes.ram_bytes,
            partition=wishes.partition,
            compression=wishes.compression,
        )
        worker = Worker(wishes.folder, owner, keep_warm_s=wishes.keep_warm_s)
        try:
            if wishes.device is None and not profile.exists():
                await _asked(worker, Measure(out=str(profile)), "this machine cannot be measured")
            joining = Joining(
                address=wishes.address,
                owner=owner,
                policy=wishes.policy,
                workloads=await _described(worker, wishes.workloads),
                pace=wishes.pace,
            )
            member = Member(
                joining, identity, vault, worker, sources, generator=generator, now_s=now_s
            )
            try:
                await member.run()
            finally:
                if leaving.is_set():
                    await member.leave()
        finally:
            await worker.stop()


async def _enroll(vault: Vault, wishes: Wishes, now_s: Callable[[], float]) -> Identity:
    if wishes.ticket is None:
        raise BadInput(
            f"{wishes.folder} has no identity yet: join with --ticket, which the coordinator's owner "
            "makes with: fedpoet keys ticket"
        )
    ticket = read_ticket(wishes.ticket, now_s())
    credentials, key = credentials_of(ticket), own_key(vault)
    async with Link(wishes.address, credentials) as link:
        await link.hello()
        reply = await link.enroll(enrollment(key, ticket.secret))
    identity = enrolled(reply, key, credentials.authority_pem, now_s())
    write_identity(vault, identity)
    return identity


async def _described(worker: Worker, workloads: Sequence[str]) -> dict[Described, str]:
    found: dict[Described, str] = {}
    for workload in workloads:
        answer = await _asked(
            worker, Describe(workload=workload), f"workload {workload} cannot be used"
        )
        if isinstance(answer, Described):
            found[answer] = workload
    return found


async def _asked(worker: Worker, message: Message, what: str) -> Message:
    answer = await worker.ask(message)
    if isinstance(answer, Failed):
        raise BadInput(f"{what}: the lines above say why")
    return answer


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Two processes with one identity would take each other's tasks. Raises StateError for the second."""
    path = folder / "lock"
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StateError(f"{path} cannot be used: {error.strerror}") from error
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise StateError(
                f"another fedpoet join uses {folder}; end it, or choose another folder"
            ) from error
        yield
    finally:
        os.close(file)
