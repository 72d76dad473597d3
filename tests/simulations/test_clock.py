from __future__ import annotations

import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from simulations.clock import VirtualClock

times = st.floats(0, 1e9, allow_nan=False, allow_subnormal=False)


@given(now_s=times, time_s=times)
@example(now_s=1.223231852054596, time_s=536870913.384523)  # no single delay ends there
def test_an_event_is_at_the_very_moment_that_was_meant(now_s, time_s):
    clock, seen = VirtualClock(now_s), []
    clock.at(time_s).callbacks.append(lambda _: seen.append(clock.now_s()))
    clock.run(2e9, lambda: bool(seen))
    assert seen == [max(now_s, time_s)]


def test_time_passes_until_something_happens_and_no_further():
    clock = VirtualClock(5.0)
    seen = []
    for time_s in (7.0, 9.0, 9.0, 11.0):
        clock.at(time_s).callbacks.append(lambda _: seen.append(clock.now_s()))
    clock.run(8.0, lambda: bool(seen))
    assert (seen, clock.now_s()) == ([7.0], 7.0)
    clock.run(8.0, lambda: len(seen) > 1)
    assert clock.now_s() == 8.0  # nothing happened; so long was waited
    clock.run(math.inf, lambda: len(seen) > 1)
    assert (seen, clock.now_s()) == ([7.0, 9.0, 9.0], 9.0)  # all events of the moment


def test_what_happens_at_the_last_moment_still_happens():
    clock = VirtualClock()
    seen = []
    clock.at(3.0).callbacks.append(seen.append)
    clock.run(3.0, lambda: False)
    assert len(seen) == 1


def test_waiting_ends_at_the_very_moment_also_where_no_single_delay_does():
    clock = VirtualClock(1.223231852054596)
    clock.run(536870913.384523, lambda: False)
    assert clock.now_s() == 536870913.384523


def test_waiting_for_ever_for_nothing_takes_no_time():
    clock = VirtualClock(2.0)
    clock.run(math.inf, lambda: False)
    assert clock.now_s() == 2.0


@pytest.mark.parametrize("time_s", [0.0, 3.0])
def test_what_is_past_happens_now(time_s):
    clock = VirtualClock(3.0)
    clock.at(time_s)
    clock.run(4.0, lambda: clock.kernel.peek() == math.inf)
    assert clock.now_s() == 3.0
