from __future__ import annotations

import math
import re
import tomllib
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.errors import BadFile, BadInput, UnknownName
from simulations.fleet import ALWAYS, FIRST_NODE
from simulations.fleet_file import Number, fleet_names
from simulations.population import apportioned, load_fleet

RELAXED = settings(max_examples=60)

KIND = """
[kinds.board]
device = "nrf52840"
ram_bytes = 64_000
down_bytes_per_s = 1000
up_bytes_per_s = 500
latency_s = 0.5
radio_w = 0.01
source = "measured"
"""
OTHER = KIND.replace("board", "other")
COLUMNS = ("down_bytes_per_s", "latency_s", "slowness", "battery_start", "utc_offset_s", "drop_out")


def write(tmp_path, text):
    file = tmp_path / "fleet.toml"
    file.write_text(text)
    return str(file)


def test_the_default_fleet_has_three_very_different_kinds_and_a_device_per_partition():
    fleet = load_fleet("default", 8)
    assert len(fleet) == 8
    assert fleet.partition.tolist() == list(range(8))
    assert fleet.node.tolist() == list(range(FIRST_NODE, FIRST_NODE + 8))
    assert [fleet.kinds[k].name for k in fleet.kind[:4]] == ["board", "pi", "phone", "board"]
    rates = sorted(kind.profile.flops_per_s for kind in fleet.kinds)
    assert len(rates) == 3
    assert rates[-1] > 1000 * rates[0]
    assert np.isinf(fleet.battery_j).all()
    assert all(kind.habits.online == ALWAYS for kind in fleet.kinds)


@pytest.mark.parametrize("name", fleet_names())
def test_a_shipped_fleet_loads_and_every_number_has_a_source(name):
    fleet = load_fleet(name, 8, seed=1)
    assert fleet.name == name
    for kind in fleet.kinds:
        assert kind.ram_bytes <= kind.profile.trainable_bytes
        assert {number for number, _ in kind.sources} >= {"ram_bytes", "latency_s", "radio_w"}
        for number, source in kind.sources:
            assert len(source) > 10, f"{kind.name}: {number} has no source"
    assert (fleet.battery_start <= 1).all()
    assert (fleet.battery_start >= 0).all()


def test_ones_own_fleet_is_a_file(tmp_path):
    fleet = load_fleet(write(tmp_path, "devices = 2" + KIND), 3)
    assert fleet.name == "fleet"
    assert [k.name for k in fleet.kinds] == ["board"]
    assert fleet.kind.tolist() == [0, 0]
    assert fleet.ram_bytes.tolist() == [64_000, 64_000]
    assert fleet.kinds[0].sources[0] == ("ram_bytes", "measured")


def test_a_profile_of_ones_own_is_found_beside_the_fleet(tmp_path):
    own = resources.files("scheduler").joinpath("devices/nrf52840.toml").read_text()
    (tmp_path / "own.toml").write_text(own)
    text = ("devices = 1" + KIND).replace('"nrf52840"', '"own.toml"')
    assert load_fleet(write(tmp_path, text), 1).kinds[0].profile.ram_bytes == 262144


@RELAXED
@given(
    st.integers(0, 10**6),
    st.lists(st.floats(0, 1e6), min_size=1, max_size=9).filter(lambda s: sum(s) > 0),
)
def test_parts_add_up_and_none_is_a_whole_device_off_its_share(count, shares):
    parts = apportioned(count, shares)
    assert parts.sum() == count
    assert (parts >= 0).all()
    assert (np.abs(parts - count * np.array(shares) / sum(shares)) < 1 + 1e-6).all()


@RELAXED
@given(st.integers(1, 400), st.integers(1, 20), st.integers(0, 20))
def test_kinds_mix_evenly_all_along_the_fleet(tmp_path_factory, count, board, other):
    text = f"devices = {count}\ndata.shared = true\n" + (KIND + OTHER).replace(
        "ram_bytes", f"share = {board}\nram_bytes", 1
    ).replace("[kinds.other]\n", f"[kinds.other]\nshare = {other}\n")
    fleet = load_fleet(write(tmp_path_factory.mktemp("f"), text), 1)
    names = np.array([k.name for k in fleet.kinds])[fleet.kind]
    share = board / (board + other)
    so_far = np.cumsum(names == "board")
    assert (np.abs(so_far - share * np.arange(1, count + 1)) <= 2).all()


