"""Meters on a made-up sysfs: what they count, and what they say when there is nothing to read."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client import meter as meters
from client.meter import NoMeter, Tally, find_meter, nvml_meter


def put(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{value}\n")


def domain(root: Path, name: str, kind: str, energy_uj: int, wrap_uj: int = 1000) -> Path:
    folder = root / "class" / "powercap" / name
    put(folder / "name", kind)
    put(folder / "energy_uj", energy_uj)
    put(folder / "max_energy_range_uj", wrap_uj)
    return folder


def battery(root: Path, status: str = "Discharging", **values: int) -> Path:
    folder = root / "class" / "power_supply" / "BAT0"
    put(folder / "status", status)
    for name, value in values.items():
        put(folder / name, value)
    return folder


@pytest.fixture(autouse=True)
def no_pynvml(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meters, "_nvml", lambda: NoMeter(reason="pynvml is not installed"))


def test_rapl_sums_packages_and_leaves_their_parts_out(tmp_path: Path) -> None:
    one = domain(tmp_path, "intel-rapl:0", "package-0", 100)
    two = domain(tmp_path, "intel-rapl:1", "package-1", 0)
    part = domain(tmp_path, "intel-rapl:0:0", "core", 0)
    platform = domain(tmp_path, "intel-rapl:2", "psys", 0)
    meter = find_meter(tmp_path)
    assert not isinstance(meter, NoMeter)
    assert meter.name == "intel-rapl (2 processor packages)"
    assert meter.joules() == 0
    for folder, energy_uj in ((one, 400), (two, 50), (part, 999), (platform, 999)):
        put(folder / "energy_uj", energy_uj)
    assert meter.joules() == pytest.approx(350e-6)


@given(
    wrap_uj=st.integers(10, 10**12),
    start=st.integers(0, 10**12),
    shares=st.lists(st.floats(0, 0.999), max_size=20),
)
def test_rapl_counts_through_any_number_of_wrap_arounds(
    tmp_path_factory: pytest.TempPathFactory, wrap_uj: int, start: int, shares: list[float]
) -> None:
    root = tmp_path_factory.mktemp("sys")
    start %= wrap_uj
    folder = domain(root, "intel-rapl:0", "package-0", start, wrap_uj)
    meter = find_meter(root)
    assert not isinstance(meter, NoMeter)
    spent = 0
    for share in shares:
        spent += int(share * wrap_uj)
        put(folder / "energy_uj", (start + spent) % wrap_uj)
        assert meter.joules() == pytest.approx(spent * 1e-6)


def test_a_counter_that_may_not_be_read_is_no_meter_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = domain(tmp_path, "intel-rapl:0", "package-0", 5)
    genuine = Path.read_text

    def refused(path: Path, *arguments: object) -> str:
        if path.name == "energy_uj":
            raise PermissionError(13, "Permission denied")
        return genuine(path)

    # Tests may run as root, for whom no mode of a file is an obstacle.
    monkeypatch.setattr(Path, "read_text", refused)
    none = find_meter(tmp_path)
    assert isinstance(none, NoMeter)
    assert "RAPL cannot be read (Permission denied)" in none.reason
    assert "no battery" in none.reason
    assert folder.is_dir()


def test_an_empty_machine_says_what_was_looked_for(tmp_path: Path) -> None:
    assert find_meter(tmp_path) == NoMeter(
        reason="no RAPL counter; no battery; pynvml is not installed"
    )


@pytest.mark.parametrize(
    ("before", "after", "joules"),
    [
        ({"energy_now": 50_000_000}, {"energy_now": 49_000_000}, 3600.0),
        (
            {"charge_now": 2_000_000, "voltage_now": 10_000_000},
            {"charge_now": 1_900_000, "voltage_now": 9_000_000},
            3600.0,
        ),
    ],
)
def test_a_battery_counts_what_it_lost(
    tmp_path: Path, before: dict[str, int], after: dict[str, int], joules: float
) -> None:
    battery(tmp_path, **before)
    meter = find_meter(tmp_path)
    assert not isinstance(meter, NoMeter)
    assert meter.joules() == 0
    battery(tmp_path, **after)
    assert meter.joules() == pytest.approx(joules)


def test_a_battery_that_tells_power_only_is_integrated(tmp_path: Path) -> None:
    times = iter((0.0, 10.0, 14.0))
    battery(tmp_path, power_now=2_000_000)
    meter = find_meter(tmp_path, lambda: next(times))
    assert not isinstance(meter, NoMeter)
    battery(tmp_path, power_now=4_000_000)
    assert meter.joules() == pytest.approx(30.0)
    assert meter.joules() == pytest.approx(46.0)


def test_a_machine_on_mains_has_no_battery_to_read(tmp_path: Path) -> None:
    battery(tmp_path, status="Charging", energy_now=1)
    none = find_meter(tmp_path)
    assert isinstance(none, NoMeter)
    assert "BAT0 is not what the machine runs on (Charging)" in none.reason


class NvmlError(Exception):
    """As pynvml raises."""


def library(counters_mj: list[int], fails: bool = False) -> SimpleNamespace:
    """What we use of pynvml, over counters of our own."""

    def start() -> None:
        if fails:
            raise NvmlError("Driver Not Loaded")

    return SimpleNamespace(
        NVMLError=NvmlError,
        nvmlInit=start,
        nvmlDeviceGetCount=lambda: len(counters_mj),
        nvmlDeviceGetHandleByIndex=lambda n: n,
        nvmlDeviceGetTotalEnergyConsumption=lambda n: counters_mj[n],
    )


def test_nvml_sums_all_gpus_from_the_start() -> None:
    counters = [5000, 7000]
    meter = nvml_meter(library(counters))
    assert not isinstance(meter, NoMeter)
    assert "without the processor" in meter.name
    counters[0] += 1500
    counters[1] += 500
    assert meter.joules() == pytest.approx(2.0)
    assert nvml_meter(library([])) == NoMeter(reason="no NVIDIA GPU")
    assert nvml_meter(library([1], fails=True)) == NoMeter(
        reason="NVML cannot be read (Driver Not Loaded)"
    )


def test_a_tally_counts_from_its_start_and_says_who_counted(tmp_path: Path) -> None:
    folder = domain(tmp_path, "intel-rapl:0", "package-0", 0)
    meter = find_meter(tmp_path)
    put(folder / "energy_uj", 300)
    tally = Tally(meter)
    put(folder / "energy_uj", 700)
    tally.read()
    assert tally.joules == pytest.approx(400e-6)
    assert tally.source("an estimate") == "intel-rapl (1 processor package)"


def test_a_meter_that_goes_away_leaves_the_estimate(tmp_path: Path) -> None:
    folder = domain(tmp_path, "intel-rapl:0", "package-0", 0)
    tally = Tally(find_meter(tmp_path))
    (folder / "energy_uj").unlink()
    tally.read()
    assert tally.joules is None
    assert tally.source("an estimate").startswith("an estimate (no meter: intel-rapl")
    assert Tally(NoMeter(reason="none")).joules is None
