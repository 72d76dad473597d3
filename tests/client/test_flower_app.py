from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from client.app import PLAN, _encoded, build_client_app, settings_of
from client.outbox import METRICS
from client.state import initial_arrays
from client.workload import load_workload
from scheduler.errors import BadInput, RunFailed
from server.strategy import make_strategy, train_config_of

NODE = {"device": "nrf52840", "ram-bytes": 180_000, "partition-id": 2}
RUN = {"workload": "digits", "seed": 1}


@pytest.fixture(autouse=True)
def _flower():
    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def context(run=RUN, node=NODE):
    return Context(1, 7, dict(node), RecordDict(), dict(run))


def message(arrays=None, number=1):
    arrays = initial_arrays(load_workload("digits"), 1) if arrays is None else arrays
    record = ArrayRecord({k: Array(v) for k, v in arrays.items()})
    config = ConfigRecord({"server-round": number})
    return Message(
        RecordDict({"arrays": record, "config": config}), dst_node_id=7, message_type="train"
    )


def arrays_of(reply):
    (record,) = reply.content.array_records.values()
    return {k: v.numpy() for k, v in record.items()}


def test_a_reply_is_one_record_of_arrays_and_one_of_declared_numbers():
    reply = build_client_app()(message(), context())
    assert list(reply.content) == ["arrays", "metrics"]
    (metrics,) = reply.content.metric_records.values()
    assert set(metrics) <= METRICS
    assert metrics["num-examples"] == len(load_workload("digits").examples(2))
    assert metrics["measured-peak-bytes"] <= 180_000 == metrics["ram-budget-bytes"]
    before = initial_arrays(load_workload("digits"), 1)
    after = arrays_of(reply)
    assert {k: (v.shape, v.dtype) for k, v in after.items()} == {
        k: (v.shape, v.dtype) for k, v in before.items()
    }
    assert any(not np.array_equal(after[k], v) for k, v in before.items())


def test_the_same_message_gives_the_same_update_and_another_round_another():
    app = build_client_app()
    first, again = (arrays_of(app(message(), context())) for _ in range(2))
    later = arrays_of(app(message(number=2), context()))
    assert all(np.array_equal(first[k], again[k]) for k in first)
    assert any(not np.array_equal(first[k], later[k]) for k in first)


def test_a_node_keeps_its_plan_and_does_not_plan_again(monkeypatch):
    shared = context()
    first = build_client_app()(message(), shared)
    assert isinstance(shared.state[PLAN]["plan"], bytes)

    def never(*args, **kwargs):
        raise AssertionError("planned again")

    monkeypatch.setattr("client.prepare.cached_solve", never)
    second = build_client_app()(message(), shared)  # a new process: nothing cached
    assert all(np.array_equal(v, arrays_of(second)[k]) for k, v in arrays_of(first).items())


def test_a_node_that_lost_its_state_finds_its_plan_in_the_cache(monkeypatch, tmp_path):
    node = {**NODE, "cache-dir": str(tmp_path / "plans")}
    first = build_client_app()(message(), context(node=node))

    def never(*args, **kwargs):
        raise AssertionError("planned again")

    monkeypatch.setattr("scheduler.cache.solve", never)
    second = build_client_app()(message(), context(node=node))
    assert all(np.array_equal(v, arrays_of(second)[k]) for k, v in arrays_of(first).items())


@pytest.mark.parametrize("kept", [b"", b"damaged", b"\x00" * 40])
def test_a_damaged_plan_is_made_anew(kept):
    spoiled = context()
    spoiled.state[PLAN] = ConfigRecord({"plan": kept})
    reply = build_client_app()(message(), spoiled)
    assert reply.has_content()
    assert spoiled.state[PLAN]["plan"] != kept


def test_a_plan_of_another_budget_is_made_anew():
    shared = context()
    build_client_app()(message(), shared)
    roomier = Context(1, 7, {**NODE, "ram-bytes": 200_000}, shared.state, dict(RUN))
    (metrics,) = build_client_app()(message(), roomier).content.metric_records.values()
    assert metrics["ram-budget-bytes"] == 200_000


def test_what_a_failed_device_says_does_not_quote_its_data():
    digits = load_workload("digits")

    def data(partition):
        raise ValueError("patient Jane Doe")

    app = build_client_app(load=lambda _: dataclasses.replace(digits, data=data))
    with pytest.raises(RunFailed) as caught:
        app(message(), context())
    assert str(caught.value) == "ValueError on the device; its log says more"
    assert "Jane" in str(caught.value.__cause__)


def test_a_budget_below_the_floor_is_told_with_the_floor():
    with pytest.raises(RunFailed, match=r"Infeasible: .*floor"):
        build_client_app()(message(), context(node={**NODE, "ram-bytes": 1000}))


def test_arrays_of_another_model_are_refused():
    with pytest.raises(RunFailed, match="BadInput on the device"):
        build_client_app()(message({"w": np.zeros(3, np.float32)}), context())


def test_settings_are_read_from_flowers_configs():
    run = {**RUN, "batch-size": 4, "local-epochs": 2, "deadline-factor": 2, "plan-time-limit-s": 5}
    settings = settings_of(context(run, {**NODE, "page-dir": "/somewhere"}))
    assert (settings.batch_size, settings.local_epochs, settings.partition) == (4, 2, 2)
    assert settings.deadline_factor == 2.0
    assert settings.plan_time_limit_s == 5.0
    assert settings.page_dir == Path("/somewhere")
    plain = settings_of(context({}, {"device": "raspberry-pi-4b"}))
    assert plain.ram_bytes is plain.batch_size is plain.deadline_factor is None


def test_a_coordinator_cannot_make_a_device_run_a_file():
    run = {**RUN, "workload": "/tmp/any.py:name"}
    with pytest.raises(BadInput, match=r"the coordinator asks for .*any\.py"):
        settings_of(context(run))
    own = {**NODE, "workload": "mine.py:name"}
    assert settings_of(context(run, own)).workload == "mine.py:name"


@pytest.mark.parametrize(
    ("node", "text"),
    [
        ({}, "names no device"),
        ({"device": 3}, "device is 3; it must be of type str"),
        (
            {"device": "nrf52840", "ram-bytes": "200KB"},
            "ram-bytes is '200KB'; it must be of type int",
        ),
    ],
)
def test_settings_of_the_wrong_type_are_named(node, text):
    with pytest.raises(BadInput, match=text):
        settings_of(context(node=node))


@pytest.mark.parametrize(
    "value",
    [
        np.array(1.5, np.float32),
        np.zeros((0, 3), np.float64),
        np.arange(6, dtype=">i8").reshape(2, 3),
    ],
)
def test_arrays_are_encoded_as_flower_does(value):
    ours, flowers = _encoded(value), Array(value)
    assert (ours.dtype, ours.shape, ours.stype) == (flowers.dtype, flowers.shape, flowers.stype)
    assert ours.data == flowers.data


def test_fedprox_draws_the_node_back_to_the_model_it_was_sent():
    """The strategy names mu in each message; the more of it, the closer the update stays to the model."""
    assert train_config_of(make_strategy("fedprox")) == {"proximal-mu": 0.01}
    before = initial_arrays(load_workload("digits"), 1)

    def moved(mu):
        asked = message()
        asked.content.config_records["config"]["proximal-mu"] = mu
        node = NODE | {"ram-bytes": 400_000}  # the starting point takes RAM too
        after = arrays_of(build_client_app()(asked, context(node=node)))
        return sum(float(np.square(after[k] - v).sum()) for k, v in before.items())

    assert moved(10.0) < moved(1.0) < moved(0.0)
