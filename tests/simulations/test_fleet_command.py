from __future__ import annotations

import sys

import numpy as np
import pytest
from rich.console import Console

from simulations.availability import State, holds
from simulations.cli import main
from simulations.fleet import Habits, Window
from simulations.fleet_view import hourly, kinds_table, sharing
from simulations.population import load_fleet
from tests.simulations.fleets import fleet_with, kind_of


def run(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["fedpoet", "fleet", *map(str, arguments)])
    monkeypatch.setenv("COLUMNS", "160")
    with pytest.raises(SystemExit) as ended:
        main()
    out, err = capsys.readouterr()
    return ended.value.code or 0, out, err


def test_a_fleet_is_shown_with_its_kinds_its_day_and_who_can_train(monkeypatch, capsys):
    code, out, _ = run(monkeypatch, capsys, "smartwatch", "--batch-size", 8, "--batch-size", 2)
    assert code == 0
    assert "1000 devices of 12 kinds" in out
    assert "58 % of this fleet can train watch at batch 8; at batch 2, 82 %" in out
    assert out.count("band 48 kB store 1 of 2") == 2
    assert "batch 2 (floor" in out
    assert "all of these" in out
    assert "1,000 devices share 8 partitions" in " ".join(out.split())


def test_names_stay_whole_where_there_are_eighty_columns(capsys):
    for name in ("phone", "smartwatch", "smart-speaker"):
        fleet = load_fleet(name, 8)
        Console(width=80).print(kinds_table(fleet))
        lines = capsys.readouterr().out.splitlines()
        assert max(map(len, lines)) <= 80
        assert "…" not in "".join(lines)


def test_shared_data_is_told_and_data_of_ones_own_is_not():
    assert sharing(fleet_with([kind_of()], 4)) is None
    said = sharing(fleet_with([kind_of()], 4, partition=[0, 1, 0, 1]))
    assert said is not None
    assert said.startswith("4 devices share 2 partitions:")


def test_a_fleet_that_is_none_ends_with_one_line(monkeypatch, capsys):
    code, out, err = run(monkeypatch, capsys, "nothing.toml")
    assert (code, out) == (2, "")
    assert err.startswith("fedpoet: fleet nothing.toml cannot be read")
    assert err.count("\n") == 1


def test_the_day_counts_who_is_in_a_state_at_its_hours():
    habits = Habits(
        online=(Window(start_h=6.0, hours=12.0),), charging=(Window(start_h=17.0, hours=2.0),)
    )
    shares = hourly(fleet_with([kind_of(habits), kind_of(name="always")], 4))
    online, charging, idle, _, every = shares
    assert online.tolist() == [0.5] * 6 + [1.0] * 12 + [0.5] * 6
    assert charging[17:19].tolist() == [1.0, 1.0]
    assert idle.tolist() == [1.0] * 24
    assert every[17] == 1.0
    assert every[18] == 0.5


def test_windows_that_touch_leave_no_gap():
    day = Habits(online=(Window(start_h=0.0, hours=24.0, device_spread_h=5.0),))
    fleet = fleet_with([kind_of(day)], 50, utc_offset_s=1234.567)
    for at_s in np.linspace(2e5, 9e5, 300):
        assert holds(fleet, State.ONLINE, np.arange(50), float(at_s)).all()
