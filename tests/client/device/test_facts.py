from __future__ import annotations

import json
import os
from datetime import datetime

import pytest

from client.device import facts
from client.device.facts import (
    Power,
    averaged_load,
    free_ram,
    idle,
    power,
    system_sources,
    unmetered,
)


@pytest.fixture
def no_programs(monkeypatch):
    """Neither busctl nor Termux."""
    monkeypatch.setenv("PATH", "")


def write(root, **files):
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def supply(root, name, **facts_of):
    write(root, **{f"sys__class__power_supply__{name}__{k}": f"{v}\n" for k, v in facts_of.items()})


def program(folder, name, text, monkeypatch):
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.defpath}")


@pytest.mark.parametrize(
    ("supplies", "expected"),
    [
        ({}, Power(charging=True, battery=None)),
        (
            {"AC": {"type": "Mains", "online": 1}, "B": {"type": "Battery", "capacity": 40}},
            Power(charging=True, battery=0.4),
        ),
        (
            {
                "AC": {"type": "Mains", "online": 0},
                "B": {"type": "Battery", "capacity": 40, "status": "Discharging"},
            },
            Power(charging=False, battery=0.4),
        ),
        (
            {"B": {"type": "Battery", "capacity": 99, "status": "Charging"}},
            Power(charging=True, battery=0.99),
        ),
        (
            {
                "A": {"type": "Battery", "capacity": 90, "status": "Full"},
                "B": {"type": "Battery", "capacity": 20, "status": "Discharging"},
            },
            Power(charging=False, battery=0.2),
        ),
        (
            {"mouse": {"type": "Battery", "scope": "Device", "capacity": 3}},
            Power(charging=True, battery=None),
        ),
    ],
)
def test_power_from_the_kernel(tmp_path, no_programs, supplies, expected):
    (tmp_path / "sys/class/power_supply").mkdir(parents=True)
    for name, facts_of in supplies.items():
        supply(tmp_path, name, **facts_of)
    assert power(tmp_path).value == expected


def test_power_from_termux_where_the_kernels_files_are_shut(tmp_path, monkeypatch):
    said = {"percentage": 55, "plugged": "UNPLUGGED", "status": "DISCHARGING"}
    program(tmp_path / "bin", "termux-battery-status", f"echo '{json.dumps(said)}'", monkeypatch)
    assert power(tmp_path).value == Power(charging=False, battery=0.55)
    program(tmp_path / "bin", "termux-battery-status", "echo nothing", monkeypatch)
    assert power(tmp_path).value is None
    program(tmp_path / "bin", "termux-battery-status", "sleep 5", monkeypatch)
    assert power(tmp_path).value is None


def test_what_nobody_tells_is_not_known(tmp_path, no_programs):
    for reading in (power(tmp_path), idle(tmp_path), unmetered(tmp_path), free_ram(tmp_path)):
        assert reading.value is None
        assert reading.source


def test_idle_is_that_others_do_little(tmp_path, no_programs):
    cores = os.cpu_count() or 1
    write(tmp_path, proc__loadavg="0.10 0.20 0.30 1/100 123\n")
    assert idle(tmp_path).value is True
    write(tmp_path, proc__loadavg=f"{cores * 0.3 + 0.9:.2f} 0.20 0.30 1/100 123\n")
    assert idle(tmp_path).value is False
    assert idle(tmp_path, own_load=0.95).value is True


def test_logind_knows_whether_somebody_sits_there(tmp_path, monkeypatch):
    write(tmp_path, proc__loadavg="0.00 0.00 0.00 1/100 123\n")
    program(tmp_path / "bin", "busctl", "echo b false", monkeypatch)
    assert idle(tmp_path).value is False
    program(tmp_path / "bin", "busctl", "echo b true", monkeypatch)
    assert idle(tmp_path).value is True
    program(tmp_path / "bin", "busctl", "exit 1", monkeypatch)
    assert idle(tmp_path).value is True


ROUTE = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\n"
LAN = "eth0\t0002000A\t00000000\t0001\t0\t0\t0\t00FFFFFF\n"


@pytest.mark.parametrize(
    ("interface", "expected"),
    [("eth0", True), ("wlan0", True), ("wwan0", False), ("rmnet_data0", False), ("tun0", None)],
)
def test_a_guess_from_the_kind_of_interface(tmp_path, no_programs, interface, expected):
    default = f"{interface}\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\n"
    write(tmp_path, proc__net__route=ROUTE + LAN + default)
    assert unmetered(tmp_path).value is expected
    write(tmp_path, proc__net__route=ROUTE + LAN)
    assert unmetered(tmp_path).value is None


@pytest.mark.parametrize(("said", "expected"), [(1, False), (2, True), (3, False), (4, True)])
def test_networkmanager_knows_better(tmp_path, monkeypatch, said, expected):
    program(tmp_path / "bin", "busctl", f"echo u {said}", monkeypatch)
    assert unmetered(tmp_path).value is expected


def test_ram(tmp_path):
    write(tmp_path, proc__meminfo="MemTotal: 2000 kB\nMemAvailable:    1000 kB\n")
    assert free_ram(tmp_path).value == 1000 * 1024


def test_all_facts_of_this_machine(tmp_path, monkeypatch):
    found = system_sources().facts()
    now = datetime.now().astimezone()
    assert abs(found.minute - (now.hour * 60 + now.minute)) in (0, 1, 24 * 60 - 1)


def test_our_own_load_comes_and_goes_as_the_kernels_average_does():
    load = 0.0
    for _ in range(600):
        load = averaged_load(load, 1, 0.4)
    assert load == pytest.approx(1 - facts.math.exp(-4), abs=1e-9)
    assert averaged_load(load, 0, 600) < 0.001
    assert averaged_load(load, 1, 0) == load
