from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAdagrad, FedAdam, FedAvg, FedAvgM, FedMedian, FedYogi

from scheduler.errors import BadUpdate, RunFailed
from server.federation import Federation
from server.rounds import run_rounds
from server.rules import Rules
from server.strategy import make_strategy
from tests.server.grids import FunctionGrid

INITIAL = {
    "w": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b": np.zeros(2, dtype=np.float32),
    "count": np.array(3, dtype=np.int64),
}


def adds(amount, examples=10, **metrics):
    """A node that adds `amount` to every array."""
    return lambda arrays: (
        {k: (v + np.asarray(amount).astype(v.dtype)).astype(v.dtype) for k, v in arrays.items()},
        {"num-examples": examples, **metrics},
    )


def answers(change):
    """A node that adds 1 and then spoils its update."""

    def node(arrays):
        good = {k: (v + 1).astype(v.dtype) for k, v in arrays.items()}
        return change(good), {"num-examples": 10}

    return node


def record_of(arrays, data):
    return ArrayRecord({k: Array("float32", (1,), "numpy.ndarray", data) for k in arrays})


def archive():
    """Bytes that numpy reads, but not as an array."""
    np.savez(file := io.BytesIO(), np.zeros(1))
    return file.getvalue()


def claims_a_petabyte():
    """A header without the numbers it announces."""
    header = {"descr": "<f4", "fortran_order": False, "shape": (2**48,)}
    np.lib.format.write_array_header_1_0(file := io.BytesIO(), header)
    return file.getvalue()


@dataclass
class Ran:
    arrays: dict
    rounds: list
    progress: list


def run(grid, on_round=lambda *_: None, **changes):
    """The model after all rounds, each round, and what was needed to go on after it."""
    rounds, progress = [], []

    def note(done, then):
        rounds.append(done)
        progress.append(then)
        on_round(done, then)

    settings = {
        "initial": INITIAL,
        "strategy": make_strategy("fedavg"),
        "num_rounds": 1,
        "evaluate": lambda number, arrays: {"loss": float(number)},
        "now_s": grid.now_s,
        "wait": grid.wait,
        "reports": grid.reports,
        "on_round": note,
    }
    arrays = run_rounds(grid, Federation(**(settings | changes)))
    return Ran(arrays=arrays, rounds=rounds, progress=progress)


def test_average_is_weighted_by_examples_and_keeps_types():
    grid = FunctionGrid({1: adds(0, 30), 2: adds(4, 10)})
    outcome = run(grid)
    assert {k: v.dtype for k, v in outcome.arrays.items()} == {
        k: v.dtype for k, v in INITIAL.items()
    }
    np.testing.assert_array_equal(outcome.arrays["w"], INITIAL["w"] + 1)
    assert outcome.arrays["count"] == 4


def test_rounds_build_on_one_another_and_are_reported():
    grid = FunctionGrid({1: adds(1), 2: adds(1)}, takes_s={2: 7.0})
    outcome = run(grid, num_rounds=3)
    assert [r.number for r in outcome.rounds] == [0, 1, 2, 3]
    np.testing.assert_array_equal(outcome.arrays["b"], [3, 3])
    first = outcome.rounds[1]
    assert first.cohort == (1, 2)
    assert first.metrics[2]["num-examples"] == 10
    assert first.bytes_down > 2 * INITIAL["w"].nbytes
    assert first.bytes_up > 2 * INITIAL["w"].nbytes
    assert (first.start_s, first.end_s) == (0, 7)
    assert first.evaluation == {"loss": 1.0}
    assert first.skipped is None


def test_order_of_arrival_does_not_change_a_bit():
    generator = np.random.default_rng(0)
    nodes = {n: adds(generator.normal() * 10**n, int(generator.integers(1, 99))) for n in range(9)}
    expected = run(FunctionGrid(nodes), num_rounds=3).arrays
    shuffled = FunctionGrid(nodes, arrival=lambda replies: replies[::-1])
    got = run(shuffled, num_rounds=3).arrays
    assert all(np.array_equal(expected[k], got[k]) for k in expected)


@pytest.mark.parametrize("strategy", ["fedavg", "trimmed-mean"])
def test_partition_decides_the_order_when_node_ids_differ(strategy):
    amounts = np.random.default_rng(1).normal(size=5) * 10.0 ** np.arange(5)

    def model(ids):
        nodes = {
            n: adds(a, 7 + p, **{"partition-id": p})
            for p, (n, a) in enumerate(zip(ids, amounts, strict=True))
        }
        ran = run(FunctionGrid(nodes), strategy=make_strategy(strategy), num_rounds=2)
        return ran.arrays["w"]

    np.testing.assert_array_equal(model([1, 2, 3, 4, 5]), model([91, 23, 57, 4, 68]))


