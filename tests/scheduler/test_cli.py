"""`python -m scheduler` as a person types it: what it prints, writes and exits with."""

from __future__ import annotations

import contextlib
import io
import re
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from unittest import mock

import pytest

from scheduler import Budget, check, replay
from scheduler.__main__ import main
from scheduler.files import read_plan, read_problem, write_problem
from scheduler.handling import decisions
from tests.pages import assert_asks_for_nothing, assert_well_formed
from tests.scheduler.problems import chain, training_step


@dataclass(frozen=True)
class Done:
    """How a command ended, and what it printed."""

    code: int
    out: str
    err: str


def scheduler(*arguments: str | Path) -> Done:
    """Run the command in this process, as `python -m scheduler` does."""
    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch.object(sys, "argv", ["scheduler", *map(str, arguments)]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as ended,
    ):
        main()
    return Done(int(ended.value.code or 0), out.getvalue(), err.getvalue())


@pytest.fixture
def problem(tmp_path: Path) -> Path:
    path = tmp_path / "problem.json"
    write_problem(replace(chain(), budget=Budget(ram_bytes=50)), path)
    return path


PLANNED = """\
status         optimal (SOLVER, 0 s)
energy         10.5 J, +5.0000% against keep-all (10 J)
bound          10.5 J: no plan takes less
gap            0.0000%
keep-all peak  60 bytes
peak           50 bytes of 50
arena          50 bytes: fixed addresses take no more than the peak
time           11 s, computing once takes 10 s; no deadline
paged out      10 bytes
paged in       10 bytes
recomputed     0 operator runs
"""


def test_what_plan_prints_where_there_is_no_terminal(problem: Path, tmp_path: Path) -> None:
    """Scripts read this: labels, order and wording stay as they are."""
    done = scheduler("plan", "--problem", problem, "--out", tmp_path / "plan.json")
    assert (done.code, done.err) == (0, "")
    told = re.sub(r"\(.*, \d+\.\d\d s\)", "(SOLVER, 0 s)", done.out, count=1)
    assert told == PLANNED
    check(read_plan(tmp_path / "plan.json"), read_problem(problem))


