from __future__ import annotations

import json
import stat

import numpy as np
import pytest

from protos.arrays import read_arrays
from scheduler.errors import BadFile, BadInput
from simulations.folder import Lengths, begun, draft_of, free_folder, named, taken_up
from simulations.reading import read_model, read_run
from simulations.results import DEVICE, ROW, Outcome, RoundRecord
from simulations.run import read_settings, simulate


def record(number, **changes):
    settings = {
        "round": number,
        "loss": 1.5,
        "accuracy": None,
        "start_s": 0.0,
        "end_s": 1.0,
        "online": 3,
        "asked": 2,
        "waiting": 0,
        "skipped": None,
        "outcomes": {},
        "kinds": (),
        "refused": (),
    }
    return RoundRecord(**(settings | changes))


def rows(count, number):
    made = np.zeros(count, ROW)
    made["round"] = number
    return made


def draft_with(folder, rounds=2):
    draft = begun(folder, {"seed": 3}, overwrite=False)
    draft.write_fleet([], [], np.zeros(2, DEVICE))
    for number in range(rounds):
        draft.append(record(number), rows(number, number))
    return draft


def test_a_run_folder_holds_all_of_it(result, folder, config):
    assert sorted(p.name for p in folder.iterdir()) == [
        "config.json",
        "devices.npy",
        "journeys.bin",
        "kinds.json",
        "metrics.jsonl",
        "model.safetensors",
        "plans",
        "report.html",
    ]
    assert {p.name for p in (folder / "plans").iterdir()} == {
        "board.json",
        "board.problem.json",
        "pi.json",
        "pi.problem.json",
    }
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["round"] for line in lines] == [0, 1, 2]
    assert lines[-1]["accuracy"] == result.rounds[-1].accuracy
    settings = read_settings(folder)
    assert (settings.seed, settings.strategy, settings.fleet) == (3, "fedavg", config.fleet)
    assert read_model(folder).keys() == read_arrays(folder / "model.safetensors").keys()
    assert not draft_of(folder).exists()


def test_what_is_written_is_what_is_read(tmp_path):
    draft = draft_with(tmp_path / "run", rounds=0)
    written = [record(0), record(1, accuracy=0.5, loss=None, outcomes={"late": 2})]
    for one in written:
        draft.append(one, rows(one.round, one.round))
    draft.finish({"w": np.zeros(()), "b": np.ones(3)}, "<p>")
    run = read_run(tmp_path / "run")
    assert list(run.rounds) == written
    assert run.journeys["round"].tolist() == [1]
    assert len(run.devices) == 2
    assert read_model(tmp_path / "run")["w"].shape == ()


def test_rounds_after_a_checkpoint_are_forgotten_when_the_run_goes_on(tmp_path):
    draft = draft_with(tmp_path / "run")
    draft.save({"w": np.arange(3.0)}, {"number": 1})
    state = json.loads(read_arrays(draft.checkpoint)["state"].tobytes())
    draft.append(record(2), rows(2, 2))
    draft.give_up()
    again = taken_up(tmp_path / "run")
    again.cut(Lengths(**state["lengths"]))
    again.append(record(2, loss=7.0), rows(1, 2))
    again.finish({}, "")
    run = read_run(tmp_path / "run")
    assert [r.round for r in run.rounds] == [0, 1, 2]
    assert run.rounds[2].loss == 7.0
    assert run.journeys["round"].tolist() == [1, 2]


def test_a_draft_that_lost_rounds_is_not_gone_on_with(tmp_path):
    draft = draft_with(tmp_path / "run")
    draft.save({}, {})
    draft.give_up()
    (draft.path / "metrics.jsonl").write_text("")
    again = taken_up(tmp_path / "run")
    with pytest.raises(BadInput, match=r"metrics\.jsonl is shorter than its checkpoint says"):
        again.cut(Lengths(metrics_bytes=10))
    again.give_up()


def test_a_run_without_a_checkpoint_leaves_nothing(tmp_path):
    draft_with(tmp_path / "run").give_up()
    assert list(tmp_path.iterdir()) == []


def test_only_one_process_writes_a_run(tmp_path):
    draft = draft_with(tmp_path / "run")
    with pytest.raises(BadInput, match="is being written by another process"):
        taken_up(tmp_path / "run")
    with pytest.raises(BadInput, match="is being written by another process"):
        begun(tmp_path / "run", {}, overwrite=True)
    draft.save({}, {})
    draft.give_up()
    with pytest.raises(
        BadInput, match="is a run that was stopped: go on with `fedpoet simulate --r"
    ):
        begun(tmp_path / "run", {}, overwrite=False)
    begun(tmp_path / "run", {}, overwrite=True).give_up()


def test_names_are_free_that_nobody_has_or_is_writing(tmp_path):
    assert free_folder(tmp_path, "run").name == "run-1"
    (tmp_path / "run-1").mkdir()
    draft = draft_with(tmp_path / "run-2")
    assert free_folder(tmp_path, "run").name == "run-3"
    draft.give_up()
    assert named(draft_of(tmp_path / "run-2")) == named(tmp_path / "run-2") == tmp_path / "run-2"


def test_a_folder_is_replaced_only_when_told_and_only_at_the_end(tmp_path):
    draft_with(tmp_path / "run").finish({"w": np.zeros(1)}, "first")
    with pytest.raises(BadInput, match="exists already"):
        begun(tmp_path / "run", {}, overwrite=False)
    second = begun(tmp_path / "run", {}, overwrite=True)
    assert (tmp_path / "run/report.html").read_text() == "first"
    second.finish({}, "second")
    assert (tmp_path / "run/report.html").read_text() == "second"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("")
    with pytest.raises(BadInput, match="is not a run folder"):
        begun(tmp_path / "mine", {}, overwrite=True)


def test_what_is_not_there_to_go_on_with_is_said(tmp_path, folder, result):
    with pytest.raises(BadInput, match="is no run that was stopped; there is nothing to resume"):
        taken_up(tmp_path / "run")
    with pytest.raises(BadInput, match="is finished; there is nothing to resume"):
        taken_up(folder)


def test_a_full_disk_is_said_and_leaves_nothing(config, machine, tmp_path, monkeypatch):
    def fails(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("simulations.folder.write_arrays", fails)
    with pytest.raises(BadInput, match="run cannot be written: No space left on device"):
        simulate(config, tmp_path / "run", machine=machine)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        ("metrics.jsonl", b'{"round": 1}\n', "Field required"),
        ("metrics.jsonl", b"\xff\n", "Invalid JSON"),
        ("kinds.json", b"[]", "holds a JSON list"),
        ("kinds.json", b'{"kinds": [{}]}', "Field required"),
        ("devices.npy", b"\x93NUMPY", "cannot be read"),
        ("config.json", b"{", "cannot be read"),
        ("journeys.bin", None, "cannot be read"),
    ],
)
def test_a_damaged_folder_is_said_in_one_line(tmp_path, file, damage, message):
    draft_with(tmp_path / "run").finish({}, "")
    path = tmp_path / "run" / file
    if damage is None:
        path.unlink()
    else:
        path.write_bytes(damage)
    with pytest.raises(BadFile, match=message) as caught:
        read_run(tmp_path / "run")
    assert file in str(caught.value)
    assert "\n" not in str(caught.value)


def test_outcomes_have_names():
    assert [str(o) for o in Outcome][:4] == ["aggregated", "refused", "late", "failed"]


def test_a_folder_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="cannot be made in"):
        begun(tmp_path / "file" / "run", {}, overwrite=False)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
