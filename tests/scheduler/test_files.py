"""Problem and plan files: what is written is read back, and damage is found."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings

from scheduler import Problem, check, keep_all, page_all, replay
from scheduler.errors import BadFile, BadGraph, BadInput
from scheduler.files import read_plan, read_problem, write_plan, write_problem
from tests.scheduler.problems import training_step
from tests.strategies import problems

INSTANCE = Path("tests/data/transformer-m4.json")


@settings(max_examples=50)
@given(problem=problems())
def test_problems_and_plans_come_back_as_they_were(
    problem: Problem, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("files")
    write_problem(problem, folder / "problem.json")
    again = read_problem(folder / "problem.json")
    assert again == problem
    assert again.digest == problem.digest
    for plan in (keep_all(problem), page_all(problem)):
        write_plan(plan, folder / "plan.json")
        assert read_plan(folder / "plan.json") == plan


def test_overlap_is_written_and_is_false_where_a_file_does_not_say(tmp_path: Path) -> None:
    problem, path = training_step(), tmp_path / "problem.json"
    beside = replace(problem, costs=replace(problem.costs, overlap=True))
    write_problem(beside, path)
    assert read_problem(path) == beside
    assert beside.digest != problem.digest
    document = json.loads(path.read_text())
    del document["costs"]["overlap"]
    path.write_text(json.dumps(document))
    assert read_problem(path) == problem


def test_a_public_poet_instance_is_a_problem_file() -> None:
    document = json.loads(INSTANCE.read_text())
    problem = read_problem(INSTANCE)
    plan = keep_all(problem)
    check(plan, problem)
    used = replay(plan, problem)
    assert used.peak_bytes == document["keep_all_peak_bytes"]
    assert used.energy_j == pytest.approx(document["compute_energy_j"])
    assert used.time_s == pytest.approx(document["compute_time_s"])


def test_a_poet_instance_without_a_field_is_refused(tmp_path: Path) -> None:
    document = json.loads(INSTANCE.read_text())
    del document["operators"][3]["time_s"]
    path = tmp_path / "instance.json"
    path.write_text(json.dumps(document))
    with pytest.raises(BadFile, match="time_s"):
        read_problem(path)


def change(document: dict[str, Any], place: tuple[str | int, ...], value: object) -> None:
    target: Any = document
    for key in place[:-1]:
        target = target[key]
    target[place[-1]] = value


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("format",), "something", "is not a fedpoet-problem"),
        (("version",), 7, "version 7"),
        (("extra",), 1, "unknown fields: extra"),
        (("graph", "operators", 0, "recomputible"), False, "unknown fields: recomputible"),
        (("graph", "operators", 0, "inputs"), "all", "graph.operators.0.inputs"),
        (("graph", "tensors", 1, "kind"), "weight", "graph.tensors.1.kind"),
        (("graph", "tensors", 1, "size_bytes"), 1.5, "size_bytes"),
        (("graph", "operators", 1, "inputs"), [5], "before any operator"),
        (("costs", "page_in"), [], "cost table"),
        (("budget", "ram_bytes"), -4, "ram_bytes must be 0 or more"),
    ],
)
def test_a_damaged_problem_names_the_place(
    tmp_path: Path, place: tuple[str | int, ...], value: object, message: str
) -> None:
    path = tmp_path / "problem.json"
    write_problem(training_step(), path)
    document = json.loads(path.read_text())
    change(document, place, value)
    path.write_text(json.dumps(document))
    with pytest.raises((BadFile, BadGraph, BadInput), match=message):
        read_problem(path)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("steps", 0), ["free", 1], "digest"),
        (("steps", 0), ["jump", 1], "damaged"),
        (("steps", 0), ["compute", "0"], "damaged"),
        (("steps", 0), 5, "damaged"),
        (("digest",), "0" * 64, "digest"),
        (("budget", "ram_bytes"), 5, "digest"),
        (("format",), "fedpoet-problem", "is not a fedpoet-plan"),
    ],
)
def test_a_damaged_plan_is_refused(
    tmp_path: Path, place: tuple[str | int, ...], value: object, message: str
) -> None:
    path = tmp_path / "plan.json"
    write_plan(keep_all(training_step()), path)
    document = json.loads(path.read_text())
    change(document, place, value)
    path.write_text(json.dumps(document))
    with pytest.raises(BadFile, match=message):
        read_plan(path)


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match="cannot write"):
        write_plan(keep_all(training_step()), tmp_path / "nowhere" / "plan.json")
    (tmp_path / "taken").mkdir()
    with pytest.raises(BadFile, match="cannot write"):
        write_plan(keep_all(training_step()), tmp_path / "taken")
    assert [p.name for p in tmp_path.iterdir()] == ["taken"]
    with pytest.raises(BadFile, match="cannot read"):
        read_problem(tmp_path / "absent.json")
    (tmp_path / "text.json").write_text("{")
    with pytest.raises(BadFile, match="is not JSON"):
        read_plan(tmp_path / "text.json")


def test_a_file_written_has_the_mode_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "any").touch()
    write_plan(keep_all(training_step()), tmp_path / "plan.json")
    assert (tmp_path / "plan.json").stat().st_mode == (tmp_path / "any").stat().st_mode


def test_a_name_of_the_binary_form_is_refused(tmp_path: Path) -> None:
    plan = keep_all(training_step())
    with pytest.raises(BadFile, match="binary form"):
        write_plan(plan, tmp_path / "plan.pb")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "plan.pb").write_bytes(b"")
    with pytest.raises(BadFile, match="binary form"):
        read_plan(tmp_path / "plan.pb")
