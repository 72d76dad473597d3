from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from simulations.cli import main
from tests.processes import HEAR_CTRL_C


@pytest.fixture
def fedpoet(monkeypatch, capsys, tmp_path):
    """Run the command in an empty folder; returns exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["fedpoet", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return ended.value.code or 0, out, err

    return run


def test_a_run_shows_each_round_and_writes_its_folder(fedpoet, fleet_file):
    arguments = ("simulate", "--workload", "digits", "--rounds", 2, "--fleet", fleet_file)
    code, out, err = fedpoet(*arguments, "--out", "runs/one")
    assert code == 0, err
    assert "round   2  loss" in out
    assert "accuracy" in out
    assert "left out  tiny (1 device, mkr1000)" in out
    assert "wrote runs/one" in out
    assert Path("runs/one/report.html").is_file()
    code, _, _ = fedpoet(*arguments, "--out", "runs/two")
    assert code == 0
    for name in ("metrics.jsonl", "model.safetensors", "report.html"):
        assert Path("runs/one", name).read_bytes() == Path("runs/two", name).read_bytes()


OWN = Path(__file__).parents[2] / "examples" / "own_workload.py"


def test_ones_own_workload_trains(fedpoet):
    code, out, err = fedpoet("simulate", "--workload", f"{OWN}:vibration", "--rounds", 2)
    assert code == 0, err
    assert Path("runs/vibration-1/report.html").is_file()
    assert "accuracy" in out


NAN = """
import dataclasses, torch
from client.workload import Examples, load_workload
digits = load_workload("digits")
def data(partition):
    examples = digits.data(partition)
    return Examples(x=examples.x * float("nan") if partition == {bad} else examples.x, y=examples.y)
own = dataclasses.replace(digits, name="own", data=data)
def nothing_but_nan(partition):
    examples = digits.data(partition)
    return Examples(x=examples.x * float("nan"), y=examples.y)
all_bad = dataclasses.replace(own, data=nothing_but_nan)
def nan_test():
    return Examples(x=digits.test().x * float("nan"), y=digits.test().y)
unscored = dataclasses.replace(digits, test=nan_test)
def some_raise(partition):
    if partition == 3:
        raise OSError("[/no] card")
    return digits.data(partition)
raises = dataclasses.replace(digits, data=some_raise)
all_raise = dataclasses.replace(digits, data=lambda _: 1 / 0)
no_targets = dataclasses.replace(
    digits, test=lambda: Examples(x=digits.test().x, y=digits.test().y + 99)
)
"""


def test_nan_in_an_update_is_refused_and_named(fedpoet, fleet_file):
    Path("own.py").write_text(NAN.format(bad=1))
    code, out, _ = fedpoet(
        "simulate", "--workload", "own.py:own", "--rounds", 1, "--fleet", fleet_file
    )
    assert code == 0
    assert "refused  node 101: array" in out
    assert "NaN or infinite" in out


def test_a_device_that_fails_is_told_with_its_log(fedpoet, fleet_file):
    Path("own.py").write_text(NAN.format(bad=1))
    code, out, _ = fedpoet(
        "simulate", "--workload", "own.py:raises", "--rounds", 1, "--fleet", fleet_file
    )
    assert code == 0
    assert "refused  node 103: BadInput on the device; its log says more" in out
    assert "log of node 103, which stays there: BadInput: data() of workload 'digits'" in out
    assert "OSError: [/no] card" in out
    assert "card" not in Path("runs/raises-1/metrics.jsonl").read_text()


def test_a_loss_that_is_no_number_is_written_as_null(fedpoet, fleet_file):
    Path("own.py").write_text(NAN.format(bad=1))
    code, out, err = fedpoet(
        "simulate", "--workload", "own.py:unscored", "--rounds", 1, "--fleet", fleet_file
    )
    assert code == 0, err
    assert "loss    nan" in out
    for line in Path("runs/unscored-1/metrics.jsonl").read_text().splitlines():
        assert json.loads(line)["loss"] is None


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--workload", "nowhere"), 2, "no workload named 'nowhere'; known: watch, digits"),
        (("--workload", "own.py:none"), 2, "own.py has no 'none' at module level"),
        (("--strategy", "best"), 2, "no strategy named 'best'"),
        (("--fleet", "missing.toml"), 2, "fleet missing.toml cannot be read"),
        (("--fleet", "unknown.toml"), 2, "named 'spoon'; known:"),
        (("--fleet", "tiny.toml"), 4, "floor"),
        (("--workload", "own.py:all_bad"), 9, "round 1 has no new model: 0 usable updates came"),
        (("--workload", "own.py:all_raise"), 2, "ended with ZeroDivisionError: division by zero"),
        (("--workload", "own.py:no_targets"), 2, "cannot take its test examples: IndexError"),
        (("--out", "."), 2, "exists already"),
        (("--out", "own.py", "--overwrite"), 2, "own.py is not a run folder"),
        (("--out", "own.py/run"), 2, "own.py/run cannot be made in "),
        (("--seed", 2**64), 2, "seed must be less than 2**63"),
        (("--deadline-factor", "nan"), 2, "deadline factor must be more than 0, not nan"),
        (("--late", "keep"), 2, "no way with late updates named 'keep'; known: drop, add"),
        (("--buffer", 2), 2, "buffered rounds need a cohort"),
        (("--over-selection", 0.5), 2, "over-selection must be 1 or more, not 0.5"),
        (("--battery", 80), 2, "battery_at_least is from 0 to 1, not 80.0"),
        (
            ("--execute-plans", "--no-training"),
            2,
            "--execute-plans and --no-training cannot both be",
        ),
        (("--resume", "nowhere"), 2, "nowhere"),
        (("--time-limit", "-5"), 2, "plan time limit s must be more than 0, not -5"),
    ],
)
def test_bad_input_ends_with_one_line_and_its_code(fedpoet, only_tiny, arguments, code, message):
    Path("tiny.toml").write_text(only_tiny)
    Path("unknown.toml").write_text(only_tiny.replace("mkr1000", "spoon"))
    Path("own.py").write_text(NAN.format(bad=1))
    before = sorted(Path().iterdir())
    got, out, err = fedpoet("simulate", "--workload", "digits", "--rounds", 1, *arguments)
    assert got == code
    assert "recomputed" not in out or "×" in out  # no table without a row
    assert err.startswith("fedpoet: ")
    assert message in err
    assert err.count("\n") == 1
    assert [p for p in sorted(Path().iterdir()) if p.name != "__pycache__"] == before


def test_ctrl_c_before_the_first_checkpoint_leaves_nothing_behind(tmp_path):
    code = HEAR_CTRL_C + "from simulations.cli import main; main()"
    command = [sys.executable, "-c", code, "simulate"]
    with subprocess.Popen(
        [*command, "--workload", "digits", "--rounds", "500"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(OWN.parents[1]), "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert any(line.startswith("round   1") for line in process.stdout)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in err
    left = {path.name for path in tmp_path.iterdir()}
    assert not {name for name in left if not name.startswith("torchinductor_")}
