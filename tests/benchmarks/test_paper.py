"""The comparison with other schedulers: results are kept, written, read and drawn as they are."""

from __future__ import annotations

import io
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks.paper import DEVICES, METHODS, SHARES, Found, Store, plan_by, problems_of, row_of
from benchmarks.paper_plots import BEGIN, END, LOOKS, Row, publish, read_rows, show, write_rows
from scheduler import floor, keep_all, load_device, replay
from tests.scheduler.problems import chain


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    """Every method on a chain of six operators, on two devices."""
    found = []
    for name in DEVICES[:2]:
        for _, problem in problems_of(chain(6).graph, load_device(name)):
            costs = replace(problem.costs, operators=chain(6).costs.operators)
            posed = replace(problem, costs=costs)
            for method in METHODS:
                planned = plan_by(method, posed, 10.0)
                found.append(row_of("vgg16", name, posed, method, planned))
    return found


def test_budgets_lie_between_the_floor_and_keep_all() -> None:
    problems = [p for _, p in problems_of(chain(6).graph, load_device("mkr1000"))]
    last = problems[-1]
    assert last.budget.ram_bytes == replay(keep_all(last), last).peak_bytes
    assert all(p.budget.ram_bytes > floor(p).ram_bytes for p in problems)
    assert len(problems) == len(SHARES)


def test_no_method_has_energy_without_a_plan_and_keep_all_needs_all_ram(rows: list[Row]) -> None:
    assert {r.method for r in rows} == {*LOOKS}
    for row in rows:
        assert (row.energy_j is None) == (row.extra_time is None)
        if row.method == "keep-all":
            assert (row.energy_j is not None) == (row.ram_bytes >= row.keep_all_bytes)
        if row.method == "poet":
            assert row.gap is not None
            assert row.gap < 0.01


def test_a_result_that_is_known_is_not_planned_again(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    problem = chain(4)
    first = Store(path).get("dtr", problem, 1.0)
    assert first.energy_j == problem.compute_once.energy_j
    known = Store(path)
    known.found = {key: Found(energy_j=1.0, planning_s=0.0) for key in known.found}
    assert known.get("dtr", problem, 5.0).energy_j == 1.0
    assert known.get("chen", problem, 5.0).energy_j == first.energy_j


def test_rows_come_back_from_the_file(rows: list[Row], tmp_path: Path) -> None:
    write_rows(rows, tmp_path / "paper.csv")
    back = read_rows(tmp_path / "paper.csv")
    assert [(r.method, r.ram_bytes) for r in back] == [(r.method, r.ram_bytes) for r in rows]
    for old, new in zip(rows, back, strict=True):
        assert new.energy_j == (None if old.energy_j is None else pytest.approx(old.energy_j, 1e-5))


def test_plots_are_svg_and_tables_stand_between_the_marks(rows: list[Row], tmp_path: Path) -> None:
    text = tmp_path / "paper.md"
    text.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n", encoding="utf-8")
    publish(rows, tmp_path)
    image = tmp_path / "images" / "paper-vgg16.svg"
    ElementTree.parse(image)
    assert image.stat().st_size < 200_000
    new = text.read_text(encoding="utf-8")
    assert new.startswith(f"before\n{BEGIN}\n")
    assert new.endswith(f"{END}\nafter\n")
    assert "old" not in new
    assert "| VGG16 | MKR1000 |" in new
    publish(rows, tmp_path)
    assert text.read_text(encoding="utf-8") == new


def test_the_terminal_shows_every_budget(rows: list[Row]) -> None:
    console = Console(file=io.StringIO(), width=80)
    show(rows, console)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert shown.count("extra energy") == 2
    assert shown.count("0 MB") == 4 * len(SHARES)
