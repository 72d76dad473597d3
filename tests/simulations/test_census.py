from __future__ import annotations

from dataclasses import replace

import pytest

from client.prepare import pose
from client.workload import load_workload, with_training
from scheduler import Infeasible, floor, load_device, solve
from scheduler.errors import BadInput
from simulations.census import Able, Census, count_smaller, sentence, take_census
from simulations.fleet_file import fleet_names
from simulations.population import load_fleet
from tests.simulations.fleets import fleet_with, kind_of


@pytest.fixture(scope="module")
def digits():
    return load_workload("digits")


@pytest.fixture(scope="module")
def least_bytes(digits):
    return floor(pose(digits, load_device("nrf52840")).problem).ram_bytes


def test_who_is_below_the_floor_cannot_train_and_hears_of_it(digits, least_bytes):
    kinds = [kind_of(name=f"{d:+} B", ram_bytes=least_bytes + d) for d in (-1, 0, 1000, -50_000)]
    (found,) = take_census(fleet_with(kinds, 10), digits, [digits.batch_size])
    assert found.floor.ram_bytes == least_bytes
    assert [k.able for k in found.kinds] == [False, True, True, False]
    assert (found.able, found.devices) == (5, 10)
    for kind in found.kinds:
        if not kind.able:
            assert "floor" in str(kind.reason)


def test_the_census_agrees_with_the_solver_at_every_batch(digits):
    kinds = [kind_of(name=str(ram), ram_bytes=ram) for ram in (140_000, 150_000, 400_000)]
    for found in take_census(fleet_with(kinds, 3), digits, [1, 64]):
        workload = with_training(digits, batch_size=found.batch_size, local_epochs=None)
        for kind in found.kinds:
            posed = pose(workload, kind.kind.profile, ram_bytes=kind.kind.ram_bytes)
            try:
                solve(posed.problem, time_limit_s=20, gap=0.2)
            except Infeasible:
                assert not kind.able
            else:
                assert kind.able


def test_a_page_store_without_room_takes_its_toll(digits, least_bytes):
    """At the floor everything is paged; without a page store that is no way."""
    rich = kind_of(ram_bytes=least_bytes)
    poor = replace(rich, name="poor", profile=replace(rich.profile, page_store_bytes=0))
    (found,) = take_census(fleet_with([rich, poor], 2), digits, [digits.batch_size])
    assert [k.able for k in found.kinds] == [True, False]


def test_a_batch_that_no_data_makes_is_said(digits):
    with pytest.raises(BadInput, match="fewer than a batch of 100000"):
        take_census(fleet_with([kind_of()], 1), digits, [100_000])


@pytest.mark.parametrize("name", sorted(set(fleet_names()) - {"default"}))
def test_a_shipped_fleet_can_train_what_is_shipped_for_it(name, digits):
    fleet = load_fleet(name, digits.partitions)
    (found,) = take_census(fleet, digits, [digits.batch_size])
    assert found.able >= 0.3 * found.devices


def test_kinds_left_out_are_counted_again_at_a_quarter_of_the_batch():
    watch = load_workload("watch")
    kinds = [
        kind_of(name="rich", ram_bytes=10**7),
        kind_of(name="poor", ram_bytes=100_000),
        kind_of(name="broke", ram_bytes=1000),
    ]
    fleet = fleet_with(kinds, 9)
    now, then = take_census(fleet, watch, [watch.batch_size, watch.batch_size // 4])
    assert (now.able, then.able) == (3, 6)
    (found,) = count_smaller(fleet, watch, {"poor", "broke"})
    assert (found.batch_size, found.able, found.devices) == (then.batch_size, 6, 9)
    assert count_smaller(fleet, watch, set()) == ()


def counted(able, devices, batch_size):
    both = [(able, None), (devices - able, "floor")]
    kinds = tuple(Able(kind=kind_of(), devices=n, reason=r) for n, r in both)
    return Census(batch_size=batch_size, floor=None, kinds=kinds)


def test_the_sentence():
    census = [counted(31, 100, 8), counted(64, 100, 2)]
    assert sentence(census, "ResNet-18") == (
        "31 % of this fleet can train ResNet-18 at batch 8; at batch 2, 64 %"
    )


@pytest.mark.parametrize(
    ("able", "said"), [(0, "0 %"), (1, "1 %"), (999, "99 %"), (1000, "100 %"), (505, "50 %")]
)
def test_none_and_all_are_said_only_where_it_is_so(able, said):
    assert sentence([counted(able, 1000, 1)], "x").startswith(f"{said} of this fleet")
