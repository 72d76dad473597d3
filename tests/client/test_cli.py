"""The commands as a person types them: what they print, write and exit with."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import pytest
import torch
from safetensors.numpy import load_file

from protos.files import read_plan, read_problem, write_problem
from scheduler import check, load_device, replay
from simulations.cli import main
from tests.scheduler.problems import chain

INSTANCE = "tests/data/transformer-m4.json"


@dataclass(frozen=True)
class Done:
    """How a command ended, and what it printed."""

    returncode: int
    stdout: str
    stderr: str


def fedpoet(*arguments: str | Path) -> Done:
    """Run the command in this process, as its entry point does."""
    out, err = io.StringIO(), io.StringIO()
    threads = torch.get_num_threads()
    with (
        mock.patch.object(sys, "argv", ["fedpoet", *map(str, arguments)]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as ended,
    ):
        main()
    torch.set_num_threads(threads)
    return Done(int(ended.value.code or 0), out.getvalue(), err.getvalue())


def assert_one_line(done: Done, code: int, *words: str) -> None:
    assert done.returncode == code, done.stderr
    assert done.stderr.startswith("fedpoet: ")
    assert done.stderr.count("\n") == 1
    for word in words:
        assert word in done.stderr


def test_plan_and_check_a_problem_file(tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    done = fedpoet(
        *("plan", "--problem", INSTANCE, "--ram", "34MB", "--deadline-factor", "1.5"),
        *("--time-limit", "60", "--out", plan),
    )
    assert done.returncode == 0, done.stderr
    for label in ("status", "energy", "against keep-all", "bound", "gap", "peak", "time"):
        assert label in done.stdout
    made = read_plan(plan)
    assert made.budget.ram_bytes == 34_000_000
    checked = fedpoet("check", plan, "--problem", INSTANCE)
    assert checked.returncode == 0, checked.stderr
    assert "valid" in checked.stdout


def test_plan_a_workload_on_a_device(tmp_path: Path) -> None:
    problem, plan = tmp_path / "problem.json", tmp_path / "plan.pb"
    done = fedpoet(
        *("plan", "--workload", "digits", "--device", "raspberry-pi-4b"),
        *("--save-problem", problem, "--out", plan),
    )
    assert done.returncode == 0, done.stderr
    posed = read_problem(problem)
    check(read_plan(plan), posed)
    assert {op.phase for op in posed.graph.operators} == {"forward", "backward", "update"}
    assert fedpoet("check", plan, "--problem", problem).returncode == 0


def test_train_prints_budget_and_measured_peak(tmp_path: Path) -> None:
    model = tmp_path / "model.safetensors"
    done = fedpoet(
        *("train", "--workload", "digits", "--ram", "200KB", "--epochs", "1", "--out", model)
    )
    assert done.returncode == 0, done.stderr
    rows = {line[:14].strip(): line[15:].strip() for line in done.stdout.splitlines()}
    assert rows["RAM budget"] == "200,000 bytes"
    measured = int(rows["measured peak"].split()[0].replace(",", ""))
    assert 0 < measured <= 200_000
    assert model.stat().st_size > 0


def expected(done: Done) -> tuple[float, float, float]:
    """Seconds of a step: the plan's, those to expect, and what undoing adds."""
    rows = {line[:14].strip(): line[15:].split() for line in done.stdout.splitlines()}
    step = rows["expected step"]
    return float(rows["time"][0]), float(step[0]), float(step[2])


def test_a_plan_by_measured_costs_says_how_long_a_step_should_take() -> None:
    arguments = ("plan", "--workload", "digits", "--device", "raspberry-pi-4b", "--no-cache")
    assert "expected step" not in fedpoet(*arguments).stdout
    roomy = expected(fedpoet(*arguments, "--measured"))
    assert roomy[1] == roomy[0] > roomy[2] == 0
    tight = expected(fedpoet(*arguments, "--measured", "--ram", "148KB", "--time-limit", "5"))
    assert tight[1] == pytest.approx(tight[0] + tight[2], rel=1e-4)
    assert tight[2] > 0