def test_sum_is_in_float64():
    many = {n: adds(1e-4 if n else 1.0, 1) for n in range(4001)}
    initial = {"b": np.zeros(1, dtype=np.float32)}
    outcome = run(FunctionGrid(many), initial=initial)
    exact = np.float32((1.0 + 4000 * float(np.float32(1e-4))) / 4001)
    assert outcome.arrays["b"][0] == exact


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda a: a | {"w": a["w"] * np.float32("nan")}, "'w' has 6 of 6 values that are NaN"),
        (
            lambda a: a | {"b": np.array([1, np.inf], np.float32)},
            "1 of 2 values that are NaN or inf",
        ),
        (lambda a: {k: v for k, v in a.items() if k != "b"}, "lacks array 'b'"),
        (lambda a: a | {"x": a["b"]}, "has array 'x', which the model does not have"),
        (lambda a: a | {"w": a["w"].T.copy()}, r"float32\[3, 2\]; the model has float32\[2, 3\]"),
        (lambda a: a | {"w": a["w"].astype(np.float64)}, "'w' is float64"),
        (
            lambda a: ArrayRecord({k: Array("float32", (1,), "numpy.ndarray", b"?") for k in a}),
            "cannot be read",
        ),
        (lambda a: record_of(a, archive()), "cannot be read"),
        (lambda a: record_of(a, claims_a_petabyte()), "cannot be read"),
    ],
)
def test_bad_updates_are_refused_with_the_reason_and_never_aggregated(change, reason):
    grid = FunctionGrid({1: adds(1), 2: answers(change)})
    outcome = run(grid)
    np.testing.assert_array_equal(outcome.arrays["w"], INITIAL["w"] + 1)
    (refusal,) = outcome.rounds[1].refused
    assert refusal.node == 2
    with pytest.raises(BadUpdate, match=reason):
        run(FunctionGrid({2: answers(change)}))


@pytest.mark.parametrize("weight", [0, -1, float("nan"), float("inf"), 1e308, 2**60])
def test_weights_that_are_no_weights_are_refused(weight):
    with pytest.raises(BadUpdate, match="num-examples"):
        run(FunctionGrid({1: adds(1, weight)}))


def test_records_beside_the_update_are_refused():
    def node(arrays):
        record = ArrayRecord({k: Array(v) for k, v in arrays.items()})
        metrics = MetricRecord({"num-examples": 1})
        return RecordDict({"arrays": record, "more": record, "metrics": metrics})

    with pytest.raises(BadUpdate, match="must hold one ArrayRecord and one MetricRecord"):
        run(FunctionGrid({1: node}))


def test_failed_and_silent_nodes_are_counted():
    nodes = {1: adds(1), 2: lambda _: "no space", 3: lambda _: None}
    done = run(FunctionGrid(nodes, takes_s={3: 99.0}), rules=Rules(deadline_s=10)).rounds[1]
    assert [(r.node, r.reason, r.sent) for r in done.refused] == [(2, "no space", False)]
    assert done.waiting == (3,)
    assert done.end_s == 10


def test_a_round_without_updates_ends_the_run():
    with pytest.raises(
        RunFailed, match=r"round 1 has no new model: 0 usable updates came.*node 1: no space"
    ):
        run(FunctionGrid({1: lambda _: "no space"}))


def test_an_update_that_overflows_the_aggregate_ends_the_run():
    strategy = FedAvgM(
        min_train_nodes=1, min_available_nodes=1, server_momentum=0.9, server_learning_rate=1e39
    )
    huge = FunctionGrid({1: adds(1)})
    with np.errstate(over="ignore"), pytest.raises(RunFailed, match="aggregate is not a model"):
        run(huge, strategy=strategy, initial={"b": INITIAL["b"]})


@pytest.mark.parametrize("kind", [FedAvg, FedAdam, FedAdagrad, FedYogi, FedAvgM, FedMedian])
def test_flowers_strategies_work_unchanged(kind):
    grid = FunctionGrid({1: adds(1), 2: adds(2)})
    outcome = run(grid, strategy=kind(), num_rounds=2)
    assert all(outcome.arrays[k].dtype == v.dtype for k, v in INITIAL.items())
    assert not np.array_equal(outcome.arrays["w"], INITIAL["w"])


