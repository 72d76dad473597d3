from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.device.policy import Facts, Hours, Policy, Reason, parse_hours, verdict
from scheduler.errors import BadInput
from tests.strategies import facts, policies

GOOD = Facts(charging=True, battery=0.8, idle=True, unmetered=True, minute=12 * 60)
STRICT = Policy(charging=True, idle=True, unmetered=True, least_battery=0.5)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, Reason.ALLOWED),
        ({"charging": False}, Reason.NOT_CHARGING),
        ({"battery": 0.49}, Reason.BATTERY_LOW),
        ({"battery": 0.5}, Reason.ALLOWED),
        ({"battery": None}, Reason.ALLOWED),  # on mains without one
        ({"idle": False}, Reason.NOT_IDLE),
        ({"unmetered": False}, Reason.METERED),
        ({"charging": None}, Reason.UNKNOWN),
        ({"idle": None}, Reason.UNKNOWN),
        ({"unmetered": None}, Reason.UNKNOWN),
        ({"minute": 23 * 60}, Reason.QUIET_HOURS),
        ({"minute": 6 * 60 + 59}, Reason.QUIET_HOURS),
        ({"minute": 7 * 60}, Reason.ALLOWED),
    ],
)
def test_every_wish_counts_and_what_is_not_known_meets_none(change, reason):
    strict = replace(STRICT, quiet_hours=(parse_hours("22:00-07:00"),))
    assert verdict(strict, replace(GOOD, **change)) is reason


def test_who_asks_for_nothing_allows_everything():
    nothing = Facts(charging=None, battery=None, idle=None, unmetered=None, minute=0)
    assert verdict(Policy(), nothing) is Reason.ALLOWED
    assert verdict(Policy(least_battery=0.1), nothing) is Reason.UNKNOWN


@given(policy=policies(), now=facts())
def test_fewer_wishes_never_forbid_more(policy, now):
    if verdict(policy, now) is Reason.ALLOWED:
        for less in (
            {"charging": False},
            {"idle": False},
            {"unmetered": False},
            {"least_battery": 0.0},
            {"quiet_hours": ()},
        ):
            assert verdict(replace(policy, **less), now) is Reason.ALLOWED


@given(start=st.integers(0, 1439), end=st.integers(0, 1439), minute=st.integers(0, 1439))
def test_hours_and_the_other_hours_make_a_day(start, end, minute):
    if start != end:
        one, other = (Hours(start_minute=a, end_minute=b) for a, b in ((start, end), (end, start)))
        assert (minute in one) != (minute in other)
        assert start in one
        assert end not in one
        assert parse_hours(str(one)) == one


@pytest.mark.parametrize("text", ["", "22-7", "24:00-01:00", "10:60-11:00", "07:00-07:00", "x"])
def test_no_hours(text):
    with pytest.raises(BadInput):
        parse_hours(text)
