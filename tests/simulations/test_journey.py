"""Journeys against time lines worked out by hand."""

from __future__ import annotations

import copy
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulations.clock import VirtualClock
from simulations.journey import SILENCE_S, End, Journey, Phase
from simulations.traffic import Traffic


def journey(number=0, **changes):
    """Down 2 s, training 10 s, up 4 s, on mains."""
    settings = {
        "number": number,
        "row": number,
        "round": 1,
        "sent_s": 0.0,
        "down_s": 2.0,
        "train_s": 10.0,
        "up_s": 4.0,
        "train_j": 30.0,
        "bytes_down": 100,
        "bytes_up": 200,
        "steps": 5,
        "own_w": 0.1,
        "radio_w": 1.0,
        "train_w": 3.0,
        "charge_w": 0.0,
        "capacity_j": math.inf,
        "leaves_s": math.inf,
        "leaves_why": End.WENT_OFFLINE,
        "before_j": math.inf,
        "level_j": math.inf,
    }
    return Journey(**(settings | changes))


def run(*journeys, slots=None, start_s=0.0):
    """Those that are over, in order of time."""
    clock, over = VirtualClock(start_s), []
    traffic = Traffic(clock, over.append, slots)
    for one in journeys:
        traffic.start(one)
    clock.run(math.inf, lambda: False)
    assert traffic.under_way == ()
    return over


def test_a_journey_takes_down_training_and_up():
    (one,) = run(journey(), start_s=100.0)
    assert one.end is End.ARRIVED
    assert one.until_s == 116.0
    seconds = {phase: one.spent_s(phase, math.nan) for phase in Phase if phase < Phase.SILENT}
    assert seconds == {
        Phase.WAITS_DOWN: 0.0,
        Phase.DOWN: 2.0,
        Phase.TRAINS: 10.0,
        Phase.WAITS_UP: 0.0,
        Phase.UP: 4.0,
    }


def test_one_slot_makes_messages_wait_in_the_order_in_which_they_come():
    first, second = journey(0), journey(1, train_s=1.0)
    over = run(first, second, slots=1)
    # 0: down 0-2, trains 2-12, up 12-16. 1: waits 0-2, down 2-4, trains 4-5, up 5-9.
    assert [(j.number, j.until_s) for j in over] == [(1, 9.0), (0, 16.0)]
    assert second.began_s == (0.0, 2.0, 4.0, 5.0, 5.0, pytest.approx(math.nan, nan_ok=True), 9.0)
    assert second.spent_s(Phase.WAITS_DOWN, math.nan) == 2.0
    assert (
        run(journey(0), journey(1), slots=1)[1].until_s == 20.0
    )  # up 12-16, waits 14-16, up 16-20


def test_who_leaves_is_noticed_after_the_silence():
    (one,) = run(journey(leaves_s=7.0, leaves_why=End.DROPPED_OUT))
    assert one.end is End.DROPPED_OUT
    assert one.spent_s(Phase.TRAINS, math.nan) == 5.0
    assert one.until_s == 7.0 + SILENCE_S


def test_who_arrives_at_the_moment_of_leaving_has_arrived():
    assert run(journey(leaves_s=16.0))[0].end is End.ARRIVED


def test_who_leaves_while_waiting_takes_no_slot():
    first, second, third = journey(0), journey(1, leaves_s=1.0), journey(2)
    run(first, second, third, slots=1)
    assert second.end is End.WENT_OFFLINE
    assert math.isnan(second.began_s[Phase.DOWN])
    assert second.began_s[Phase.SILENT] == 1.0  # when it left, not when its turn came
    assert third.began_s[Phase.DOWN] == 2.0


def test_a_battery_lasts_as_long_as_its_joules():
    # 2 s down at 1 W, then 3 W: 14 J are gone after 4 s of training.
    (one,) = run(journey(level_j=14.0, capacity_j=20.0))
    assert one.end is End.BATTERY_EMPTY
    assert one.spent_s(Phase.TRAINS, math.nan) == 4.0
    assert one.level_j == 0.0
    (enough,) = run(journey(level_j=37.0, capacity_j=37.0))
    assert enough.end is End.ARRIVED
    assert enough.level_j == pytest.approx(37 - 2 - 30 - 4)


def test_a_charger_fills_the_battery_and_no_more():
    (one,) = run(journey(level_j=14.0, capacity_j=20.0, charge_w=5.0))
    assert one.end is End.ARRIVED
    assert one.level_j == 20.0


seconds = st.sampled_from([0.0, 0.1, 0.3, 1.0, 2.5, 7.0])


@st.composite
def traffics(draw):
    count = draw(st.integers(1, 8))
    leaves = st.sampled_from([math.inf, 0.7, 3.0, 9.0])
    return [
        journey(
            n,
            down_s=draw(seconds),
            train_s=draw(seconds),
            up_s=draw(seconds),
            leaves_s=draw(leaves),
        )
        for n in range(count)
    ]


def history(over):
    return [(j.number, j.end, j.until_s, [t for t in j.began_s if not math.isnan(t)]) for j in over]


def play(journeys, slots, withdrawn, stops_s, saves):
    """What becomes of journeys of which some are withdrawn at stops; with `saves`, begun anew there."""
    clock, over = VirtualClock(), []
    traffic = Traffic(clock, over.append, slots)
    for one in copy.deepcopy(journeys):
        traffic.start(one)
    for stop_s, numbers in zip(stops_s, withdrawn, strict=False):
        clock.run(stop_s, lambda: False)
        there = {j.number for j in traffic.under_way}
        over += [traffic.withdraw(number) for number in sorted(numbers & there)]
        if saves:
            saved = copy.deepcopy(traffic.under_way)
            clock = VirtualClock(clock.now_s())
            traffic = Traffic(clock, over.append, slots, saved)
    clock.run(math.inf, lambda: False)
    assert traffic.under_way == ()
    return history(over)


@given(
    journeys=traffics(),
    slots=st.sampled_from([None, 1, 2]),
    withdrawn=st.lists(st.sets(st.integers(0, 7)), min_size=4, max_size=4),
    stops_s=st.lists(st.floats(0.0, 20.0) | seconds, max_size=4).map(sorted),
)
def test_journeys_are_withdrawn_alike_in_a_run_that_is_taken_up_again(
    journeys, slots, withdrawn, stops_s
):
    whole = play(journeys, slots, withdrawn, stops_s, saves=False)
    assert play(journeys, slots, withdrawn, stops_s, saves=True) == whole
    assert sorted(number for number, *_ in whole) == list(range(len(journeys)))


@given(
    journeys=traffics(),
    slots=st.sampled_from([None, 1, 2]),
    stops_s=st.lists(st.floats(0.0, 20.0), max_size=4).map(sorted),
)
def test_a_run_that_is_taken_up_again_goes_on_as_if_it_had_not_stopped(journeys, slots, stops_s):
    expected = history(run(*copy.deepcopy(journeys), slots=slots))
    clock, over = VirtualClock(), []
    traffic = Traffic(clock, over.append, slots)
    for one in journeys:
        traffic.start(one)
    for stop_s in stops_s:
        clock.run(stop_s, lambda: False)
        saved = copy.deepcopy(traffic.under_way)
        clock = VirtualClock(clock.now_s())
        traffic = Traffic(clock, over.append, slots, saved)
    clock.run(math.inf, lambda: False)
    assert history(over) == expected
