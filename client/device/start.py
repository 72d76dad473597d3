"""From a folder and the owner's wishes to a device that takes part."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random

from scheduler.errors import BadInput, StateError

from .ask import Describe, Described, Failed, Measure, Message, Owner
from .fabric import Fabric
from .facts import Sources
from .identity import read_identity
from .member import Joining, Member
from .policy import Policy
from .vault import Vault
from .watch import Pace
from .worker import Worker

PROFILE = "measured.toml"


@dataclass(frozen=True, slots=True, kw_only=True)
class SuperLinkKeys:
    """How a SuperLink is spoken to: its authority's file, None for those of the system; this node's key file.

    Without a key, the device makes its own and registers itself. `insecure` is without TLS.
    """

    root_certificates: Path | None
    node_key: Path | None
    insecure: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What the owner says on the command line. `device` None measures this machine, once.

    `superlink` None is the device service, else `address` is a SuperLink's.

    `workloads` are names or path.py:name; `ram_bytes` None is what the profile leaves for training.
    """

    address: str
    superlink: SuperLinkKeys | None
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
        service = None if wishes.superlink else await _service(vault, wishes, now_s)
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
                owner=owner,
                policy=wishes.policy,
                workloads=await _described(worker, wishes.workloads),
                pace=wishes.pace,
            )
            fabric = service or _superlink(vault, wishes, tuple(joining.workloads), now_s)
            member = Member(
                joining, fabric, vault, worker, sources, generator=generator, now_s=now_s
            )
            try:
                await member.run()
            finally:
                if leaving.is_set():
                    await member.leave()
        finally:
            await worker.stop()


async def _service(vault: Vault, wishes: Wishes, now_s: Callable[[], float]) -> Fabric:
    from .service import DeviceService, enroll  # not above: a device of a SuperLink needs no gRPC

    identity = read_identity(vault)
    if identity is None:
        if wishes.ticket is None:
            raise BadInput(
                f"{wishes.folder} has no identity yet: join with --ticket, which the coordinator's "
                "owner makes with: fedpoet keys ticket"
            )
        identity = await enroll(vault, wishes.address, wishes.ticket, now_s)
    return DeviceService(wishes.address, identity, vault, now_s)


def _superlink(
    vault: Vault, wishes: Wishes, known: tuple[Described, ...], now_s: Callable[[], float]
) -> Fabric:
    from .superlink import SuperLink, load_key  # not above: flwr takes 60 MB
    from .superlink_calls import Calls

    assert wishes.superlink is not None  # noqa: S101 (else there is a service)
    keys = wishes.superlink
    roots = None if keys.root_certificates is None else str(keys.root_certificates)
    calls = partial(
        Calls,
        wishes.address,
        insecure=keys.insecure,
        root_certificates=roots,
        key=load_key(vault, keys.node_key),
        vault=vault,
        known=known,
        now_s=now_s,
    )
    return SuperLink(wishes.address, calls, registers=keys.node_key is None, now_s=now_s)


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
