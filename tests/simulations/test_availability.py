from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulations.availability import (
    STAYS_S,
    State,
    drops_out_at,
    from_s,
    holds,
    next_change_s,
    next_offline_s,
    until_s,
)
from simulations.fleet import Habits, Window
from simulations.windows import DAY_S, slots
from tests.simulations.fleets import fleet_with, kind_of
from tests.strategies import habitual_fleets

RELAXED = settings(max_examples=60)

MOMENTS = st.sampled_from([0.0, 5 * DAY_S]) | st.floats(0.0, 10 * DAY_S)
DAYS = range(-3, 20)  # all days that can matter for MOMENTS


def rows_of(fleet):
    return np.arange(len(fleet))


def spans(fleet, state, row):
    """All windows of one device, day by day: the plain way."""
    found = []
    for slot in slots(fleet, state.habit, state, np.array([row])):
        if slot.always[0]:
            found.append((-math.inf, math.inf))
            continue
        opens_s = slot.opening_on_s(np.array(DAYS, dtype=np.float64))
        found += [(o, o + slot.length_s[0]) for o in opens_s if math.isfinite(o)]
    return found


def edges(found):
    """Moments at which something may go wrong: in windows, and at and just before their ends."""
    finite = [span for span in found if span[0] >= 0 and span[1] < 10 * DAY_S][:12]
    return [
        0.0,
        *(at for b, e in finite for at in (b, (b + e) / 2, e)),
        *(math.nextafter(at, 0.0) for span in finite for at in span),
    ]


@RELAXED
@given(habitual_fleets(), st.sampled_from(State))
def test_a_state_holds_within_its_windows_and_until_the_last_of_them_closes(fleet, state):
    for row in range(len(fleet)):
        found = spans(fleet, state, row)
        at_s = np.array(edges(found))
        until = until_s(fleet, state, np.full(len(at_s), row), at_s)
        expected = [max((e for b, e in found if b <= t < e), default=t) for t in at_s]
        assert until.tolist() == expected


@RELAXED
@given(habitual_fleets(), st.sampled_from(State))
def test_the_next_window_is_the_first_that_opens_later(fleet, state):
    for row in range(len(fleet)):
        found = spans(fleet, state, row)
        at_s = np.array(edges(found))
        limit_s = 15 * DAY_S
        begin = from_s(fleet, state, np.full(len(at_s), row), at_s, limit_s)
        expected = [min((b for b, _ in found if t < b <= limit_s), default=math.inf) for t in at_s]
        assert begin.tolist() == expected


def test_two_windows_of_a_state_are_drawn_apart():
    window = Window(start_h=8.0, hours=1.0, share=0.5, device_spread_h=2.0, day_spread_h=1.0)
    fleet = fleet_with([kind_of(Habits(idle=(window, window), online=(window,)))], 500)
    first, second = slots(fleet, "idle", State.IDLE, rows_of(fleet))
    (other,) = slots(fleet, "online", State.ONLINE, rows_of(fleet))
    days = np.full(500, 3.0)
    for one, two in ((first, second), (first, other)):
        there = np.isfinite(one.opening_on_s(days)), np.isfinite(two.opening_on_s(days))
        assert (there[0] & there[1]).mean() == pytest.approx(0.25, abs=0.07)
        assert abs(np.corrcoef(one.start_s, two.start_s)[0, 1]) < 0.15


@RELAXED
@given(habitual_fleets(), MOMENTS)
def test_a_device_is_online_until_it_goes_offline(fleet, now_s):
    rows = rows_of(fleet)
    for row, end_s in zip(rows, next_offline_s(fleet, rows, now_s), strict=True):
        assert end_s < now_s + STAYS_S or end_s == math.inf
        one = rows[row : row + 1]
        if not holds(fleet, State.ONLINE, one, now_s)[0]:
            assert end_s == now_s
            continue
        assert end_s > now_s
        for part in np.linspace(0.0, 0.999, 5):
            assert holds(
                fleet, State.ONLINE, one, now_s + part * (min(end_s, now_s + STAYS_S) - now_s)
            )[0]
        assert math.isinf(end_s) or not holds(fleet, State.ONLINE, one, end_s)[0]