@RELAXED
@given(st.integers(1, 300), st.integers(1, 40), st.integers(0, 5))
def test_partitions_are_shared_as_evenly_as_can_be(tmp_path_factory, count, partitions, seed):
    text = f"devices = {count}\ndata.shared = true\n" + KIND
    fleet = load_fleet(write(tmp_path_factory.mktemp("f"), text), partitions, seed)
    first = min(count, partitions)
    assert fleet.partition[:first].tolist() == list(range(first))
    holders = np.bincount(fleet.partition, minlength=partitions)
    assert holders.max() - holders.min() <= 1
    assert len(holders) == partitions


def test_sharers_of_a_partition_are_of_all_kinds(tmp_path):
    """Three kinds that take turns over 3 partitions would otherwise each hold always the same one."""
    third = KIND.replace("board", "third")
    text = "devices = 300\ndata.shared = true\n" + KIND + OTHER + third
    fleet = load_fleet(write(tmp_path, text), 3)
    pairs = np.unique(np.stack([fleet.kind, fleet.partition]), axis=1, return_counts=True)
    assert len(pairs[1]) == 9
    assert pairs[1].min() > 15


SPREAD = """
devices = 4000
data.shared = true
[kinds.watch]
device = "nrf52840"
ram_bytes = { levels = [50_000, 100_000, 200_000], shares = [1, 2, 1] }
down_bytes_per_s = { median = 1000, sigma = 0.5, source = "a" }
up_bytes_per_s = 500
latency_s = { low = 0.1, high = 0.3 }
radio_w = 0.01
slowness = { median = 1, sigma = 0.2 }
page_store = { speed_sigma = 0.7, classes = 3, size_bytes = 1_000_000 }
battery = { capacity_j = 4000, start = { low = 0.2, high = 1 }, charge_w = 1, own_w = 0.02 }
habits = { utc_offset_h = { levels = [-5, 1], shares = [3, 1] } }
drop_out = 0.1
source = "all others"
"""


def test_devices_differ_as_their_spreads_say(tmp_path):
    fleet = load_fleet(write(tmp_path, SPREAD), 8, seed=4)
    down = np.log(fleet.down_bytes_per_s / 1000)
    assert down.mean() == pytest.approx(0, abs=0.03)
    assert down.std() == pytest.approx(0.5, rel=0.05)
    assert np.abs(down).max() <= 1.5 + 1e-9
    assert (fleet.latency_s.min(), fleet.latency_s.max()) == pytest.approx((0.1, 0.3), abs=0.001)
    assert sorted(set(fleet.utc_offset_s)) == [-18000, 3600]
    assert (fleet.utc_offset_s < 0).mean() == pytest.approx(0.75, abs=0.03)
    assert np.corrcoef(down, fleet.latency_s)[0, 1] == pytest.approx(0, abs=0.05)
    assert {k.own_w for k in fleet.kinds} == {0.02}


def test_levels_of_ram_and_classes_of_page_store_are_kinds_that_plan_apart(tmp_path):
    fleet = load_fleet(write(tmp_path, SPREAD), 8)
    assert len(fleet.kinds) == 9
    assert {k.group for k in fleet.kinds} == {"watch"}
    assert (
        len({k.name for k in fleet.kinds})
        == len({(k.profile_name, k.ram_bytes) for k in fleet.kinds})
        == 9
    )
    ram, count = np.unique(fleet.ram_bytes, return_counts=True)
    assert ram.tolist() == [50_000, 100_000, 200_000]
    assert np.abs(count - [1000, 2000, 1000]).max() <= 2
    slow, middle, fast = (k.profile.page_in for k in fleet.kinds[:3])
    assert middle.bytes_per_s == 4e6
    assert math.log(fast.bytes_per_s / middle.bytes_per_s) == pytest.approx(0.7 * 0.967, rel=0.01)
    assert slow.bytes_per_s * fast.bytes_per_s == pytest.approx(middle.bytes_per_s**2)
    assert slow.latency_s > middle.latency_s > fast.latency_s
    assert all(k.profile.page_store_bytes == 1_000_000 for k in fleet.kinds)


def test_the_same_seed_draws_the_same_fleet_and_another_one_another(tmp_path):
    one, same, other = (load_fleet(write(tmp_path, SPREAD), 8, seed) for seed in (1, 1, 2))
    for name in (*COLUMNS, "kind", "partition"):
        np.testing.assert_array_equal(getattr(one, name), getattr(same, name))
    assert (one.down_bytes_per_s != other.down_bytes_per_s).any()
    assert (one.partition != other.partition).any()
    assert (one.kind != other.kind).any()


def test_one_spread_more_changes_no_other_column(tmp_path):
    plain = load_fleet(write(tmp_path, SPREAD), 8)
    changed = load_fleet(write(tmp_path, SPREAD), 8, 0, {"kinds.watch.latency_s": 0.2})
    for name in COLUMNS:
        same = (getattr(plain, name) == getattr(changed, name)).all()
        assert same == (name != "latency_s")