def test_check_prints_what_the_plan_uses(problem: Path, tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    assert scheduler("plan", "--problem", problem, "--out", plan).code == 0
    done = scheduler("check", plan, "--problem", problem)
    assert done == Done(
        0, "valid: every rule holds\n" + PLANNED[PLANNED.index("\npeak ") + 1 :], ""
    )


def test_explain_says_what_was_done_and_what_else_it_would_take(tmp_path: Path) -> None:
    path = tmp_path / "problem.json"
    write_problem(replace(chain(3), budget=Budget(ram_bytes=40)), path)
    done = scheduler("plan", "--problem", path, "--explain", "op1")
    assert done.code == 0
    assert done.out.partition("\n\n")[2] == (
        "t1: 10 bytes, computed by op1\n"
        "  from op2 to op4: kept, 10 bytes of RAM for 1 s\n"
        "    paged       +8.33% energy (+500 mJ), +16.67% time\n"
        "    recomputed  +16.67% energy (+1 J), +16.67% time\n"
    )


def test_explain_names_the_budget_that_stands_against_a_way(problem: Path, tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    asked = ("plan", "--problem", problem, "--out", plan)
    assert scheduler(*asked).code == 0
    posed = read_problem(problem)
    (paged,) = [d.tensor for d in decisions(read_plan(plan), posed) if d.paged]
    told = scheduler(*asked, "--explain", f"t{paged}", "--all-rows").out
    assert f"t{paged}: 10 bytes, computed by op{paged}" in told
    assert "paged, which takes 500 mJ and 1 s" in told
    assert re.search(
        r"kept +would hold 60 bytes at op\d, 10 over the budget, for -4.76% energy", told
    )
    assert "10 tensors: 3 kept, 1 paged, 0 recomputed, 6 used at once" in told


def test_sweep_prints_the_frontier_and_why_there_is_none(problem: Path, tmp_path: Path) -> None:
    page = tmp_path / "plan.html"
    done = scheduler("plan", "--problem", problem, "--sweep", "--html", page)
    assert done.code == 0
    table = done.out.partition("\n\n")[2].splitlines()
    assert " ".join(table[0].split()) == "RAM budget peak energy against keep-all time gap plan"
    assert len(table) == 1 + 8 + 1  # the budget planned for is one more
    assert table[1].split()[:2] == ["30", "bytes"]
    assert table[-1].split()[-1] == "optimal"
    assert_asks_for_nothing(page.read_text())
    assert_well_formed(page.read_text())
    assert "What RAM buys" in page.read_text()
    three = scheduler("plan", "--problem", problem, "--sweep", "3").out.partition("\n\n")[2]
    assert [line.split()[0] for line in three.splitlines()[1:]] == ["30", "45", "50", "60"]


def test_a_sweep_goes_on_where_the_budget_itself_has_no_plan(problem: Path) -> None:
    done = scheduler("plan", "--problem", problem, "--ram", "20", "--sweep", "2")
    assert done.code == 4
    assert [line.split()[0] for line in done.out.splitlines()] == ["RAM", "30", "60"]
    assert "below the floor of 30 bytes" in done.err


def test_floor_names_what_sets_it_and_what_comes_next(tmp_path: Path) -> None:
    path = tmp_path / "problem.json"
    write_problem(training_step(), path)
    assert scheduler("floor", "--problem", path).out == (
        "floor          18 bytes, set by layer: no plan holds less\n"
        "then           18 bytes, backward\n"
        "then           14 bytes, update\n"
        "then           7 bytes, loss\n"
        "least found    18 bytes: a plan reaches the floor\n"
        "keep-all peak  27 bytes\n"
    )


def test_a_deadline_raises_the_least_ram(problem: Path) -> None:
    done = scheduler("floor", "--problem", problem, "--deadline-factor", "1.1")
    assert "set by op" in done.out
    assert "least found    50 bytes within 11 s: proven, no plan holds less" in done.out
    hopeless = scheduler("floor", "--problem", problem, "--deadline-factor", "0.5")
    assert hopeless.code == 0
    assert "no plan within 5 s: " in hopeless.out


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("plan",), 2, ("give --problem FILE",)),
        (("plan", "--problem", "nowhere.json"), 2, ("nowhere.json",)),
        (("plan", "--problem", "P", "--ram", "much"), 2, ("'much' is not a size",)),
        (("plan", "--problem", "P", "--ram", "29"), 4, ("floor of 30 bytes", "op")),
        (("plan", "--problem", "P", "--deadline-factor", "0.5"), 4, ("deadline of 5 s",)),
        (("plan", "--problem", "P", "--explain", "opp3"), 2, ("'opp3'", "op3")),
        (("plan", "--problem", "P", "--out", "no/where.json"), 2, ("no/where.json",)),
        (("plan", "--problem", "P", "--html", "no/where.html"), 2, ("no/where.html",)),
        (("plan", "--problem", "P", "--out", "plan.pb"), 2, ("plan.pb", "binary form")),
        (("floor",), 2, ("give --problem FILE",)),
        (("check", "nowhere.json", "--problem", "P"), 2, ("nowhere.json",)),
    ],
)
def test_wrong_inputs_end_with_one_line_and_their_code(
    problem: Path, tmp_path: Path, arguments: tuple[str, ...], code: int, words: tuple[str, ...]
) -> None:
    with contextlib.chdir(tmp_path):
        before = sorted(Path().iterdir())
        done = scheduler(*(problem if word == "P" else word for word in arguments))
        assert sorted(Path().iterdir()) == before
    assert done.code == code
    assert done.err.startswith("scheduler: ")
    assert done.err.count("\n") == 1
    for word in words:
        assert word in done.err


def test_a_plan_for_another_problem_breaks_a_rule(problem: Path, tmp_path: Path) -> None:
    plan, other = tmp_path / "plan.json", tmp_path / "other.json"
    assert scheduler("plan", "--problem", problem, "--out", plan).code == 0
    write_problem(chain(4), other)
    done = scheduler("check", plan, "--problem", other)
    assert (done.code, done.out) == (6, "")
    assert "same-graph" in done.err


@pytest.mark.parametrize("words", [("--sweep", "1"), ("--sweep=-2",), ("--time-limit", "0")])
def test_values_out_of_range_are_refused(problem: Path, words: tuple[str, ...]) -> None:
    assert scheduler("plan", "--problem", problem, *words).code == 2


def test_the_module_runs_and_lists_devices() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "scheduler", "devices"], capture_output=True, text=True, check=True
    )
    assert "nrf52840" in done.stdout
    helped = scheduler("--help").out
    for command in ("plan", "check", "floor", "devices"):
        assert command in helped


def test_the_plan_written_is_the_plan_printed(problem: Path, tmp_path: Path) -> None:
    plan, kept = tmp_path / "plan.json", tmp_path / "kept.json"
    done = scheduler(
        *("plan", "--problem", problem, "--ram", "40", "--deadline-factor", "1.5"),
        *("--out", plan, "--save-problem", kept),
    )
    posed = read_problem(kept)
    assert posed.budget == Budget(ram_bytes=40, time_s=15.0)
    used = replay(read_plan(plan), posed)
    assert f"{used.peak_bytes:,} bytes of 40" in done.out
    assert f"{used.energy_j:.6g} J" in done.out
    assert "deadline 15 s" in done.out
