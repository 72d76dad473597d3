from __future__ import annotations

import math
import os
import pickle
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.errors import BadFile
from simulations.availability import State, from_s, holds, next_change_s, next_offline_s, until_s
from simulations.fleet import Habits
from simulations.population import load_fleet
from simulations.traces import joined, read_availability, read_capacity
from tests.simulations.fleets import fleet_with, kind_of

RELAXED = settings(max_examples=60)

# Two clients in the published form, and one that was never available.
AVAILABILITY = {
    3834: {
        "duration": 90,
        "active": [10, 50],
        "inactive": [40, 110],
        "finish_time": 200,
        "model": "a",
    },
    7: {"duration": 200, "active": [0], "inactive": [200], "finish_time": 200, "model": "b"},
    8: {"duration": 0, "active": [], "inactive": [], "finish_time": 300, "model": "c"},
}
CAPACITY = {
    1: {"computation": 162.0, "communication": 5648.0},
    2: {"computation": np.float64(81.0), "communication": np.int64(1000)},
    3: {"computation": "324.0", "communication": 8000.0},
}


def saved(folder, content, protocol=4):
    file = folder / "trace.pkl"
    file.write_bytes(pickle.dumps(content, protocol=protocol))
    return file


def traced(folder, content=AVAILABILITY):
    traces = read_availability(saved(folder, content))
    count = len(traces)
    made = fleet_with([kind_of(Habits(online=()))], count, trace=np.arange(count))
    return replace(made, traces=traces)


def test_devices_are_online_as_recorded_and_again_after_the_period(tmp_path):
    fleet, rows = traced(tmp_path), np.arange(3)
    for period in (0, 1, 1000):
        for phase_s, online in (
            (0, False),
            (10, True),
            (39, True),
            (40, False),
            (60, True),
            (150, False),
        ):
            assert holds(fleet, State.ONLINE, rows[:1], 200.0 * period + phase_s)[0] == online
    assert next_offline_s(fleet, rows, 20.0).tolist() == [40.0, math.inf, 20.0]
    assert from_s(fleet, State.ONLINE, rows, np.full(3, 150.0)).tolist()[::2] == [210.0, math.inf]
    assert next_change_s(fleet, 120.0) == 210.0
    assert holds(fleet, State.ONLINE, rows, 1e7).tolist() == [False, True, False]


@st.composite
def recorded(draw):
    finish = draw(st.integers(1, 1000))
    times = sorted(draw(st.lists(st.integers(0, finish), max_size=8)))
    return {"active": times[::2], "inactive": times[1::2], "finish_time": finish, "duration": 0}