def test_a_part_of_a_fleet_keeps_its_devices(tmp_path):
    fleet = load_fleet(write(tmp_path, SPREAD), 8)
    part = fleet.where(fleet.ram_bytes > 60_000)
    assert len(part) == part.counts().sum() == 3000
    assert part.kinds == fleet.kinds
    rows = fleet.rows(part.node)
    np.testing.assert_array_equal(fleet.latency_s[rows], part.latency_s)


def test_changes_reach_every_place_they_name(tmp_path):
    file = write(tmp_path, "devices = 2" + KIND + OTHER)
    fleet = load_fleet(file, 2, 0, {"kinds.*.ram_bytes": 5000, "kinds.board.latency_s": 9.0})
    assert fleet.ram_bytes.tolist() == [5000, 5000]
    assert fleet.latency_s.tolist() == [9.0, 0.5]
    with pytest.raises(BadFile, match=r"kinds\.board\.spoon: Extra inputs"):
        load_fleet(file, 2, 0, {"kinds.board.spoon": 1})
    with pytest.raises(BadFile, match=r"nothing to change at kinds\.board\.device\.x"):
        load_fleet(file, 2, 0, {"kinds.board.device.x": 1})


def test_data_may_be_split_in_more_parts_than_the_workload_has(tmp_path):
    text = 'devices = 30\n[data]\nsplit = "dirichlet"\nalpha = 0.3\n' + KIND
    fleet = load_fleet(write(tmp_path, text), 8)
    assert (fleet.split.form, fleet.split.alpha, fleet.split.partitions) == ("dirichlet", 0.3, 30)
    assert fleet.partition.tolist() == list(range(30))
    own = text.replace("devices = 30", "").replace("alpha", "partitions = 12\nalpha")
    assert len(load_fleet(write(tmp_path, own), 8)) == 12


def test_a_fleet_may_say_how_it_is_served(tmp_path):
    fleet = load_fleet(write(tmp_path, "server = { cohort = 5, sampler = 'uniform' }" + KIND), 3)
    assert dict(fleet.options) == {"cohort": 5, "sampler": "uniform"}


@RELAXED
@given(st.floats(1e-6, 1e6), st.floats(0, 2), st.integers(0, 500), st.integers(0, 10))
def test_drawn_numbers_stay_within_their_ends(median, sigma, count, seed):
    number = Number(median=median, sigma=sigma)
    low, high = number.ends()
    drawn = number.draw(count, np.random.default_rng(seed))
    assert len(drawn) == count
    assert ((drawn >= low * (1 - 1e-9)) & (drawn <= high * (1 + 1e-9))).all()


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("devices = [", BadFile, "is not TOML"),
        ("devices = 0" + KIND, BadFile, "devices: Input should be greater than or equal to 1"),
        ("devices = 1", BadFile, "kinds: Field required"),
        ("devices = 1\n[kinds]", BadFile, "kinds: Dictionary should have at least 1 item"),
        ("devices = 1\nx = 1" + KIND, BadFile, "x: Extra inputs are not permitted"),
        (
            "devices = 1" + KIND.replace("64_000", "-1"),
            BadFile,
            "board.ram_bytes: .*must be from 1",
        ),
        ("devices = 1" + KIND.replace("64_000", "true"), BadFile, "kinds.board.ram_bytes"),
        ("devices = 1" + KIND.replace("64_000", "0.5e5\nx = 1"), BadFile, "kinds.board.x: Extra"),
        ("devices = 1" + KIND.replace("64_000", "64.5"), BadFile, "ram_bytes: .* whole number"),
        ("devices = 1" + KIND.replace("64_000", '"5"'), BadFile, "kinds.board.ram_bytes"),
        ("devices = 1" + KIND.replace("64_000", "1" * 20), BadFile, "board.ram_bytes: "),
        ("devices = 1" + KIND.replace("1000", "inf"), BadFile, "down_bytes_per_s: "),
        ("devices = 1" + KIND.replace("1000", "{ median = 1 }"), BadFile, "median and sigma; low"),
        ("devices = 1" + KIND.replace("1000", "{ low = 2, high = 1 }"), BadFile, "low must not be"),
        (
            "devices = 1" + KIND.replace("1000", "{ median = 1e15, sigma = 1 }"),
            BadFile,
            "must be from",
        ),
        (
            "devices = 1" + KIND.replace("1000", "{ levels = [1, 2], shares = [1] }"),
            BadFile,
            "down_bytes_per_s: .*levels need as many shares",
        ),
        (
            "devices = 1" + KIND.replace("1000", "{ levels = [1, 1], shares = [1, 1] }"),
            BadFile,
            "levels must differ",
        ),
        (
            "devices = 1" + KIND.replace("0.01", "{ low = 0, high = 1 }"),
            BadFile,
            "radio_w: .*one number",
        ),
        ("devices = 1" + KIND.replace("0.5", "nan"), BadFile, "latency_s: "),
        ("devices = 1" + KIND.replace("0.5", "1e308"), BadFile, "latency_s: "),
        ("devices = 1" + KIND.replace("board", '"../x"'), BadFile, "kinds.../x"),
        (
            "devices = 1" + KIND + "share = 0",
            BadFile,
            "kinds: .*one of the shares must be more than 0",
        ),
        (
            "devices = 1" + KIND + "habits.idle = [{ start_h = 25, hours = 1 }]",
            BadFile,
            "idle.0.start_h",
        ),
        (
            "devices = 1" + KIND + "battery = { charge_w = 1 }",
            BadFile,
            "battery.capacity_j: Field req",
        ),
        ("devices = 1\ndata.alpha = 1" + KIND, BadFile, "data: .*natural split has"),
        (
            "devices = 1\ndata.split = 'odd'" + KIND,
            BadFile,
            "data.split: Input should be 'natural'",
        ),
        ("devices = 1\nserver.x = [1]" + KIND, BadFile, "server.x"),
        ("devices = 1" + KIND + "traces.capacity = 'no.pkl'", BadFile, "no.pkl cannot be read"),
        (
            "devices = 1" + KIND.replace("nrf52840", "nrf"),
            UnknownName,
            "named 'nrf'; known:",
        ),
        ("devices = 4" + KIND, BadInput, "4 devices, but .* has 3 partitions"),
    ],
)
def test_what_is_not_a_fleet_is_said_in_one_line(tmp_path, text, error, message):
    with pytest.raises(error, match=message) as caught:
        load_fleet(write(tmp_path, text), 3)
    assert "\n" not in str(caught.value)


