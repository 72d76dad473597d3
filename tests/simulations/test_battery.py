from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulations.availability import State, holds
from simulations.battery import full_at_start, level_after, powered, share
from simulations.fleet import Habits, Thermal, Window
from simulations.thermal import heated_s
from simulations.windows import DAY_S
from tests.simulations.fleets import fleet_with, kind_of
from tests.strategies import habitual_fleets

RELAXED = settings(max_examples=60)

TIMES = st.tuples(*[st.floats(0.0, 10 * DAY_S)] * 3).map(sorted)


@RELAXED
@given(habitual_fleets(), TIMES, st.floats(0.0, 1.0))
def test_a_level_brought_forward_in_two_steps_is_that_of_one(fleet, times, part):
    rows = np.arange(len(fleet))
    before_j = part * full_at_start(fleet) if part else 0.0 * np.ones(len(fleet))
    start_s, middle_s, end_s = (np.full(len(fleet), t) for t in times)
    once_j = level_after(fleet, rows, before_j, start_s, times[2])
    halfway_j = level_after(fleet, rows, before_j, start_s, times[1])
    twice_j = level_after(fleet, rows, halfway_j, middle_s, times[2])
    np.testing.assert_allclose(once_j, twice_j, rtol=1e-9, atol=1e-3)
    assert ((once_j >= 0) & (once_j <= fleet.battery_j)).all()
    np.testing.assert_array_equal(level_after(fleet, rows, once_j, end_s, times[2]), once_j)


@RELAXED
@given(habitual_fleets(), st.floats(0.0, DAY_S))
def test_a_level_is_the_sum_of_small_steps(fleet, start_s):
    """Against a plain integration, a minute at a time."""
    step_s, rows = 60.0, np.arange(len(fleet))
    own_w = np.array([k.own_w for k in fleet.kinds])[fleet.kind]
    plain_j = 0.5 * full_at_start(fleet)
    found_j = level_after(
        fleet, rows, plain_j, np.full(len(fleet), start_s), start_s + 100 * step_s
    )
    changes = 0
    before = holds(fleet, State.CHARGING, rows, start_s)
    for k in range(100):
        plugged = holds(fleet, State.CHARGING, rows, start_s + (k + 0.5) * step_s)
        changes += int((plugged != before).sum())
        before = plugged
        plain_j = plain_j + (plugged * fleet.charge_w - own_w) * step_s
        plain_j = np.clip(plain_j, 0, fleet.battery_j)
    off_j = (2 * changes + 8) * step_s * (fleet.charge_w + own_w) + 1e-6
    finite = np.isfinite(plain_j)
    assert (np.abs(found_j[finite] - plain_j[finite]) <= off_j[finite]).all()
    assert np.isinf(found_j[~finite]).all()


def test_a_phone_lives_through_the_day_and_charges_at_night():
    night = Window(start_h=22.0, hours=8.0)
    fleet = fleet_with(
        [kind_of(Habits(charging=(night,)), own_w=0.5)], 1, battery_j=60_000.0, charge_w=10.0
    )
    row, full_j, start_s = np.array([0]), np.array([60_000.0]), np.array([6 * 3600.0])
    evening_j = level_after(fleet, row, full_j, start_s, 22 * 3600.0)
    assert evening_j[0] == pytest.approx(60_000 - 16 * 3600 * 0.5)
    assert share(fleet, row, evening_j)[0] == pytest.approx(0.52)
    hour_later_j = level_after(fleet, row, full_j, start_s, 23 * 3600.0)
    assert hour_later_j[0] == pytest.approx(evening_j[0] + 3600 * 9.5) or hour_later_j[0] == 60_000
    assert level_after(fleet, row, full_j, start_s, 30 * 3600.0)[0] == 60_000


def test_an_empty_device_runs_only_on_a_charger_that_holds_it_up():
    kinds = [kind_of(own_w=1.0)]
    fleet = fleet_with(kinds, 3, battery_j=100.0, charge_w=[0.5, 1.0, 5.0])
    rows, empty = np.arange(3), np.zeros(3)
    assert powered(fleet, rows, empty, np.ones(3, bool)).tolist() == [False, True, True]
    assert not powered(fleet, rows, empty, np.zeros(3, bool)).any()
    assert powered(fleet, rows, empty + 1, np.zeros(3, bool)).all()


def test_on_mains_a_battery_is_always_full():
    fleet = fleet_with([kind_of(own_w=5.0)], 2)
    rows = np.arange(2)
    level_j = level_after(fleet, rows, full_at_start(fleet), np.zeros(2), 1e6)
    assert np.isinf(level_j).all()
    assert share(fleet, rows, level_j).tolist() == [1.0, 1.0]


@RELAXED
@given(st.floats(0, 1e5), st.floats(0, 1e5), st.floats(0.01, 1.0))
def test_heat_slows_only_what_comes_after_its_onset(cool_s, onset_s, sustained):
    kinds = [kind_of(thermal=Thermal(onset_s=onset_s, sustained=sustained)), kind_of(name="cool")]
    hot_s, never_s = heated_s(fleet_with(kinds, 2), np.arange(2), np.full(2, cool_s))
    assert never_s == cool_s
    assert hot_s >= cool_s
    if cool_s <= onset_s:
        assert hot_s == cool_s
    else:
        work = onset_s + (hot_s - onset_s) * sustained  # what the slower device does in that time
        assert work == pytest.approx(cool_s)
    assert math.isfinite(hot_s)