@RELAXED
@given(st.lists(recorded(), min_size=1, max_size=4), st.floats(0, 1e6))
def test_what_was_recorded_is_what_a_plain_look_finds(tmp_path_factory, clients, now_s):
    clients.append({"active": [0], "inactive": [1], "finish_time": 2})
    fleet = traced(tmp_path_factory.mktemp("t"), dict(enumerate(clients)))
    rows = np.arange(len(clients))
    until = until_s(fleet, State.ONLINE, rows, np.full(len(rows), now_s))
    begin = from_s(fleet, State.ONLINE, rows, np.full(len(rows), now_s))
    for row, client in enumerate(clients):
        period = client["finish_time"]
        ends = [*client["inactive"], period][: len(client["active"])]
        base = (now_s // period) * period
        near = [
            (base + shift * period + b, base + shift * period + e)
            for shift in (-1, 0, 1, 2)
            for b, e in zip(client["active"], ends, strict=True)
            if b < e
        ]
        if any(abs(t - now_s) < 0.01 for span in near for t in span):
            continue  # right at an edge either is true
        online = [e for b, e in near if b <= now_s < e]
        assert (until[row] > now_s) == bool(online)
        if online:
            assert until[row] >= max(online) - 1e-6
        else:
            assert begin[row] == pytest.approx(
                min((b for b, _ in near if b > now_s), default=math.inf)
            )


def test_times_of_traces_are_exact_to_the_last_bit(tmp_path):
    """Over many cycles of lengths that no binary number has, where division would round either way."""
    spans = {"active": [0.0, 0.3, 0.7], "inactive": [0.1, 0.4, 1.0]}
    clients = {n: {**spans, "finish_time": 1.1 + n / 7} for n in range(5)}
    fleet = traced(tmp_path, clients)
    cycle = np.arange(20_000, dtype=np.float64)
    for row, client in clients.items():
        one = np.full(len(cycle), row)
        begun_s = cycle * client["finish_time"]
        for begin, end in zip(spans["active"], spans["inactive"], strict=True):
            begin_s, end_s = begun_s + begin, begun_s + end
            before_s = np.nextafter(begin_s, -1.0)
            np.testing.assert_array_equal(until_s(fleet, State.ONLINE, one, begin_s), end_s)
            np.testing.assert_array_equal(until_s(fleet, State.ONLINE, one, before_s), before_s)
            np.testing.assert_array_equal(until_s(fleet, State.ONLINE, one, end_s), end_s)
            np.testing.assert_array_equal(
                from_s(fleet, State.ONLINE, one[1:], before_s[1:]), begin_s[1:]
            )


def test_who_is_online_when_a_trace_ends_is_so_until_the_next_cycle(tmp_path):
    late = {"active": [0.5], "inactive": [1.1], "finish_time": 1.1}
    fleet = traced(tmp_path, {1: late, 2: {**late, "active": [0.0]}})
    begun_s = np.arange(1, 20_000) * 1.1
    for at_s in (np.nextafter(begun_s, 0.0), begun_s - 0.1):
        ends_s = until_s(fleet, State.ONLINE, np.zeros(len(at_s), np.int64), at_s)
        np.testing.assert_array_equal(ends_s, begun_s)
    assert next_offline_s(fleet, np.array([0, 1]), 1.0).tolist() == [1.1, math.inf]


def test_capacity_is_slowness_against_the_median_and_bytes_per_second(tmp_path):
    slowness, bytes_per_s = read_capacity(saved(tmp_path, CAPACITY))
    assert slowness.tolist() == [1.0, 0.5, 2.0]
    assert bytes_per_s.tolist() == [5648 * 128.0, 128_000.0, 1_024_000.0]


def test_numbers_of_numpy_are_read_in_every_pickle_protocol(tmp_path):
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        slowness, _ = read_capacity(saved(tmp_path, CAPACITY, protocol))
        assert slowness[1] == 0.5


class Hostile:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


def test_a_pickle_that_would_run_code_is_refused_and_does_not(tmp_path):
    target = tmp_path / "made"
    for content in (Hostile(target), {1: Hostile(target)}, {1: {"computation": Hostile(target)}}):
        for read in (read_availability, read_capacity):
            with pytest.raises(BadFile, match=r"it asks for posix\.mkdir, which is no data"):
                read(saved(tmp_path, content))
    assert not target.exists()


@RELAXED
@given(st.data())
def test_a_damaged_trace_is_said_to_be_one_or_still_has_sound_times(tmp_path_factory, data):
    whole = bytearray(pickle.dumps(AVAILABILITY))
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] ^= data.draw(st.integers(1, 255))
    file = tmp_path_factory.mktemp("t") / "trace.pkl"
    file.write_bytes(whole[: data.draw(st.integers(0, len(whole)) | st.just(len(whole)))])
    try:
        traces = read_availability(file)
    except BadFile as error:
        said = str(error)
    else:
        said = ""
        assert (traces.start_s < traces.end_s).all()
        assert (traces.period_s > 0).all()
    assert "\n" not in said


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"finish_time": 9}, "client 5: active must be a list of seconds"),
        ({"active": [1, 2, 3], "inactive": [2], "finish_time": 9}, "3 times in active but 1 in"),
        ({"active": [-1], "inactive": [2], "finish_time": 9}, "active must be a number, 0 or more"),
        ({"active": [1], "inactive": ["x"], "finish_time": 9}, "inactive must be a number"),
        ({"active": [1], "inactive": [2], "finish_time": 0}, "finish_time must be a number"),
        ({"active": [1], "inactive": [2], "finish_time": math.nan}, "finish_time must be a number"),
        ([], "a client is not a dictionary"),
        ({"active": [], "inactive": [], "finish_time": 9}, "no client was ever available"),
    ],
)
def test_a_bad_client_is_named(tmp_path, entry, message):
    with pytest.raises(BadFile, match=message):
        read_availability(saved(tmp_path, {5: entry}))


@pytest.mark.parametrize("content", [{}, [], 5])
def test_a_trace_without_clients_is_none(tmp_path, content):
    with pytest.raises(BadFile, match="it has no clients"):
        read_capacity(saved(tmp_path, content))


def test_traces_of_several_kinds_keep_their_devices(tmp_path):
    traces = read_availability(saved(tmp_path, AVAILABILITY))
    both = joined([traces, traces])
    assert both is not None
    assert both.first.tolist() == [0, 2, 3, 3, 5, 6, 6]
    assert joined([]) is None


def test_a_fleet_takes_its_days_and_speeds_from_traces(tmp_path):
    saved(tmp_path, AVAILABILITY).rename(tmp_path / "days.pkl")
    saved(tmp_path, CAPACITY).rename(tmp_path / "speeds.pkl")
    (tmp_path / "fleet.toml").write_text("""
        devices = 5
        [kinds.phone]
        device = "phone-pixel-6"
        ram_bytes = 1_000_000
        down_bytes_per_s = 1.0
        up_bytes_per_s = 1.0
        latency_s = 0.1
        radio_w = 1.0
        slowness = 3.0
        traces = { availability = "days.pkl", capacity = "speeds.pkl" }
    """)
    fleet = load_fleet(str(tmp_path / "fleet.toml"), 5)
    assert fleet.trace.tolist() == [0, 1, 2, 0, 1]
    assert fleet.slowness.tolist() == [3.0, 1.5, 6.0, 3.0, 1.5]
    assert (
        fleet.down_bytes_per_s[:2].tolist() == fleet.up_bytes_per_s[:2].tolist() == [722944, 128000]
    )
    assert holds(fleet, State.ONLINE, np.arange(5), 45.0).tolist() == [
        False,
        True,
        False,
        False,
        True,
    ]
