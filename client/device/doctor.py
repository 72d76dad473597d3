"""What this machine lacks to take part, found out before it matters."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from client.page_store import unused_path
from scheduler.errors import ConnectionLost, FedpoetError, TurnedAway

from .facts import Reading, Sources
from .identity import Identity, read_identity
from .link import Link
from .policy import Policy, Reason, verdict
from .vault import Vault

LEAST_PYTHON = (3, 11)
LEAST_RAM_BYTES = 512 * 2**20  # torch alone takes some 210 MB
LEAST_FREE_BYTES = 2**30
LEAST_TIME_S = 1_704_067_200.0  # 2024: a clock before that was never set
SOON_S = 14 * 86_400.0
CONNECT_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at. A warning is no fault: the device can take part."""

    what: str
    text: str
    good: bool = True
    warning: bool = False

    @property
    def mark(self) -> str:
        """One word for how it is."""
        return "FAIL" if not self.good else "warning" if self.warning else "ok"


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What is examined; without an address, no coordinator is called."""

    folder: Path
    address: str | None
    policy: Policy
    sources: Sources
    now_s: Callable[[], float]


def examine(subject: Subject) -> Iterator[Finding]:
    """Everything, one after the other."""
    yield _python()
    yield _ram(subject.sources.free_ram())
    yield _pages(subject.folder)
    yield _clock(subject.now_s())
    identity, finding = _identity(subject)
    yield finding
    if subject.address is not None:
        yield _coordinator(subject.address, identity)
    yield from _facts(subject)
    yield _torch()


def _python() -> Finding:
    found = ".".join(map(str, sys.version_info[:3]))
    good = sys.version_info[:2] >= LEAST_PYTHON
    return Finding(what="Python", text=f"{found}; 3.11 or newer is needed", good=good)


def _torch() -> Finding:
    """Imported for real, in a process that gives its memory back."""
    code = "import torch; print(torch.__version__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no word why"])[-1]
        return Finding(what="torch", text=f"cannot be imported: {last}", good=False)
    return Finding(what="torch", text=done.stdout.strip())


def _ram(free: Reading[int]) -> Finding:
    if free.value is None:
        return Finding(what="RAM", text=free.source, warning=True)
    good = free.value >= LEAST_RAM_BYTES
    text = f"{free.value:,} bytes free; {LEAST_RAM_BYTES:,} are needed for torch and a small model"
    return Finding(what="RAM", text=text, good=good)


def _pages(folder: Path) -> Finding:
    """A page is written and read back where the page store will be."""
    from client.page_store import PageStore

    place = folder if folder.exists() else folder.absolute().parent
    try:
        with PageStore(unused_path(place)) as store:
            page, back = store.write(0, memoryview(b"page")), bytearray(4)
            store.read(page, memoryview(back))
    except FedpoetError as error:
        return Finding(what="page store", text=str(error), good=False)
    free = shutil.disk_usage(place).free
    text = f"{place} can be written; {free:,} bytes are free"
    return Finding(what="page store", text=text, warning=free < LEAST_FREE_BYTES)


def _clock(now_s: float) -> Finding:
    shown = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now_s))
    if now_s < LEAST_TIME_S:
        return Finding(what="clock", text=f"{shown}: it was never set; use NTP", good=False)
    return Finding(what="clock", text=f"{shown}; certificates and tasks depend on it")


def _identity(subject: Subject) -> tuple[Identity | None, Finding]:
    folder = subject.folder
    if not (folder / "secret").exists():
        text = f"{folder} has none yet; join with a ticket"
        return None, Finding(what="certificate", text=text, warning=True)
    try:
        identity = read_identity(Vault(folder))
    except FedpoetError as error:
        return None, Finding(what="certificate", text=str(error), good=False)
    if identity is None:
        text = f"{folder} has none yet; join with a ticket"
        return None, Finding(what="certificate", text=text, warning=True)
    until = identity.credentials.certificate.not_valid_after_utc
    left_s = until.timestamp() - subject.now_s()
    text = f"device {identity.device_id}, valid until {until:%Y-%m-%d %H:%M} UTC"
    if left_s <= 0:
        text += ": expired; join with a new ticket in a new folder"
    return identity, Finding(
        what="certificate", text=text, good=left_s > 0, warning=left_s < SOON_S
    )


def _coordinator(address: str, identity: Identity | None) -> Finding:
    if identity is None:
        text = f"{address} is not called: without a certificate it would not answer"
        return Finding(what="coordinator", text=text, warning=True)
    try:
        asyncio.run(asyncio.wait_for(_greet(address, identity), CONNECT_S))
    except (ConnectionLost, TurnedAway) as error:
        return Finding(what="coordinator", text=str(error), good=False)
    except TimeoutError:
        text = f"{address} did not answer for {CONNECT_S:.0f} s"
        return Finding(what="coordinator", text=text, good=False)
    return Finding(what="coordinator", text=f"{address} answers, and knows this device")


async def _greet(address: str, identity: Identity) -> None:
    async with Link(address, identity.credentials) as link:
        await link.hello()


def _facts(subject: Subject) -> Iterator[Finding]:
    """Each fact and who says so; one that is asked for and not known is a fault."""
    policy, sources = subject.policy, subject.sources
    power, idle, unmetered = sources.power(), sources.idle(0.0), sources.unmetered()
    charging = None if power.value is None else power.value.charging
    battery = None if power.value is None else power.value.battery
    level = "no battery" if battery is None else f"{battery:.0%}"
    yield _fact("charging", charging, power.source, asked=policy.charging)
    yield _fact(
        "battery",
        None if power.value is None else level,
        power.source,
        asked=policy.least_battery > 0,
    )
    yield _fact("idle", idle.value, idle.source, asked=policy.idle)
    yield _fact("unmetered", unmetered.value, unmetered.source, asked=policy.unmetered)
    found = verdict(policy, sources.facts())
    allowed = found is Reason.ALLOWED
    text = "training is allowed now" if allowed else f"training is not allowed now: {found}"
    yield Finding(what="policy", text=text, warning=not allowed)


def _fact(what: str, value: object, source: str, *, asked: bool) -> Finding:
    shown = "not known" if value is None else str(value).lower()
    return Finding(
        what=what,
        text=f"{shown} ({source})",
        good=value is not None or not asked,
        warning=value is None,
    )
