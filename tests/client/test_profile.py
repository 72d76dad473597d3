"""A profile of the machine that runs the tests, and machines made up of files."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch

from client import profile
from client.gpu_profile import with_measured_pages
from client.host_store import HostStore, Immediate
from client.meter import NoMeter
from client.profile import measure_power, measure_ram, processor, profile_machine
from client.timing import Effort, fit_line
from scheduler.device import dump_device, load_device
from scheduler.errors import BadInput

GIB = 2**30


class Work:
    """A meter and a clock that move together: so many watts, at so many seconds a look."""

    name = "made-up meter"

    def __init__(self, watts: float) -> None:
        self.watts, self.now_s = watts, 0.0

    def clock(self) -> float:
        self.now_s += 0.25
        return self.now_s

    def joules(self) -> float:
        return self.watts * self.now_s


@pytest.fixture(autouse=True)
def little_effort(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profile, "PAGE_BYTES", (16384, 65536))
    monkeypatch.setattr(profile, "_PAGES", Effort(least=2, most=2))
    monkeypatch.setattr(profile, "_KERNELS", Effort(least=2, most=2))


def machine(root: Path, **files: str) -> Path:
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_this_machine_s_profile_is_read_back_as_it_was(tmp_path: Path) -> None:
    stages: list[str] = []
    device = profile_machine(
        name='quote" and \\ slash',
        store_folder=tmp_path,
        today="2026-01-02",
        meter=NoMeter(reason="none here"),
        on_stage=stages.append,
    )
    path = tmp_path / "here.toml"
    path.write_text(dump_device(device), encoding="utf-8")
    assert load_device(str(path)) == device
    assert len(device.sources) == 14
    assert stages == ["RAM", "page store", "compute rate", "power"]
    sources = dict(device.sources)
    for label in ("ram_bytes", "flops_per_s", "page_in.bytes_per_s", "page_out.latency_s"):
        assert sources[label].startswith("measured on 2026-01-02")
    for label in ("idle_w", "compute_w", "page_in.watts"):
        assert sources[label].startswith("assumption:")
        assert "none here" in sources[label]
    assert [p.name for p in tmp_path.iterdir()] == ["here.toml"]


def test_ram_is_what_the_system_says(tmp_path: Path) -> None:
    root = machine(tmp_path, proc__meminfo="MemTotal: 4194304 kB\nMemAvailable: 3145728 kB\n")
    ram = measure_ram(root)
    assert (ram.total_bytes, ram.available_bytes) == (4 * GIB, 3 * GIB)


@pytest.mark.parametrize(
    ("limit", "used", "total", "available"),
    [
        (2 * GIB, GIB // 2, 2 * GIB, 3 * GIB // 2),
        (2 * GIB, 3 * GIB, 2 * GIB, 0),
        (64 * GIB, GIB, 4 * GIB, 3 * GIB),
        ("max", GIB, 4 * GIB, 3 * GIB),
    ],
)
def test_a_control_group_holds_less(
    tmp_path: Path, limit: int | str, used: int, total: int, available: int
) -> None:
    root = machine(
        tmp_path,
        proc__meminfo="MemTotal: 4194304 kB\nMemAvailable: 3145728 kB\n",
        sys__fs__cgroup__memory_dot_max=str(limit),
        sys__fs__cgroup__memory_dot_current=str(used),
    )
    ram = measure_ram(root)
    assert (ram.total_bytes, ram.available_bytes) == (total, available)


def test_ram_without_proc_is_the_hardware_s(tmp_path: Path) -> None:
    ram = measure_ram(tmp_path)
    assert ram.total_bytes == ram.available_bytes > 0
    assert "not known" in ram.source


def test_watts_come_from_the_meter_and_work_counts_above_idle(tmp_path: Path) -> None:
    meter = Work(watts=7.0)
    power = measure_power(meter, tmp_path, meter.clock, lambda _s: None)
    assert power.idle_w[0] == pytest.approx(7.0, rel=0.2)
    assert power.compute_w[0] == pytest.approx(0.0, abs=1.5)
    for _, source in (power.idle_w, power.compute_w, power.page_in_w, power.page_out_w):
        assert source.startswith("measured by made-up meter")


def test_a_meter_that_stands_still_measures_nothing(tmp_path: Path) -> None:
    meter = Work(watts=0.0)
    power = measure_power(meter, tmp_path, meter.clock, lambda _s: None)
    assert "did not move" in power.idle_w[1]
    assert power.idle_w[1].startswith("assumption:")


def test_no_folder_to_page_to_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="give another folder"):
        profile.measure_pages(tmp_path / "nowhere", itertools.count().__next__)


def test_ram_that_poses_as_storage_is_named(tmp_path: Path) -> None:
    root = machine(tmp_path, proc__mounts="a / ext4 rw\nb /proc tmpfs rw\n")
    assert "ext4" in profile._storage(Path("/usr"), root)
    assert "WHICH IS RAM" in profile._storage(Path("/proc"), root)


def test_the_processor_has_a_name(tmp_path: Path) -> None:
    assert processor(machine(tmp_path, proc__cpuinfo="model name : Fast One\n")) == "Fast One"
    assert processor(tmp_path / "nowhere")


def test_pages_in_host_memory_are_timed_by_their_store() -> None:
    """By a clock that advances a second whenever it is read: every page takes one."""
    base, store = load_device("nvidia-h100-sxm"), HostStore(Immediate())
    clock = itertools.count().__next__
    found = with_measured_pages(
        base, store, torch.device("cpu"), clock, "2026-01-02", (2**10, 2**12)
    )
    for link in (found.page_in, found.page_out):
        expected = fit_line([(2**10, 1.0), (2**12, 1.0)])
        assert (link.latency_s, link.bytes_per_s) == (expected.latency_s, expected.bytes_per_s)
        assert link.watts == base.page_in.watts
    sources = dict(found.sources)
    assert sources.keys() == dict(base.sources).keys()
    assert sources["page_in.latency_s"].startswith(
        "measured on 2026-01-02: copies of 1,024 to 4,096 bytes"
    )
    assert sources["page_in.watts"] == dict(base.sources)["page_in.watts"]
    assert store.used_bytes == 0
