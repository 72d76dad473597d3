"""Device profiles: the shipped ones, one's own, and damaged ones."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler import DeviceProfile, PageLink, cost_table, device_names, load_device
from scheduler.device import dump_device, parse_device
from scheduler.errors import BadFile, BadInput, UnknownName
from scheduler.units import parse_bytes
from tests.scheduler.problems import training_step

SHIPPED = Path("scheduler/devices")


def test_the_five_kinds_ship_and_every_number_has_a_source() -> None:
    assert {"mkr1000", "nrf52840", "raspberry-pi-4b", "jetson-tx2"} < set(device_names())
    assert any(name.startswith("phone") for name in device_names())
    for name in device_names():
        device = load_device(name)
        assert device.name == name
        assert 0 < device.trainable_bytes < device.ram_bytes
        assert len(device.sources) == 14
        assert all(len(source) > 10 for _, source in device.sources)


def test_costs_follow_flops_blocks_and_power() -> None:
    link = PageLink(latency_s=0.5, bytes_per_s=100.0, watts=2.0)
    assert link.cost(1, 50).time_s == 0.5 + 50 / 100
    assert link.cost(50, 50) == link.cost(1, 50)
    assert link.cost(51, 50).energy_j == 2.0 * (0.5 + 1.0)
    device, graph = load_device("nrf52840"), training_step().graph
    costs = cost_table(graph, device)
    assert costs.idle_w == device.idle_w
    assert costs.overlap
    assert not cost_table(graph, load_device("mkr1000")).overlap
    assert [c.time_s for c in costs.operators] == [
        op.flops / device.flops_per_s for op in graph.operators
    ]


def test_ones_own_profile_is_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text((SHIPPED / "nrf52840.toml").read_text())
    assert load_device(str(path)) == load_device("nrf52840")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[idle_w]", "[idle_watts]", r"\[idle_w\] needs a value and a source"),
        ("[page_in.watts]", "[page_in.watt]", r"\[page_in.watts\] needs"),
        ("[overlap]\nvalue = true", "[overlap]\nvalue = 0", "must be of type bool"),
        ("value = 262144", "value = 1.5", "ram_bytes must be of type int"),
        ("value = 262144", "value = 1", "leaves nothing"),
        ("value = 262144", "value = -5", "not negative"),
        ("name =", "name", "not TOML"),
    ],
)
def test_a_damaged_profile_is_refused(old: str, new: str, message: str) -> None:
    text = (SHIPPED / "nrf52840.toml").read_text()
    assert old in text
    with pytest.raises(BadFile, match=message):
        parse_device(text.replace(old, new), "mine.toml")


def test_unknown_names_list_what_is_known() -> None:
    with pytest.raises(UnknownName, match="raspberry-pi-4b"):
        load_device("raspberry")
    with pytest.raises(BadFile, match="cannot read"):
        load_device("nowhere.toml")


def test_sizes_as_people_write_them() -> None:
    assert parse_bytes("737719") == 737719
    assert parse_bytes("200KB") == parse_bytes("200 kb") == 200_000
    assert parse_bytes("256KiB") == 2**18
    assert parse_bytes("1.5M") == 1_500_000
    for bad in ("", "0", "-5", "12 apples", "KB", "1e6"):
        with pytest.raises(BadInput, match="is not a size"):
            parse_bytes(bad)


@pytest.mark.parametrize("name", device_names())
def test_a_shipped_profile_written_is_read_back(name: str) -> None:
    device = load_device(name)
    assert parse_device(dump_device(device), "again") == device


WHOLE, REAL = st.integers(1, 2**62), st.floats(1e-9, 1e18)
LINKS = st.builds(PageLink, latency_s=REAL, bytes_per_s=REAL, watts=REAL)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(st.data(), TEXTS, WHOLE, WHOLE, REAL, st.tuples(LINKS, LINKS), st.booleans())
def test_any_profile_written_is_read_back(
    data: st.DataObject,
    text: str,
    small: int,
    large: int,
    rate: float,
    links: tuple[PageLink, PageLink],
    overlap: bool,
) -> None:
    labels = [label for label, _ in load_device("mkr1000").sources]
    sources = data.draw(st.lists(TEXTS, min_size=len(labels), max_size=len(labels)))
    device = DeviceProfile(
        name=text,
        description=text[::-1],
        ram_bytes=small + large,
        reserved_bytes=small,
        page_store_bytes=large,
        page_block_bytes=small,
        flops_per_s=rate,
        compute_w=rate,
        idle_w=rate,
        page_in=links[0],
        page_out=links[1],
        overlap=overlap,
        sources=tuple(zip(labels, sources, strict=True)),
    )
    assert parse_device(dump_device(device), "again") == device
