"""The rules of a round: who may be asked, how many, how long to wait, and what a late update is worth."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from scheduler.errors import BadInput

from .reports import Reports


@dataclass(frozen=True, slots=True, kw_only=True)
class Eligibility:
    """What a device must be to be asked. The default asks every device whose owner allows it."""

    charging: bool = False
    idle: bool = False
    unmetered: bool = False
    battery_at_least: float = 0.0
    free_ram_bytes_at_least: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.battery_at_least <= 1:
            raise BadInput(f"battery_at_least is from 0 to 1, not {self.battery_at_least}")
        if self.free_ram_bytes_at_least < 0:
            raise BadInput("free_ram_bytes_at_least cannot be negative")

    def mask(self, reports: Reports) -> NDArray[np.bool_]:
        """Which rows of the reports may be asked, [n]."""
        mask = reports.can_train & (reports.battery >= self.battery_at_least)
        mask &= reports.free_ram_bytes >= self.free_ram_bytes_at_least
        for name in ("charging", "idle", "unmetered"):
            if getattr(self, name):
                mask = mask & getattr(reports, name)
        return mask


class Late(StrEnum):
    """What becomes of an update that comes after its round has ended."""

    DROP = "drop"
    ADD = "add"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """How a round goes.

    `cohort` updates are wanted, and `over_selection` times as many devices are asked; None asks every
    eligible device. The round ends when the wanted updates are there, when no device owes one, or after
    `deadline_s`. With fewer than `least_updates` it is skipped: the model stays. `patience_s` is how long
    a round waits for `least_updates` eligible devices, or for as many as it wants to ask.
    More than `most_skipped` skipped rounds in a row end the run.

    With `buffer`, rounds are buffered asynchronous ones (FedBuff, Nguyen et al. 2022): `cohort` devices
    are always at work, each with the newest model when it was asked, and a round ends after `buffer` updates.

    An update that began `s` rounds ago is moved to the newest model and weighs
    1 / (1 + s) ** `staleness` of its examples. `largest_change` refuses an update whose L2 distance from the
    model it began with is larger.
    """

    cohort: int | None = None
    over_selection: float = 1.0
    deadline_s: float | None = None
    least_updates: int = 1
    patience_s: float = 0.0
    most_skipped: int = 0
    eligibility: Eligibility = Eligibility()
    late: Late = Late.DROP
    buffer: int | None = None
    staleness: float = 0.5
    largest_change: float | None = None

    def __post_init__(self) -> None:
        for name, least in (("cohort", 1), ("least_updates", 1), ("buffer", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise BadInput(f"{_words(name)} must be {least} or more, not {value}")
        for name, least in (("patience_s", 0), ("most_skipped", 0), ("staleness", 0)):
            if not getattr(self, name) >= least:
                raise BadInput(f"{_words(name)} must be {least} or more, not {getattr(self, name)}")
        if not 1 <= self.over_selection < math.inf:
            raise BadInput(f"over-selection must be 1 or more, not {self.over_selection}")
        for name in ("deadline_s", "largest_change"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise BadInput(f"{_words(name)} must be more than 0, not {value}")
        if self.buffer is not None and self.cohort is None:
            raise BadInput("buffered rounds need a cohort: how many devices work at a time")

    @property
    def keeps_late(self) -> bool:
        """Whether updates of older model versions are aggregated."""
        return self.buffer is not None or self.late is Late.ADD

    def asked(self, eligible: int) -> int:
        """How many of the eligible devices a synchronous round asks."""
        if self.cohort is None:
            return eligible
        return min(eligible, math.ceil(self.cohort * self.over_selection))

    def worth(self, stale: int) -> float:
        """The weight of an example in an update that began `stale` versions ago."""
        return float((1 + stale) ** -self.staleness)


def _words(name: str) -> str:
    return name.removesuffix("_s").replace("_", " ")