def test_a_missing_fleet_file_is_named_with_the_fleets_that_are_known(tmp_path):
    with pytest.raises(BadFile, match=r"nothing\.toml cannot be read.*known by name: default"):
        load_fleet(str(tmp_path / "nothing.toml"), 3)


def places(table, so_far=()):
    """The places of all values in a file."""
    for name, value in table.items():
        yield (*so_far, name)
        if isinstance(value, dict):
            yield from places(value, (*so_far, name))


PLACES = {
    name: sorted(
        ".".join(p)
        for p in places(
            tomllib.loads(
                resources.files("simulations").joinpath(f"fleets/{name}.toml").read_text()
            )
        )
    )
    for name in fleet_names()
}
JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 5)
    | st.sampled_from([1e-300, 1e300, 10**30, math.inf, -math.inf, math.nan, 0.5, "", "x", "\n"]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["value", "low", "high", "median", "sigma", "x"]), inner)
    ),
    max_leaves=4,
)


@settings(max_examples=300)
@given(st.data(), st.sampled_from(sorted(PLACES)), JUNK)
def test_whatever_a_file_says_is_a_sound_fleet_or_one_line(data, name, junk):
    place = data.draw(st.sampled_from(PLACES[name]))
    try:
        fleet = load_fleet(name, 8, 0, {place: junk})
    except BadInput as error:
        said = str(error)
    else:
        said = ""
        assert len(fleet) == fleet.counts().sum() > 0
        for column in ("down_bytes_per_s", "up_bytes_per_s", "latency_s", "slowness", "charge_w"):
            value = getattr(fleet, column)
            assert (np.isfinite(value) & (value >= 0)).all()
        assert ((fleet.battery_start >= 0) & (fleet.battery_start <= 1)).all()
        assert fleet.partition.max() < fleet.split.partitions
        assert all(0 < k.ram_bytes < 2**60 and math.isfinite(k.own_w) for k in fleet.kinds)
    assert "\n" not in said


def test_the_fleet_of_the_documentation_is_one(tmp_path):
    text = (Path(__file__).parents[2] / "docs" / "fleets.md").read_text()
    least, day = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    fleet = load_fleet(write(tmp_path, least), 3)
    assert [fleet.kinds[k].name for k in fleet.kind] == ["sensor", "hub", "sensor"]
    with_day = least.replace("kinds.hub", "kinds.phone") + day
    (window,) = load_fleet(write(tmp_path, with_day), 3).kinds[1].habits.charging
    assert (window.start_h, window.share) == (22.5, 0.8)
    for name in fleet_names():
        assert f"| `{name}` |" in text
