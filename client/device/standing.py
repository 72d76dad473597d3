"""What a device says of itself, and when that has changed enough to say it again."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from protos.device_pb2 import Capabilities, KnownWorkload, NotReady
from scheduler import load_device

from .ask import Described, Owner
from .policy import Facts, Reason

_BATTERY_STEP = 0.05
_NOT_READY = {
    Reason.NOT_CHARGING: NotReady.NOT_READY_NOT_CHARGING,
    Reason.NOT_IDLE: NotReady.NOT_READY_NOT_IDLE,
    Reason.METERED: NotReady.NOT_READY_METERED,
    Reason.BATTERY_LOW: NotReady.NOT_READY_BATTERY_LOW,
    Reason.QUIET_HOURS: NotReady.NOT_READY_QUIET_HOURS,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Facts and policy at one moment, and what comes of them."""

    facts: Facts
    reason: Reason

    @property
    def ready(self) -> bool:
        """Whether the device may train."""
        return self.reason is Reason.ALLOWED

    def differs(self, other: Standing) -> bool:
        """Whether a coordinator that knows the other should be told this one."""
        mine, theirs = self.facts, other.facts
        moved = abs((mine.battery or 0.0) - (theirs.battery or 0.0)) >= _BATTERY_STEP
        same = (mine.charging, mine.idle, mine.unmetered, self.reason) == (
            theirs.charging,
            theirs.idle,
            theirs.unmetered,
            other.reason,
        )
        return moved or not same


def capabilities(
    now: Standing, owner: Owner, workloads: Sequence[Described], free_ram_bytes: int
) -> Capabilities:
    """The report to the coordinator. What is not known counts as not so."""
    profile = load_device(owner.device)
    return Capabilities(
        profile=profile.name if owner.device == profile.name else Path(owner.device).stem,
        device_kind=f"{platform.system()} {platform.machine()}",
        free_ram_bytes=free_ram_bytes,
        ram_budget_bytes=owner.ram_bytes or profile.trainable_bytes,
        battery=now.facts.battery,
        charging=bool(now.facts.charging),
        idle=bool(now.facts.idle),
        unmetered=bool(now.facts.unmetered),
        workloads=[
            KnownWorkload(name=known.name, digest=bytes.fromhex(known.digest))
            for known in workloads
        ],
        ready=now.ready,
        not_ready=_NOT_READY.get(now.reason, NotReady.NOT_READY_UNSPECIFIED),
    )
