"""One message's way: down to a device, training there, and up again; as data that can be saved."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum

SILENCE_S = 60.0
"""Until the coordinator notices that a device is gone (measured with Flower 1.41's SuperLink)."""


class Phase(IntEnum):
    """Where a message is. It waits only if the coordinator's link carries so many at a time."""

    WAITS_DOWN = 0
    DOWN = 1
    TRAINS = 2
    WAITS_UP = 3
    UP = 4
    SILENT = 5  # lost, and the coordinator does not know yet
    OVER = 6


class End(IntEnum):
    """How a journey ended. All but ARRIVED leave the coordinator without an update."""

    UNDER_WAY = 0
    ARRIVED = 1
    WENT_OFFLINE = 2
    DROPPED_OUT = 3
    BATTERY_EMPTY = 4
    WITHDRAWN = 5

    def __str__(self) -> str:
        return self.name.lower().replace("_", " ")


WAITING = (Phase.WAITS_DOWN, Phase.WAITS_UP)
ON_THE_LINK = (Phase.DOWN, Phase.UP)


@dataclass(slots=True, kw_only=True)
class Journey:
    """The way of message `number`, sent at `sent_s` in `round` to the device in row `row` of the fleet.

    What is known when it starts: seconds of each phase and bytes of each way, steps of training and what
    their plan charges for them (`train_j`), what the device draws from its battery in all (`own_w` while it
    waits), what its charger gives, how much its battery can hold and held (`before_j`), and when and why
    it leaves. The rest is state: `end` is what will end the phase at `until_s`, `began_s` is when each phase
    began, NaN for those it never reached, and `order` is its place among the events of one moment.
    """

    number: int
    row: int
    round: int
    sent_s: float
    bytes_down: int
    bytes_up: int
    steps: int
    down_s: float
    train_s: float
    up_s: float
    train_j: float
    own_w: float
    radio_w: float
    train_w: float
    charge_w: float
    capacity_j: float
    leaves_s: float
    leaves_why: End
    before_j: float
    level_j: float
    phase: Phase = Phase.WAITS_DOWN
    until_s: float = math.inf
    end: End = End.UNDER_WAY
    order: int = -1
    began_s: tuple[float, ...] = (math.nan,) * len(Phase)

    def spent_s(self, phase: Phase, now_s: float) -> float:
        """Seconds spent in a phase until now."""
        began_s = self.began_s[phase]
        if math.isnan(began_s):
            return 0.0
        later = (t for t in self.began_s[phase + 1 :] if not math.isnan(t))
        return next(later, now_s) - began_s


def enter(journey: Journey, phase: Phase, now_s: float, order: int) -> None:
    """Begin a phase; from now on it is known when it will end, and why."""
    began_s = journey.began_s
    journey.began_s = (*began_s[:phase], now_s, *began_s[phase + 1 :])
    journey.phase, journey.order = phase, order
    if phase is Phase.OVER:
        journey.until_s = now_s
    elif phase is Phase.SILENT:
        journey.until_s = now_s + SILENCE_S
    else:
        net_w = _watts(journey) - journey.charge_w
        journey.until_s, journey.end = min(
            (now_s + _planned_s(journey), End.UNDER_WAY),
            (max(now_s, journey.leaves_s), journey.leaves_why),
            (now_s + journey.level_j / net_w if net_w > 0 else math.inf, End.BATTERY_EMPTY),
        )


def arrives_s(journey: Journey) -> float:
    """When it will arrive if nobody has to wait for a slot; infinity if it is known that it will not."""
    if journey.phase >= Phase.SILENT or journey.end is not End.UNDER_WAY:
        return math.inf
    left_s = [journey.down_s, journey.train_s, journey.up_s]
    begun = {Phase.DOWN: 1, Phase.TRAINS: 2, Phase.WAITS_UP: 2, Phase.UP: 3}.get(journey.phase, 0)
    arrives_s = journey.until_s + sum(left_s[begun:])
    return arrives_s if arrives_s <= journey.leaves_s else math.inf


def move_on(journey: Journey, now_s: float, order: int, queues: bool) -> None:
    """End the phase and begin the next: at `until_s`, or before when it was waiting and has got a slot.

    A device that left while it was waiting is lost since then, not since its turn came. `queues` says
    whether the coordinator's link makes messages wait.
    """
    phase = journey.phase
    if phase is Phase.SILENT:
        enter(journey, Phase.OVER, now_s, order)
        return
    ended_s = min(now_s, journey.until_s)
    if phase in WAITING and now_s <= journey.until_s:
        journey.end = End.UNDER_WAY
    _draw(journey, ended_s)
    if journey.end is not End.UNDER_WAY:
        enter(journey, Phase.SILENT, ended_s, order)
    elif phase is Phase.UP:
        journey.end = End.ARRIVED
        enter(journey, Phase.OVER, now_s, order)
    elif phase is Phase.TRAINS and not queues:
        enter(journey, Phase.UP, now_s, order)
    else:
        enter(journey, Phase(phase + 1), now_s, order)


def withdraw(journey: Journey, now_s: float, order: int) -> None:
    """End it now, since the coordinator wants no update of it any more: the device stops at once.

    It hears of that a latency later in truth. One that has left by now has left for its own reason.
    """
    if now_s > journey.until_s:
        move_on(journey, now_s, order, queues=True)
    if journey.phase is not Phase.SILENT:
        _draw(journey, now_s)
        journey.end = End.WITHDRAWN
    enter(journey, Phase.OVER, now_s, order)


def _draw(journey: Journey, until_s: float) -> None:
    """Take from the battery what the phase has taken, and add what the charger gave."""
    net_w = _watts(journey) - journey.charge_w
    level_j = journey.level_j - net_w * (until_s - journey.began_s[journey.phase])
    journey.level_j = min(journey.capacity_j, max(0.0, level_j))


def _watts(journey: Journey) -> float:
    if journey.phase is Phase.TRAINS:
        return journey.train_w
    return journey.radio_w if journey.phase in ON_THE_LINK else journey.own_w


def _planned_s(journey: Journey) -> float:
    """How long the phase takes if nothing comes between; waiting may take for ever."""
    if journey.phase is Phase.TRAINS:
        return journey.train_s
    if journey.phase is Phase.DOWN:
        return journey.down_s
    return journey.up_s if journey.phase is Phase.UP else math.inf
