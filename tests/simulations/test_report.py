from __future__ import annotations

import errno
import json
import stat

import pytest
from safetensors.numpy import load_file

from scheduler.errors import BadInput
from simulations.folder import free_folder, write_run
from simulations.plots import energy_share
from simulations.report import report_html
from tests.pages import assert_asks_for_nothing, assert_well_formed


@pytest.fixture(scope="module")
def page(result):
    return report_html(result)


def test_the_report_is_one_file_that_asks_for_nothing(page):
    assert_asks_for_nothing(page)


def test_the_report_is_well_formed_and_shows_the_numbers(page, result):
    assert_well_formed(page)
    assert f"{result.rounds[-1].accuracy:.1%}" in page
    assert "Left out: 1 device of kind tiny" in page
    assert page.count("<svg") == 4
    assert "Schedule of one training step on board" in page


def test_the_same_result_gives_the_same_report(page, result):
    assert report_html(result) == page


def test_a_run_folder_holds_all_of_it(result, tmp_path):
    folder = tmp_path / "runs" / "one"
    write_run(result, folder)
    assert sorted(p.name for p in folder.iterdir()) == [
        "config.json",
        "metrics.jsonl",
        "model.safetensors",
        "plans",
        "report.html",
    ]
    model = load_file(folder / "model.safetensors")
    assert all((model[k] == v).all() for k, v in result.arrays.items())
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["round"] for line in lines] == [0, 1, 2]
    assert lines[-1]["accuracy"] == result.rounds[-1].accuracy
    assert json.loads((folder / "config.json").read_text())["seed"] == 3
    assert {p.name for p in (folder / "plans").iterdir()} == {
        "board.json",
        "board.problem.json",
        "pi.json",
        "pi.problem.json",
    }
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755


def test_two_runs_write_the_same_bytes(result, tmp_path):
    write_run(result, tmp_path / "a")
    write_run(result, tmp_path / "b")
    for file in (p for p in (tmp_path / "a").rglob("*") if p.is_file()):
        assert file.read_bytes() == (tmp_path / "b" / file.relative_to(tmp_path / "a")).read_bytes()


def test_a_folder_is_replaced_only_when_told(result, tmp_path):
    folder = tmp_path / "run"
    write_run(result, folder)
    with pytest.raises(BadInput, match="exists already"):
        write_run(result, folder)
    write_run(result, folder, overwrite=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("")
    with pytest.raises(BadInput, match="is not a run folder"):
        write_run(result, tmp_path / "mine", overwrite=True)
    assert free_folder(tmp_path, "run").name == "run-1"


def test_nothing_is_left_half_written(result, tmp_path, monkeypatch):
    def fails(_):
        raise KeyboardInterrupt

    monkeypatch.setattr("simulations.folder.report_html", fails)
    with pytest.raises(KeyboardInterrupt):
        write_run(result, tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_said_and_leaves_nothing(result, tmp_path, monkeypatch):
    def fails(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("simulations.folder.report_html", fails)
    with pytest.raises(BadInput, match="run cannot be written: No space left on device"):
        write_run(result, tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_plots_can_be_read_on_a_phone(page):
    assert page.count('<div class="scroll"><svg') == page.count("<svg")


def test_a_kind_that_does_not_page_spends_nothing_on_it(result):
    pi = energy_share(result.plans[1], result.rounds)
    assert pi.paging_j == 0.0 < pi.compute_j
