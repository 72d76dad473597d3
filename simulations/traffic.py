"""All journeys under way, each a simpy process on the run's clock."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence

from simpy.events import ProcessGenerator
from simpy.resources.resource import Request, Resource

from .clock import VirtualClock
from .journey import ON_THE_LINK, WAITING, Journey, Phase, enter, move_on


class Traffic:
    """Moves journeys on as time passes; `on_end` is told of each that is over, in order of time.

    `slots` is how many messages the coordinator's link carries at a time, None for any number; the others
    wait in the order in which they came. `under_way` are the journeys of a run that is taken up again: they
    go on as they would have without the stop, events of the same moment in the same order.
    """

    def __init__(
        self,
        clock: VirtualClock,
        on_end: Callable[[Journey], None],
        slots: int | None = None,
        under_way: Iterable[Journey] = (),
    ) -> None:
        self._clock, self._on_end = clock, on_end
        self._link = None if slots is None else Resource(clock.kernel, slots)
        self._order = itertools.count()
        self._journeys: dict[int, Journey] = {}
        self._take_up(sorted(under_way, key=lambda j: j.order))

    @property
    def under_way(self) -> Sequence[Journey]:
        """Journeys that are not over."""
        return tuple(self._journeys.values())

    def start(self, journey: Journey) -> None:
        """Send a message on its way, now."""
        first = Phase.DOWN if self._link is None else Phase.WAITS_DOWN
        enter(journey, first, self._clock.now_s(), next(self._order))
        self._begin(journey, None)

    def _take_up(self, journeys: Sequence[Journey]) -> None:
        slots: dict[int, Request] = {}
        if self._link is not None:
            carried = [j.number for j in journeys if j.phase in ON_THE_LINK]
            slots = {number: self._link.request() for number in carried}
        for journey in journeys:
            journey.order = next(self._order)
            self._begin(journey, slots.get(journey.number))

    def _begin(self, journey: Journey, slot: Request | None) -> None:
        self._journeys[journey.number] = journey
        self._clock.kernel.process(self._travel(journey, slot))

    def _travel(self, journey: Journey, slot: Request | None) -> ProcessGenerator:
        link, clock = self._link, self._clock
        while journey.phase is not Phase.OVER:
            if journey.phase in WAITING and link is not None:
                slot = link.request()
                yield slot
            else:
                yield clock.at(journey.until_s)
            move_on(journey, clock.now_s(), next(self._order), queues=link is not None)
            if slot is not None and link is not None and journey.phase not in ON_THE_LINK:
                link.release(slot)
                slot = None
        del self._journeys[journey.number]
        self._on_end(journey)