@RELAXED
@given(habitual_fleets(), MOMENTS)
def test_nobody_comes_online_before_the_next_change_and_somebody_does_at_it(fleet, now_s):
    change_s = next_change_s(fleet, now_s)
    away = rows_of(fleet)[~holds(fleet, State.ONLINE, rows_of(fleet), now_s)]
    if math.isinf(change_s):
        return
    assert change_s > now_s
    assert holds(fleet, State.ONLINE, away, change_s).any()
    for part in (0.25, 0.5, 0.99):
        moment_s = now_s + part * (change_s - now_s)
        assert not holds(fleet, State.ONLINE, away, moment_s).any()
    assert not holds(fleet, State.ONLINE, away, math.nextafter(change_s, 0.0)).any()


@RELAXED
@given(habitual_fleets(), MOMENTS, st.randoms(use_true_random=False))
def test_a_device_is_the_same_whoever_else_is_asked(fleet, now_s, order):
    rows = rows_of(fleet)
    some = np.array(order.sample(list(rows), k=order.randint(1, len(rows))))
    for state in State:
        every = holds(fleet, state, rows, now_s)
        np.testing.assert_array_equal(holds(fleet, state, some, now_s), every[some])


@RELAXED
@given(habitual_fleets(), st.integers(0, 40), st.integers(-12, 12))
def test_a_time_zone_shifts_the_day_and_nothing_else(fleet, hour, zone_h):
    fields = {n: getattr(fleet, n) for n in ("seed", "utc_offset_s")}
    moved = fleet_with(
        list(fleet.kinds),
        len(fleet),
        seed=fields["seed"],
        utc_offset_s=fields["utc_offset_s"] + 3600.0 * zone_h,
    )
    at_s = (hour + 0.37) * 3600.0 + 5 * DAY_S
    for state in State:
        here = holds(fleet, state, rows_of(fleet), at_s)
        there = holds(moved, state, rows_of(fleet), at_s - 3600.0 * zone_h)
        np.testing.assert_array_equal(here, there)


def test_a_share_of_the_days_is_as_large_as_it_says():
    night = Window(start_h=22.0, hours=8.0, share=0.7, device_spread_h=2.0, day_spread_h=1.0)
    fleet = fleet_with([kind_of(Habits(charging=(night,)))], 2000, seed=3)
    at_2_h = [
        holds(fleet, State.CHARGING, rows_of(fleet), (d + 1) * DAY_S + 2 * 3600) for d in range(20)
    ]
    nights = np.array(at_2_h)
    assert nights.mean() == pytest.approx(0.7, abs=0.01)
    assert nights.mean(axis=1).std() < 0.02  # no day is special
    assert nights.mean(axis=0).std() == pytest.approx(
        math.sqrt(0.7 * 0.3 / 20), rel=0.1
    )  # no device


def test_a_device_has_its_own_hour_and_every_day_a_little_of_another():
    window = Window(start_h=12.0, hours=1.0, device_spread_h=3.0, day_spread_h=0.5)
    fleet = fleet_with([kind_of(Habits(idle=(window,)))], 1000)
    (slot,) = slots(fleet, "idle", State.IDLE, rows_of(fleet))
    days = [slot.opening_on_s(np.full(1000, float(d))) - d * DAY_S for d in range(30)]
    hours = np.array(days) / 3600
    own_hours = hours.mean(axis=0)
    assert (np.abs(own_hours - 12) <= 3.1).all()
    assert own_hours.std() == pytest.approx(3 / math.sqrt(6), rel=0.1)  # a triangle's
    assert (np.abs(hours - own_hours) <= 1.0).all()
    assert (hours - own_hours).std() == pytest.approx(0.5 / math.sqrt(6), rel=0.1)


@RELAXED
@given(st.floats(0.0, 1.0), st.integers(0, 1000))
def test_so_many_drop_out_as_the_probability_says_each_somewhere_on_the_way(chance, number):
    fleet = fleet_with([kind_of()], 2000, seed=11, drop_out=chance)
    where = drops_out_at(fleet, rows_of(fleet), number)
    drops = np.isfinite(where)
    assert drops.mean() == pytest.approx(chance, abs=0.06)
    assert ((where >= 0) & (where < 1))[drops].all()
    np.testing.assert_array_equal(where, drops_out_at(fleet, rows_of(fleet), number))


def test_another_round_and_another_seed_drop_others():
    fleets = [fleet_with([kind_of()], 200, seed=seed, drop_out=0.5) for seed in (0, 1)]
    rounds = [np.isfinite(drops_out_at(f, rows_of(f), n)) for f in fleets for n in (1, 2)]
    assert len({tuple(r) for r in rounds}) == 4