def test_train_says_whose_energy_it_prints() -> None:
    done = fedpoet("train", "--workload", "digits", "--epochs", "1", "--measured", "--no-cache")
    assert done.returncode == 0, done.stderr
    assert expected(done)[1] > 0
    (energy,) = (
        line for line in done.stdout.splitlines() if line.startswith("energy  ") and " by " in line
    )
    assert " J by " in energy


def test_profile_measures_this_machine_and_a_workload_on_it(tmp_path: Path) -> None:
    device, costs, plan = tmp_path / "here.toml", tmp_path / "costs.json", tmp_path / "plan.json"
    done = fedpoet(
        *("profile", "--out", device, "--store", tmp_path),
        *("--workload", "digits", "--batch-size", "4", "--costs", costs),
    )
    assert done.returncode == 0, done.stderr
    for word in ("ram_bytes", "page_in.bytes_per_s", "measured on", "all, each once"):
        assert word in done.stdout
    profile, posed = load_device(str(device)), read_problem(costs)
    assert profile.name == "here"
    assert posed.costs.page_in[0] == profile.page_in.cost(
        posed.graph.tensors[0].size_bytes, profile.page_block_bytes
    )
    assert all(cost.time_s > 0 for cost in posed.costs.operators)
    assert fedpoet("plan", "--problem", costs, "--out", plan).returncode == 0
    assert fedpoet("check", plan, "--problem", costs).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--out", "here.json"), "must end in .toml"),
        (("--out", "here.toml", "--costs", "costs.json"), "need --workload"),
        (("--out", "nowhere/here.toml"), "not a folder"),
        (("--out", "here.toml", "--store", "nowhere"), "give another folder"),
        (("--out", "here.toml", "--gpu", "--store", "."), "leave out --store"),
        pytest.param(
            ("--out", "here.toml", "--gpu"),
            "finds no CUDA device here",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU to measure"),
        ),
    ],
)
def test_profile_refuses_what_it_cannot_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert_one_line(fedpoet("profile", *arguments), 2, words)
    assert not list(tmp_path.iterdir())


def test_below_the_floor_names_floor_and_operator(tmp_path: Path) -> None:
    path, plan = tmp_path / "problem.json", tmp_path / "plan.json"
    write_problem(chain(), path)
    done = fedpoet("plan", "--problem", path, "--ram", "29", "--out", plan)
    assert_one_line(done, 4, "below the floor of 30 bytes", "set by op")
    assert not plan.exists()


def test_a_deadline_too_short_names_the_least_time(tmp_path: Path) -> None:
    path = tmp_path / "problem.json"
    write_problem(chain(), path)
    done = fedpoet("plan", "--problem", path, "--ram", "30", "--deadline-factor", "1.0")
    assert_one_line(done, 4, "deadline of 10 s", "the fastest found takes")


