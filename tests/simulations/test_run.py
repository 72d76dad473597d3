from __future__ import annotations

import functools
import gc
import io
import logging
import tracemalloc
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from rich.console import Console

from client.state import get_arrays, initial_arrays, set_arrays
from client.workload import load_workload
from scheduler.errors import BadInput, Infeasible, UnknownName
from simulations import run as runs
from simulations.config import SimulationConfig, completed
from simulations.reading import read_model
from simulations.results import Outcome
from simulations.view import NARROW, kinds_table


@pytest.fixture
def simulate(machine):
    """Simulate with plans that earlier tests have made."""
    return functools.partial(runs.simulate, machine=machine)


def files(folder):
    return {f.relative_to(folder): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def test_devices_plan_by_themselves_and_keep_their_budget(result):
    board, pi = result.plans
    assert board.peak_bytes <= 200_000 < board.keep_all_peak_bytes
    assert board.page_in_bytes > 0
    assert pi.peak_bytes == pi.keep_all_peak_bytes
    assert pi.page_in_bytes == pi.recomputed == 0


def test_a_device_below_its_floor_is_left_out_with_the_floor(result):
    (left,) = result.left_out
    assert left.name == "tiny"
    assert left.floor_bytes > left.ram_bytes == 9_000
    assert {k.kind for r in result.rounds for k in r.kinds} == {"board", "pi"}
    assert result.devices["kind"].tolist().count(-1) == 1
    assert len(result.devices) == 4


def test_rounds_learn_and_are_accounted_for(result):
    first, *rest = result.rounds
    assert first.kinds == ()
    assert result.rounds[-1].loss < first.loss
    for before, record in zip(result.rounds, rest, strict=False):
        rows = result.journeys[result.journeys["round"] == record.round]
        assert record.start_s == before.end_s < record.end_s
        assert record.asked == record.aggregated == len(rows) == 3
        assert (rows["sent_s"] == record.start_s).all()
        assert rows["end_s"].max() == record.end_s
        busy_s = rows["down_s"] + rows["train_s"] + rows["up_s"]
        np.testing.assert_allclose(busy_s + rows["wait_s"], record.end_s - record.start_s)
        assert (rows["steps"] > 0).all()
        for name in ("train_j", "radio_j", "wait_j"):
            sums = sum(getattr(kind, name) for kind in record.kinds)
            assert sums == pytest.approx(rows[name].sum())
        assert record.bytes_down == rows["bytes_down"].sum()
        assert record.bytes_up == rows["bytes_up"].sum()


def test_devices_are_charged_what_their_plans_say(result):
    for position, plan in enumerate(result.plans):
        rows = result.journeys[result.journeys["kind"] == position]
        np.testing.assert_allclose(rows["train_s"], rows["steps"] * plan.time_s)
        np.testing.assert_allclose(rows["train_j"], rows["steps"] * plan.energy_j)


def test_the_watcher_hears_of_everything(result, seen):
    names = [name for name, *_ in seen]
    assert names[:4] == ["plan", "plan", "left out", "start"]
    assert names[4:] == ["round"] + (["reply"] * 3 + ["round"]) * 2


def test_the_same_seed_gives_the_same_bytes(simulate, config, result, folder, tmp_path):
    simulate(config, tmp_path / "again")
    assert files(tmp_path / "again") == files(folder)


def test_two_workers_give_the_same_bytes(config, result, folder, machine, tmp_path):
    runs.simulate(config, tmp_path / "again", machine=replace(machine, workers=2))
    assert files(tmp_path / "again") == files(folder)


def test_another_seed_gives_others(simulate, config, result, tmp_path):
    other = simulate(replace(config, seed=4, rounds=1), tmp_path / "other")
    assert other.rounds[1].loss != result.rounds[1].loss


def test_executing_the_plans_changes_nothing_but_what_is_measured(
    simulate, config, result, folder, tmp_path
):
    run = simulate(replace(config, training="plans"), tmp_path / "run")
    assert (tmp_path / "run/model.safetensors").read_bytes() == (
        folder / "model.safetensors"
    ).read_bytes()
    for name in ("train_s", "train_j", "train_loss", "steps"):
        assert (run.journeys[name] == result.journeys[name]).all()
    for row in run.journeys:
        assert 0 < row["peak_bytes"] <= run.plans[row["kind"]].ram_bytes
    assert (result.journeys["peak_bytes"] == 0).all()


def test_paging_and_recomputing_change_no_bit_of_the_result(config, result, folder):
    """The same federation by hand, in plain PyTorch, without plans."""
    workload = load_workload("digits")
    arrays = initial_arrays(workload, config.seed)
    partitions = result.devices["partition"][result.devices["kind"] >= 0].tolist()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for number in (1, 2):
            updates = [plain_update(workload, arrays, config.seed, p, number) for p in partitions]
            total = float(sum(weight for _, weight in updates))
            arrays = {
                k: (sum(a[k].astype(np.float64) * w for a, w in updates) / total).astype(v.dtype)
                for k, v in arrays.items()
            }
    finally:
        torch.set_num_threads(threads)
    model = read_model(folder)
    assert all(np.array_equal(model[k], v) for k, v in arrays.items())


def plain_update(workload, arrays, seed, partition, number):
    order = np.random.default_rng(np.random.SeedSequence((seed, partition, number)).spawn(2)[0])
    model = workload.model()
    set_arrays(model, arrays)
    optimizer = workload.optimizer(model.parameters())
    examples = workload.examples(partition)
    size = workload.batch_size
    for _ in range(workload.local_epochs):
        positions = torch.from_numpy(order.permutation(len(examples)))
        for chosen in positions.split(size):
            if len(chosen) == size:
                optimizer.zero_grad()
                workload.loss(model(examples.x[chosen]), examples.y[chosen]).backward()
                optimizer.step()
    return get_arrays(model), len(examples)


def test_a_cohort_is_a_part_of_the_fleet(simulate, config, tmp_path):
    run = simulate(replace(config, cohort=1), tmp_path / "run")
    assert [r.asked for r in run.rounds] == [0, 1, 1]


def test_a_deadline_leaves_stragglers_behind(simulate, config, result, tmp_path):
    fast_s = result.journeys["end_s"][result.journeys["kind"] == 1].min()
    run = simulate(replace(config, deadline_s=2 * fast_s, rounds=3), tmp_path / "run")
    assert [r.end_s for r in run.rounds[1:]] == pytest.approx([n * fast_s for n in (2, 4, 6)])
    assert [r.aggregated for r in run.rounds[1:]] == [1, 1, 1]
    assert [r.waiting for r in run.rounds[1:]] == [2, 2, 2]
    slow = run.journeys[run.journeys["outcome"] == Outcome.WITHDRAWN]
    assert len(slow) == 6  # each round asks both boards anew, and stops them when it ends
    assert slow["down_s"].tolist() == pytest.approx([2 * fast_s] * 6)  # that is how far they came
    whole = result.journeys["bytes_down"].max()
    assert ((slow["bytes_down"] > 0) & (slow["bytes_down"] < whole)).all()


def test_buffered_rounds_use_updates_of_older_models(simulate, config, tmp_path):
    changes = {"cohort": 3, "buffer": 1, "rounds": 6, "staleness": 0.5}
    run = simulate(replace(config, **changes), tmp_path / "run")
    used = run.journeys[run.journeys["outcome"] == Outcome.AGGREGATED]
    assert [r.aggregated for r in run.rounds[1:]] == [1] * 6
    assert len(used) == 6
    assert used["round"].tolist() == [1, 2, 3, 4, 5, 6]
    assert (np.diff(used["end_s"]) >= 0).all()
    assert run.rounds[-1].loss < run.rounds[0].loss


def test_a_fleet_may_divide_the_data_anew(simulate, config, fleet_file, tmp_path):
    split = '[data]\nsplit = "power-law"\nalpha = 1.0\n'
    (tmp_path / "split.toml").write_text(fleet_file.read_text() + split)
    run = simulate(replace(config, fleet=str(tmp_path / "split.toml"), rounds=1), tmp_path / "run")
    epochs, size = run.config["local_epochs"], run.config["batch_size"]
    batches = sorted(run.journeys["steps"] // epochs)
    whole = load_workload("digits")
    examples = sum(len(whole.examples(p)) for p in range(whole.partitions))
    assert batches[-1] > 1.5 * batches[0]
    assert sum(batches) * size <= examples
    assert sum(batches) * size > examples / 2  # 3 of 4 devices can train


def test_memory_does_not_grow_with_the_rounds(simulate, config, fleet_file, tmp_path, caplog):
    caplog.set_level(logging.WARNING, "flwr")  # what the test itself would keep
    held = {}

    def on_round(record):
        if record.round == 20:
            tracemalloc.start()  # what is there already does not count
        elif record.round in (30, 90):
            gc.collect()
            held[record.round] = tracemalloc.get_traced_memory()[0]
        if record.round == 90:
            tracemalloc.stop()

    text = fleet_file.read_text().replace("devices = 4", "devices = 40\n[data]\nshared = true")
    (tmp_path / "large.toml").write_text(text)
    changes = {"fleet": str(tmp_path / "large.toml"), "rounds": 91, "training": "none"}
    simulate(replace(config, **changes), tmp_path / "run", runs.Watcher(on_round=on_round))
    messages = 30 * 60
    assert held[90] - held[30] < messages * 50  # bytes; a row takes 172, and its message much more


@pytest.mark.parametrize("width", [80, 120])
def test_the_live_table_cuts_no_name(result, width):
    named = [replace(p, name="phone 128 MB store 1 of 2") for p in result.plans]
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(kinds_table(named, result.rounds[-1], narrow=width < NARROW))
    text = console.export_text()
    assert "…" not in text
    assert text.count("phone 128 MB") == len(named)
    assert text.count("store 1 of 2") == len(named)


def test_nobody_online_is_a_round_that_says_why(simulate, config, fleet_file, tmp_path):
    night = '[[kinds.{}.habits.online]]\nstart_h = 20.0\nhours = 2.0\nsource = "test"\n'
    text = fleet_file.read_text() + "".join(night.format(kind) for kind in ("board", "pi"))
    (tmp_path / "night.toml").write_text(text)
    asleep = replace(config, fleet=str(tmp_path / "night.toml"), most_skipped=5)
    run = simulate(asleep, tmp_path / "skipped")
    assert [r.skipped for r in run.rounds[1:]] == ["of 0 devices online none may be asked"] * 2
    assert run.rounds[2].loss == run.rounds[0].loss
    patient = simulate(replace(asleep, patience_s=86400.0, rounds=1), tmp_path / "patient")
    assert patient.rounds[1].aggregated == 3
    assert patient.rounds[1].end_s > 20 * 3600


def test_no_device_that_can_train_ends_with_the_floor(simulate, config, only_tiny, tmp_path):
    (tmp_path / "tiny.toml").write_text(only_tiny)
    with pytest.raises(Infeasible, match="floor"):
        simulate(replace(config, fleet=str(tmp_path / "tiny.toml")), tmp_path / "run")
    assert [p.name for p in tmp_path.iterdir()] == ["tiny.toml"]


def test_what_cannot_be_simulated_is_said_at_once(simulate, config, tmp_path):
    with pytest.raises(UnknownName, match="no strategy named 'best'; known: fedavg"):
        simulate(replace(config, strategy="best"), tmp_path / "run")
    with pytest.raises(BadInput, match="rounds must be 1 or more, not 0"):
        SimulationConfig(rounds=0)
    with pytest.raises(BadInput, match="fewer than a batch of 500"):
        simulate(replace(config, batch_size=500), tmp_path / "run")


def test_the_file_speaks_where_the_command_line_does_not():
    options = (("cohort", 5), ("deadline-s", 60), ("charging", True), ("sampler", "utility"))
    config = completed(SimulationConfig(cohort=7), options)
    assert (config.cohort, config.deadline_s, config.sampler) == (7, 60.0, "utility")
    assert config.rules().eligibility.charging
    assert asdict(completed(config, options)) == asdict(config)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (("rounds", 3), "no setting of \\[server\\] named 'rounds'"),
        (("cohort", 1.5), "cohort is 1.5; it must be of type int"),
        (("charging", 1), "charging is 1; it must be of type bool"),
        (("deadline_s", "soon"), "deadline_s is 'soon'; it must be of type float"),
    ],
)
def test_a_bad_setting_in_the_file_is_named(option, message):
    with pytest.raises(BadInput, match=message):
        completed(SimulationConfig(), (option,))


def test_bad_rules_are_said():
    with pytest.raises(UnknownName, match="no way with late updates named 'keep'"):
        SimulationConfig(late="keep").rules()
    with pytest.raises(BadInput, match="buffered rounds need a cohort"):
        SimulationConfig(buffer=2).rules()
