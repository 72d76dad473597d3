from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from client.state import get_arrays, initial_arrays, set_arrays
from client.workload import load_workload
from scheduler.errors import BadInput, Infeasible, UnknownName
from simulations.run import SimulationConfig, simulate


def test_devices_plan_by_themselves_and_keep_their_budget(result):
    board, pi = result.plans
    assert board.peak_bytes <= 200_000 < board.keep_all_peak_bytes
    assert board.page_in_bytes > 0
    assert pi.peak_bytes == pi.keep_all_peak_bytes
    assert pi.page_in_bytes == pi.recomputed == 0
    for record in result.rounds[1:]:
        for device in record.devices:
            assert 0 < device.measured_peak_bytes <= device.ram_budget_bytes


def test_a_device_below_its_floor_is_left_out_with_the_floor(result):
    (left,) = result.left_out
    assert left.kind.name == "tiny"
    assert "floor" in left.reason
    assert {d.kind for r in result.rounds for d in r.devices} == {"board", "pi"}


def test_rounds_learn_and_are_accounted_for(result):
    first, *rest = result.rounds
    assert first.devices == ()
    assert result.rounds[-1].loss < first.loss
    for before, record in zip(result.rounds, rest, strict=False):
        assert record.start_s == before.end_s < record.end_s
        assert record.bytes_down == sum(d.bytes_down for d in record.devices)
        assert record.bytes_up == sum(d.bytes_up for d in record.devices)
        slowest = max(record.devices, key=lambda d: d.down_s + d.train_s + d.up_s)
        assert record.end_s - record.start_s == pytest.approx(
            slowest.down_s + slowest.train_s + slowest.up_s
        )
        assert all(d.energy_j > 0 and d.steps > 0 for d in record.devices)


def test_the_watcher_hears_of_everything(result, seen):
    names = [name for name, _ in seen]
    assert names[:4] == ["plan", "plan", "left out", "start"]
    assert names[4:] == ["round"] + (["reply"] * 3 + ["round"]) * 2


def test_the_same_seed_gives_the_same_numbers(config, result):
    again = simulate(config)
    assert [r.as_dict() for r in again.rounds] == [r.as_dict() for r in result.rounds]
    assert all(np.array_equal(again.arrays[k], v) for k, v in result.arrays.items())


def test_another_seed_gives_others(config, result):
    other = simulate(replace(config, seed=4, rounds=1))
    assert other.rounds[1].loss != result.rounds[1].loss


def test_paging_and_recomputing_change_no_bit_of_the_result(config, result):
    """The same federation by hand, in plain PyTorch, without plans."""
    workload = load_workload("digits")
    arrays = initial_arrays(workload, config.seed)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for number in (1, 2):
            updates = [plain_update(workload, arrays, config.seed, p, number) for p in (0, 1, 3)]
            total = float(sum(weight for _, weight in updates))
            arrays = {
                k: (sum(a[k].astype(np.float64) * w for a, w in updates) / total).astype(v.dtype)
                for k, v in arrays.items()
            }
    finally:
        torch.set_num_threads(threads)
    assert all(np.array_equal(result.arrays[k], v) for k, v in arrays.items())


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


def test_a_cohort_is_a_part_of_the_fleet(config):
    result = simulate(replace(config, cohort=1, rounds=2))
    assert [len(r.devices) for r in result.rounds] == [0, 1, 1]


def test_no_device_that_can_train_ends_with_the_floor(config, only_tiny, tmp_path):
    (tmp_path / "tiny.toml").write_text(only_tiny)
    with pytest.raises(Infeasible, match="floor"):
        simulate(replace(config, fleet=str(tmp_path / "tiny.toml")))


def test_what_cannot_be_simulated_is_said_at_once(config):
    with pytest.raises(UnknownName, match="no strategy named 'best'; known: fedavg"):
        simulate(replace(config, strategy="best"))
    with pytest.raises(BadInput, match="rounds must be 1 or more, not 0"):
        SimulationConfig(rounds=0)
    with pytest.raises(BadInput, match="has 84 examples, fewer than a batch of 85"):
        simulate(replace(config, batch_size=85))