def test_a_plan_that_breaks_a_rule(tmp_path: Path) -> None:
    path, plan = tmp_path / "problem.json", tmp_path / "plan.json"
    write_problem(chain(), path)
    assert fedpoet("plan", "--problem", path, "--out", plan).returncode == 0
    other = tmp_path / "other.json"
    write_problem(chain(4), other)
    assert_one_line(fedpoet("check", plan, "--problem", other), 6, "same-graph")
    document = json.loads(plan.read_text())
    document["steps"].pop()
    plan.write_text(json.dumps(document))
    assert_one_line(fedpoet("check", plan, "--problem", path), 2, "damaged")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("plan", "--workload", "digits", "--device", "toaster"), 2, ("toaster", "nrf52840")),
        (("plan", "--workload", "cats", "--device", "nrf52840"), 2, ("cats", "watch")),
        (("plan", "--problem", "nowhere.json"), 2, ("nowhere.json",)),
        (("plan",), 2, ("--problem FILE",)),
        (("plan", "--problem", INSTANCE, "--device", "nrf52840"), 2, ("--workload",)),
        (("plan", "--problem", INSTANCE, "--out", "no/where.json"), 2, ("no/where.json",)),
        (("train", "--workload", "digits", "--out", "tests"), 2, ("it is a folder",)),
        (("plan", "--problem", INSTANCE, "--ram", "much"), 2, ("'much' is not a size",)),
        (("train", "--workload", "digits", "--ram", "1KB"), 4, ("below the floor",)),
        (("train", "--workload", "digits", "--partition", "99"), 2, ("99",)),
    ],
)
def test_wrong_inputs_end_with_one_line(
    arguments: tuple[str, ...], code: int, words: tuple[str, ...]
) -> None:
    assert_one_line(fedpoet(*arguments), code, *words)


def test_the_plan_written_is_the_plan_printed(tmp_path: Path) -> None:
    path, plan = tmp_path / "problem.json", tmp_path / "plan.json"
    write_problem(chain(), path)
    done = fedpoet("plan", "--problem", path, "--ram", "40", "--out", plan)
    problem = read_problem(path)
    used = replay(read_plan(plan), problem)
    assert f"{used.peak_bytes:,} bytes of 40" in done.stdout
    assert f"{used.energy_j:.6g} J" in done.stdout


UNTRACEABLE = """
import dataclasses
import torch
from client.workload import load_workload

class Peeks(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(64, 10)
    def forward(self, x):
        y = self.layer(x)
        return y if y.sum() > 0 else -y

own = dataclasses.replace(load_workload("digits"), model=Peeks)
"""

ODD = """
import dataclasses
import torch
from client.workload import Examples, load_workload

digits = load_workload("digits")

def shifted(partition):
    examples = digits.data(partition)
    return Examples(x=examples.x, y=examples.y + 5)

def shared():
    first, second = torch.nn.Linear(64, 64), torch.nn.Linear(64, 64)
    second.weight = first.weight
    return torch.nn.Sequential(first, torch.nn.ReLU(), second, torch.nn.Linear(64, 10))

beyond = dataclasses.replace(digits, data=shifted)
tied = dataclasses.replace(digits, model=shared)
"""


def test_a_model_that_cannot_be_traced(tmp_path: Path) -> None:
    file, model = tmp_path / "own.py", tmp_path / "model.safetensors"
    file.write_text(UNTRACEABLE)
    done = fedpoet("train", "--workload", f"{file}:own", "--out", model)
    assert_one_line(done, 3, "depends on data", "torch.where")
    assert not model.exists()


def test_targets_out_of_range_and_shared_weights(tmp_path: Path) -> None:
    file, model = tmp_path / "own.py", tmp_path / "model.safetensors"
    file.write_text(ODD)
    assert_one_line(fedpoet("train", "--workload", f"{file}:beyond"), 2, "out of bounds", "targets")
    done = fedpoet(
        *("train", "--workload", f"{file}:tied", "--epochs", "1", "--ram", "1MB", "--out", model)
    )
    assert done.returncode == 0, done.stderr
    assert set(load_file(model)) == {
        "0.weight",
        "0.bias",
        "2.weight",
        "2.bias",
        "3.weight",
        "3.bias",
    }


def test_no_space_left_for_the_page_store(tmp_path: Path) -> None:
    """The file size limit is real: the operating system refuses the write."""
    limited = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192));"
        "sys.argv[0] = 'fedpoet'; from simulations.cli import main; main()"
    )
    command = [sys.executable, "-c", limited, "train", "--workload", "digits", "--ram", "200KB"]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert_one_line(Done(done.returncode, done.stdout, done.stderr), 8, "no space left", "raise")
    assert list(tmp_path.glob("fedpoet-*")) == []  # torch makes a folder of its own
