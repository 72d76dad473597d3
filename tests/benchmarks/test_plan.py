"""The planning benchmark: budgets, targets, and one run from the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.points import REFERENCE, Targets, budgets, instances, ram_bytes, with_free_paging
from benchmarks.rows import cache_seconds, row
from scheduler import floor, keep_all, page_all, replay
from scheduler.files import read_problem

ROOT = Path(__file__).parents[2]
INSTANCE = ROOT / "tests" / "data" / "transformer-m4.json"


@pytest.fixture(scope="module")
def problem():
    return read_problem(INSTANCE)


def point(problem, share, targets=REFERENCE):
    (made,) = budgets("s", "n", problem, targets, deadlines=(3.0,), shares=(share,))
    return made


def test_budgets_are_bytes_shares_of_keep_all_or_multiples_of_the_least(problem):
    peak = replay(keep_all(problem), problem).peak_bytes
    assert ram_bytes(problem, "12345") == 12345
    assert ram_bytes(problem, "60%") == round(0.6 * peak)
    assert ram_bytes(problem, "1.1x") == round(1.1 * floor(problem).ram_bytes)


def test_free_paging_costs_energy_and_no_time(problem):
    free = with_free_paging(problem)
    plan = page_all(problem)
    used, freely = replay(plan, problem), replay(plan, free)
    assert freely.time_s == pytest.approx(problem.compute_once.time_s)
    assert used.time_s > freely.time_s
    assert problem.costs.idle_w == 0
    assert freely.energy_j == pytest.approx(used.energy_j)


def test_a_folder_gives_every_semantics_deadline_and_share(tmp_path):
    (tmp_path / "one.json").write_bytes(INSTANCE.read_bytes())
    made = list(instances(tmp_path, lambda name: name == "one", shares=("100%", "60%")))
    assert len({(p.section, p.deadline, p.ram) for p in made}) == len(made) == 8


def test_a_row_says_what_was_reached_and_what_was_missed(problem):
    good = row(point(problem, "1.2x"), time_limit_s=20, baseline_s=1)
    assert good.result.energy >= good.result.bound >= 1
    assert good.best_baseline[1] >= good.result.bound
    impossible = Targets(first_s=-1.0, gap=-1.0, total_s=20)
    assert row(point(problem, "1.2x", impossible), time_limit_s=20, baseline_s=None).missed == (
        "first",
        "gap",
    )


def test_below_the_floor_is_infeasible_and_no_miss(problem):
    made = row(point(problem, "10%"), time_limit_s=5, baseline_s=1)
    assert made.result.infeasible
    assert str(f"{floor(problem).ram_bytes:,}") in made.result.problem
    assert made.missed == ()


def test_a_plan_from_the_cache_needs_no_search(problem):
    posed = point(problem, "1.2x").problem
    began = row(point(problem, "1.2x"), time_limit_s=20, baseline_s=None).result.total_s
    assert cache_seconds(posed, 20) < began


def test_a_process_of_its_own_gives_the_same_row_and_its_memory(problem):
    alone = row(point(problem, "1.2x"), time_limit_s=20, baseline_s=None, alone=True).result
    here = row(point(problem, "1.2x"), time_limit_s=20, baseline_s=None).result
    assert alone.memory_bytes > 10**7
    assert alone.energy == pytest.approx(here.energy, rel=1e-3)


def test_files_with_budgets_are_planned_from_the_command_line(tmp_path):
    out = tmp_path / "rows.json"
    command = [sys.executable, "-m", "benchmarks.plan", f"{INSTANCE}:1.2x", "--out", str(out)]
    done = subprocess.run(
        [*command, "--time-limit", "20"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    (written,) = json.loads(out.read_text())["rows"]
    assert written["name"] in done.stdout
    assert f"{written['result']['energy']:.5f}" in done.stdout
