from __future__ import annotations

import shutil
import sys
from dataclasses import replace

import pytest

from scheduler.errors import BadInput
from simulations.cli_reports import compare, report, tensorboard
from simulations.compare import MOST_RUNS, comparison, comparison_html, differences, names_of
from simulations.folder import draft_of
from simulations.reading import read_run
from simulations.summary import reached
from simulations.tensorboard import write_events
from tests.pages import (
    assert_asks_for_nothing,
    assert_shown_by_a_browser,
    assert_well_formed,
    needs_chromium,
)
from tests.simulations.made_runs import larger


@pytest.fixture(scope="module")
def runs(result):
    other = larger(result, devices=60, rounds=20, per_round=10)
    return {"one": result, "other": replace(other, config={**result.config, "cohort": 10})}


def test_only_settings_that_differ_are_told(runs):
    assert [row[0] for row in differences(runs)] == ["cohort"]
    assert differences({"one": runs["one"], "same": runs["one"]}) == []


def test_a_run_beside_itself_has_the_same_figures(runs):
    rows = comparison({"one": runs["one"], "same": runs["one"]})
    assert all(first == second for _, first, second in rows)
    assert len(rows) == 16


def test_what_it_took_to_be_as_good_is_that_of_the_first_round_that_was(runs):
    run = runs["other"]
    goal = run.rounds[5].accuracy
    found = reached(run.rounds, goal)
    assert found is not None
    assert found.round == 5
    assert found.time_s == run.rounds[5].end_s
    assert found.energy_j == pytest.approx(sum(r.energy_j for r in run.rounds[:6]))
    assert reached(run.rounds, 1.1) is None


def test_the_page_is_one_file_with_all_runs_and_the_same_every_time(runs):
    page = comparison_html(runs)
    assert_asks_for_nothing(page)
    assert_well_formed(page)
    assert page == comparison_html(runs)
    assert "other" in page
    most = {f"run {k}": runs["one"] for k in range(MOST_RUNS)}
    assert_well_formed(comparison_html(most))


def test_names_are_told_apart_by_as_much_as_it_takes(tmp_path):
    assert names_of([tmp_path / "a" / "run", tmp_path / "b" / "run"]) == ["a/run", "b/run"]
    assert names_of([tmp_path / "a", tmp_path / "b"]) == ["a", "b"]
    with pytest.raises(BadInput, match="named twice"):
        names_of([tmp_path / "a", tmp_path / "b" / ".." / "a"])
    with pytest.raises(BadInput, match="1 runs cannot be compared"):
        names_of([tmp_path])


def test_the_commands_read_folders_finished_or_not(folder, result, tmp_path, capsys):
    again, going_on = tmp_path / "again", tmp_path / "run"
    shutil.copytree(folder, again)
    shutil.copytree(folder, draft_of(going_on))
    (again / "report.html").unlink()
    report(again)
    assert (again / "report.html").read_bytes() == (folder / "report.html").read_bytes()
    compare([again, draft_of(going_on)], tmp_path / "compare.html")
    said = capsys.readouterr().out
    assert f"{result.rounds[-1].accuracy:.2%}" in said
    assert "test accuracy" in (tmp_path / "compare.html").read_text()


def test_tensorboard_reads_what_was_written(folder, result, tmp_path):
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    tensorboard(folder, tmp_path / "events")
    events = loader.EventAccumulator(str(tmp_path / "events"))
    events.Reload()
    written = events.Scalars("test/accuracy")
    assert [e.step for e in written] == [r.round for r in result.rounds]
    assert [e.wall_time for e in written] == pytest.approx([r.end_s for r in result.rounds])
    assert [e.value for e in written] == pytest.approx([r.accuracy for r in result.rounds])
    joules = events.Scalars("energy/joules")
    assert [e.value for e in joules] == pytest.approx([r.energy_j for r in result.rounds[1:]])
    with pytest.raises(BadInput, match="is not empty"):
        write_events(read_run(folder), tmp_path / "events")


def test_without_the_package_it_is_said_how_to_get_it(result, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard.writer", None)
    with pytest.raises(BadInput, match=r"pip install 'fedpoet\[tensorboard\]'"):
        write_events(result, tmp_path / "events")
    assert not (tmp_path / "events").exists()


@pytest.mark.slow
@needs_chromium
def test_a_real_browser_shows_the_comparison(runs, tmp_path):
    assert_shown_by_a_browser(comparison_html(runs), tmp_path)
