"""When a device may train: its owner's wishes against the facts. Pure; nothing is read here."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from scheduler.errors import BadInput

_DAY_MINUTES = 24 * 60


class Reason(StrEnum):
    """Why a device may or may not train now; the only thing a coordinator learns of a policy."""

    ALLOWED = "allowed"
    NOT_CHARGING = "not-charging"
    BATTERY_LOW = "battery-low"
    NOT_IDLE = "not-idle"
    METERED = "metered"
    QUIET_HOURS = "quiet-hours"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is so on the device now; None is a fact that nobody could tell.

    `battery` is a share from 0 to 1. `minute` is the minute of the local day, 0 to 1439.
    """

    charging: bool | None
    battery: float | None
    idle: bool | None
    unmetered: bool | None
    minute: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Hours:
    """From one minute of the day to another, which may lie on the next day; the end is not part of it."""

    start_minute: int
    end_minute: int

    def __contains__(self, minute: int) -> bool:
        since = (minute - self.start_minute) % _DAY_MINUTES
        return since < (self.end_minute - self.start_minute) % _DAY_MINUTES

    def __str__(self) -> str:
        return f"{_clock(self.start_minute)}-{_clock(self.end_minute)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What the owner asks for before the device trains. What is not asked for does not matter.

    `least_battery` is a share from 0 to 1; a device without a battery, on mains, meets it. In the quiet
    hours nothing is trained.
    """

    charging: bool = False
    idle: bool = False
    unmetered: bool = False
    least_battery: float = 0.0
    quiet_hours: tuple[Hours, ...] = ()


def verdict(policy: Policy, facts: Facts) -> Reason:
    """ALLOWED, or the first wish that is not met. A fact that is asked for and not known meets nothing."""
    if any(facts.minute in hours for hours in policy.quiet_hours):
        return Reason.QUIET_HOURS
    wishes = (
        (policy.charging, facts.charging, Reason.NOT_CHARGING),
        (policy.least_battery > 0, _charged(policy.least_battery, facts), Reason.BATTERY_LOW),
        (policy.unmetered, facts.unmetered, Reason.METERED),
        (policy.idle, facts.idle, Reason.NOT_IDLE),
    )
    for asked, met, reason in wishes:
        if asked and not met:
            return Reason.UNKNOWN if met is None else reason
    return Reason.ALLOWED


def _charged(least: float, facts: Facts) -> bool | None:
    """A device that is on mains and tells of no battery has none that could run down."""
    if facts.battery is None:
        return True if facts.charging else None
    return facts.battery >= least


def parse_hours(text: str) -> Hours:
    """Hours from "22:00-07:00". Raises BadInput for anything else, or for hours of no length."""
    match = re.fullmatch(r"\s*(\d{1,2}):(\d\d)\s*-\s*(\d{1,2}):(\d\d)\s*", text)
    numbers = [int(group) for group in match.groups()] if match else [99] * 4
    if numbers[0] > 23 or numbers[2] > 23 or numbers[1] > 59 or numbers[3] > 59:
        raise BadInput(f"{text!r} are no hours: write for example 22:00-07:00")
    start, end = numbers[0] * 60 + numbers[1], numbers[2] * 60 + numbers[3]
    if start == end:
        raise BadInput(f"{text!r} begins when it ends; leave it out, or name another end")
    return Hours(start_minute=start, end_minute=end)


def _clock(minute: int) -> str:
    return f"{minute // 60:02}:{minute % 60:02}"
