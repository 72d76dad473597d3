from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from simulations.availability import State, holds
from simulations.battery import level_after
from simulations.fleet import Habits, Window
from simulations.presence import Presence
from tests.simulations.fleets import fleet_with, kind_of

windows = st.builds(
    Window,
    start_h=st.floats(0, 23),
    hours=st.floats(0.5, 23),
    share=st.floats(0.2, 1),
    device_spread_h=st.floats(0, 6),
    day_spread_h=st.floats(0, 3),
)
habits = st.builds(
    Habits,
    online=st.lists(windows, min_size=1, max_size=2).map(tuple),
    charging=st.lists(windows, min_size=1, max_size=2).map(tuple),
)
times = st.lists(st.floats(0, 5 * 86400), min_size=1, max_size=8).map(sorted)
# So near that most windows go on from one to the next.
close = st.lists(st.floats(0, 2 * 3600), min_size=2, max_size=8).map(sorted)


def fleet_of(habit, seed):
    kind = kind_of(habit, own_w=0.3)
    return fleet_with([kind], 6, seed, battery_j=40_000.0, charge_w=3.1, battery_start=0.7)


@settings(max_examples=40)
@given(habit=habits, seed=st.integers(0, 99), times_s=times)
def test_what_is_remembered_is_what_would_be_worked_out(habit, seed, times_s):
    fleet = fleet_of(habit, seed)
    presence, rows = Presence(fleet), np.arange(len(fleet))
    for now_s in times_s:
        for state in State:
            expected = holds(fleet, state, rows, now_s)
            assert presence.holds(state, now_s).tolist() == expected.tolist()


@settings(max_examples=40)
@given(habit=habits, seed=st.integers(0, 99), times_s=times, journey=st.integers(0, 7))
def test_levels_are_those_of_the_days_whenever_they_are_asked_for(habit, seed, times_s, journey):
    fleet = fleet_of(habit, seed)
    presence, rows = Presence(fleet), np.arange(len(fleet))
    first = presence.batteries()
    level_j, since_s = first.level_j, first.since_s
    for number, now_s in enumerate(times_s):
        if number == journey and number:
            at_s = 0.5 * (times_s[number - 1] + now_s)  # a journey ended between two looks
            presence.note(2, 900.0, at_s)
            level_j[2], since_s[2] = 900.0, at_s
        expected = level_after(fleet, rows, level_j, since_s, now_s)
        np.testing.assert_allclose(presence.levels(rows, now_s), expected, rtol=1e-9, atol=1e-6)


@settings(max_examples=40)
@given(
    habit=habits,
    seed=st.integers(0, 99),
    times_s=close,
    stop=st.integers(0, 7),
    asked=st.lists(st.sets(st.integers(0, 4)), min_size=8, max_size=8),
)
def test_a_run_that_is_taken_up_again_finds_the_same_batteries(habit, seed, times_s, stop, asked):
    """To the last bit, whichever devices are looked at, and whenever a journey ends."""
    fleet = fleet_of(habit, seed)
    whole, again, rows = Presence(fleet), Presence(fleet), np.arange(len(fleet))
    for number, (now_s, some) in enumerate(zip(times_s, asked, strict=False)):
        if number == stop:
            fresh = Presence(fleet)
            fresh.restore(again.batteries())
            again = fresh
        seen = np.array(sorted(r for r in some if r < len(fleet)), dtype=np.int64)
        assert whole.levels(seen, now_s).tolist() == again.levels(seen, now_s).tolist()
        for row, level_j in zip(seen.tolist()[:1], (700.0,), strict=False):
            whole.note(row, level_j, now_s)
            again.note(row, level_j, now_s)
    assert whole.levels(rows, now_s).tolist() == again.levels(rows, now_s).tolist()
    assert whole.reports(now_s).node.tolist() == again.reports(now_s).node.tolist()