def test_a_strategy_that_waits_for_more_nodes_is_told_so():
    with pytest.raises(RunFailed, match="waits for more nodes than the cohort's 1"):
        run(FunctionGrid({1: adds(1)}), strategy=FedAvg())


def test_flower_agrees_with_the_exact_average_up_to_rounding():
    class Flowers(FedAvg):
        """Not known to look at the mean only, so it gets all replies and averages them itself."""

    nodes = {n: adds(n / 3, n) for n in range(1, 6)}
    ours = run(FunctionGrid(nodes)).arrays
    flowers = run(FunctionGrid(nodes), strategy=Flowers()).arrays
    np.testing.assert_allclose(ours["w"], flowers["w"], rtol=1e-6)


@pytest.mark.parametrize("strategy", ["fedavg", "fedadam"])
def test_one_node_with_metrics_of_its_own_does_not_end_the_round(strategy):
    def renamed(arrays):
        metrics = MetricRecord({"num-examples": 10, "list": [1.0, 2.0]})
        record = ArrayRecord({k: Array(v) for k, v in arrays.items()})
        return RecordDict({"a": record, "m": metrics})

    nodes = {1: adds(1, **{"train-loss": 0.5}), 2: adds(1, forged=float("nan")), 3: renamed}
    done = run(FunctionGrid(nodes), strategy=make_strategy(strategy)).rounds[1]
    assert set(done.metrics) == {1, 2, 3}


def test_a_node_counts_once_and_only_if_it_was_asked():
    grid = FunctionGrid({1: adds(1), 2: adds(5)}, arrival=lambda replies: [*replies, replies[0]])
    once = run(grid)
    np.testing.assert_array_equal(once.arrays["b"], [3, 3])
    assert [(r.node, r.sent) for r in once.rounds[1].refused] == [(1, True)]
    kept = []
    stray = FunctionGrid(
        {1: adds(1), 2: adds(5)}, arrival=lambda replies: kept.extend(replies) or kept
    )
    run(stray)
    outcome = run(stray, sampler=lambda candidates: candidates.reports.node[:1])
    np.testing.assert_array_equal(outcome.arrays["b"], [1, 1])
    assert {r.node for r in outcome.rounds[1].refused} == {1, 2}


def test_bools_and_whole_numbers_are_rounded_to_the_nearest():
    initial = {"w": np.zeros(1, np.float32), "on": np.array(False), "n": np.array(0)}

    def sends(on, n):
        return lambda a: (
            {"w": a["w"] + 1, "on": np.array(on), "n": np.array(n)},
            {"num-examples": 1},
        )

    nodes = {1: sends(True, 5), 2: sends(False, 5), 3: sends(False, 7)}
    for name in ("fedavg", "fedavgm"):
        strategy, averaged = make_strategy(name), frozenset({"on", "n"})
        arrays = run(
            FunctionGrid(nodes), initial=initial, strategy=strategy, averaged=averaged
        ).arrays
        assert (arrays["on"], arrays["n"]) == (False, 6)


def test_batch_norms_statistics_are_averaged_whatever_the_strategy():
    initial = {"w": np.ones(2, np.float32), "var": np.full(2, 1e-3, np.float32)}

    def sends(var):
        return lambda a: ({"w": a["w"], "var": np.full(2, var, np.float32)}, {"num-examples": 1})

    grid = FunctionGrid({1: sends(2e-4), 2: sends(4e-4)})
    strategy, averaged = make_strategy("fedadam"), frozenset({"var"})
    arrays = run(grid, initial=initial, strategy=strategy, averaged=averaged).arrays
    np.testing.assert_allclose(arrays["var"], 3e-4, rtol=1e-6)


def test_nodes_with_the_same_reason_are_named_together():
    nodes = dict.fromkeys((1, 2, 3, 4), lambda _: "no space")
    with pytest.raises(RunFailed, match=r"node 1, 2, 3, 4: no space$"):
        run(FunctionGrid(nodes))


def test_an_error_that_the_superlink_sends_for_a_node_ends_the_waiting_for_it():
    """Flower answers in its own name when a message or its node is gone."""

    class Gone(FunctionGrid):
        def _reply(self, message):
            reply = super()._reply(message)
            if reply.has_error():
                reply.metadata.__dict__["_src_node_id"] = 1
            return reply

    done = run(Gone({2: adds(1), 3: lambda _: "gone"})).rounds[1]
    assert [(r.node, r.reason) for r in done.refused] == [(3, "gone")]
    assert done.waiting == ()
