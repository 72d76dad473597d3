"""All journeys under way, each a simpy process on the run's clock."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence

from simpy.events import ProcessGenerator
from simpy.resources.resource import Request, Resource

from .clock import VirtualClock
from .journey import ON_THE_LINK, WAITING, Journey, Phase, enter, move_on, withdraw


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
        self._places: dict[int, Request] = {}  # on the link, or in the queue for it
        self._take_up(sorted(under_way, key=lambda j: j.order))

    @property
    def under_way(self) -> Sequence[Journey]:
        """Journeys that are not over."""
        return tuple(self._journeys.values())

    def start(self, journey: Journey) -> None:
        """Send a message on its way, now."""
        first = Phase.DOWN if self._link is None else Phase.WAITS_DOWN
        enter(journey, first, self._clock.now_s(), next(self._order))
        self._begin(journey)

    def withdraw(self, number: int) -> Journey:
        """End a journey now; `on_end` is not told. Its process wakes once more, and finds it over."""
        journey = self._journeys.pop(number)
        withdraw(journey, self._clock.now_s(), next(self._order))
        self._give_up_place(number)
        return journey

    def _take_up(self, journeys: Sequence[Journey]) -> None:
        if self._link is not None:
            carried = [j.number for j in journeys if j.phase in ON_THE_LINK]
            self._places = {number: self._link.request() for number in carried}
        for journey in journeys:
            journey.order = next(self._order)
            self._begin(journey)

    def _begin(self, journey: Journey) -> None:
        self._journeys[journey.number] = journey
        self._clock.kernel.process(self._travel(journey))

    def _travel(self, journey: Journey) -> ProcessGenerator:
        link, clock = self._link, self._clock
        while journey.phase is not Phase.OVER:
            if journey.phase in WAITING and link is not None:
                self._places[journey.number] = place = link.request()
                yield place
            else:
                yield clock.at(journey.until_s)
            if journey.number not in self._journeys:
                return  # withdrawn meanwhile
            move_on(journey, clock.now_s(), next(self._order), queues=link is not None)
            if journey.phase not in ON_THE_LINK:
                self._give_up_place(journey.number)
        if self._journeys.pop(journey.number, None) is not None:
            self._on_end(journey)

    def _give_up_place(self, number: int) -> None:
        place = self._places.pop(number, None)
        if place is not None and self._link is not None:
            if place.triggered:
                self._link.release(place)
            else:
                place.cancel()
