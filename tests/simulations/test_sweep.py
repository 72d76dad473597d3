from __future__ import annotations

import csv
import shutil
import sys
import tomllib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from scheduler.errors import BadFile, BadInput, UnknownName
from simulations.cli import main
from simulations.config import SimulationConfig
from simulations.fleet_changes import change
from simulations.reading import read_run
from simulations.sweep import parse_axis, points, read_sweep
from simulations.sweep_view import begin_sweep, resume_sweep


@pytest.mark.parametrize(
    ("text", "key", "values"),
    [
        ("cohort=5,10", "cohort", (5, 10)),
        ("over-selection=1.5", "over_selection", (1.5,)),
        ("deadline=60", "deadline_s", (60,)),
        ("fleet=phone,smartwatch", "fleet", ("phone", "smartwatch")),
        ("charging=true,false", "charging", (True, False)),
        ("fleet.ram=x0.5,200KB", "fleet.kinds.*.ram_bytes", ("x0.5", 200_000)),
        ("fleet.kinds.a-b.latency_s=1,2", "fleet.kinds.a-b.latency_s", (1, 2)),
        ("fleet.devices=10", "fleet.devices", (10,)),
    ],
)
def test_an_axis_is_a_setting_or_a_place_in_the_fleets_file(text, key, values):
    axis = parse_axis(text)
    assert (axis.key, axis.values) == (key, values)


@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        ("cohort", BadInput, "is no sweep"),
        ("cohort=", BadInput, "is no sweep"),
        ("cohort=5,5", BadInput, "names a value twice"),
        ("speed=1", UnknownName, "no setting named 'speed'"),
        ("fleet.ram=lots", BadInput, "'lots' is not a size"),
    ],
)
def test_what_is_no_axis_is_refused(text, error, said):
    with pytest.raises(error, match=said):
        parse_axis(text)


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (("cohort=2", "cohort=3"), "swept twice"),
        (("cohort=2,two",), "cohort: Input should be a valid integer"),
        (("rounds=1,0",), "rounds must be 1 or more"),
        (("sampler=uniform,best",), "no sampler named 'best'"),
        (("fleet.spoon=1",), r"kinds\.board\.spoon: Extra inputs"),
        (("fleet.battery.capacity_j=x2",), "nothing to multiply at"),
        (("fleet.device=x2",), "no number at"),
        (("fleet.ram=x0",), "must be from 1"),
        (("workload=a/b,a-b",), "the same folder"),
    ],
)
def test_a_point_that_cannot_be_is_refused_before_the_first_run(config, texts, said):
    with pytest.raises(BadInput, match=said):
        points(config, [parse_axis(text) for text in texts])


def test_points_are_all_combinations_in_order(config):
    made = points(config, [parse_axis("fleet.ram=x1,x2"), parse_axis("cohort=1,2,3")])
    assert [p.values for p in made][:4] == [("x1", 1), ("x1", 2), ("x1", 3), ("x2", 1)]
    assert made[4].config == replace(config, cohort=2, fleet_changes={"kinds.*.ram_bytes": "x2"})
    assert made[4].name == "ram_bytes=x2,cohort=2"


@given(st.integers(1, 10**9), st.floats(0.01, 100).map(lambda f: round(f, 3)))
def test_a_factor_multiplies_what_is_there_and_leaves_spreads(size, factor):
    table = tomllib.loads(
        f"[kinds.a]\nram_bytes = {size}\nup = {{ median = 4.0, sigma = 0.5, source = 'x' }}\n"
        f"[kinds.b]\nram_bytes = {{ levels = [{size}, 7], shares = [2, 3] }}\n"
    )
    for place in ("kinds.*.ram_bytes", "kinds.*.up"):
        change(table, place, f"x{factor:f}", "fleet")
    a, b = table["kinds"]["a"], table["kinds"]["b"]
    assert a["ram_bytes"] == round(size * factor)
    assert a["up"] == {"median": pytest.approx(4.0 * factor), "sigma": 0.5, "source": "x"}
    assert b["ram_bytes"] == {"levels": [round(size * factor), round(7 * factor)], "shares": [2, 3]}
    assert "up" not in b


@pytest.fixture(scope="module")
def swept(config, machine, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweeps") / "sweep"
    console = Console(record=True, width=120)
    base: SimulationConfig = replace(config, rounds=1)
    begin_sweep(console, base, [parse_axis("fleet.ram=x0.001,x1")], folder, machine)
    return folder, console.export_text()


def test_a_sweep_has_a_run_folder_per_point_and_a_table(swept):
    folder, said = swept
    with (folder / "sweep.csv").open() as file:
        none, one = csv.DictReader(file)
    assert "below the floor" in none["failed"]
    assert not (folder / "ram_bytes=x0.001").exists()
    run = read_run(folder / "ram_bytes=x1")
    assert float(one["accuracy"]) == run.rounds[-1].accuracy
    assert float(one["energy_j"]) == pytest.approx(sum(r.energy_j for r in run.rounds))
    assert int(one["able"]) == sum(plan.devices for plan in run.plans)
    assert f"{run.rounds[-1].accuracy:.2%}" in said
    assert "no run at ram_bytes=x0.001: " in said


def test_a_sweep_that_was_stopped_makes_what_is_missing_and_nothing_else(swept, machine, tmp_path):
    folder, _ = swept
    again = tmp_path / "again"
    shutil.copytree(folder, again)
    before = (again / "sweep.csv").read_bytes()
    model = (again / "ram_bytes=x1" / "model.safetensors").stat().st_mtime_ns
    (again / "sweep.csv").unlink()
    resume_sweep(Console(quiet=True), again, machine)
    assert (again / "sweep.csv").read_bytes() == before
    assert (again / "ram_bytes=x1" / "model.safetensors").stat().st_mtime_ns == model
    shutil.rmtree(again / "ram_bytes=x1")
    resume_sweep(Console(quiet=True), again, machine)
    assert (again / "sweep.csv").read_bytes() == before


def test_a_folder_that_is_not_empty_is_left_alone(swept, config, machine):
    folder, _ = swept
    with pytest.raises(BadInput, match="exists already"):
        begin_sweep(Console(quiet=True), config, [parse_axis("cohort=1,2")], folder, machine)


def test_a_damaged_sweep_is_refused(tmp_path):
    (tmp_path / "sweep.json").write_text("{")
    with pytest.raises(BadFile, match="cannot be read"):
        read_sweep(tmp_path)


def test_the_command_sweeps_and_resumes(fleet_file, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def fedpoet(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["fedpoet", "simulate", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        return (ended.value.code or 0, *capsys.readouterr())

    run = ("--workload", "digits", "--rounds", "1", "--no-training", "--fleet", str(fleet_file))
    code, out, err = fedpoet(*run, "--sweep", "cohort=1,2", "--out", "here")
    assert code == 0, err
    assert "wrote here" in out
    assert {path.name for path in (tmp_path / "here").iterdir()} == {
        "sweep.json", "sweep.csv", "compare.html", "cohort=1", "cohort=2",
    }  # fmt: skip
    code, out, err = fedpoet("--resume", "here")
    assert (code, "wrote here" in out) == (0, True), err
    code, _, err = fedpoet(*run, "--sweep", "cohort=1,none")
    assert (code, list((tmp_path).iterdir())) == (2, [tmp_path / "here"])
    assert "cohort: Input should be a valid integer" in err
    code, _, err = fedpoet(*run, "--sweep", "cohort=1,2", "--overwrite")
    assert (code, "--overwrite does not go with --sweep" in err) == (2, True)
