from __future__ import annotations

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from scheduler import load_device
from scheduler.errors import Refused
from server.rounds import content_bytes
from simulations.clock import VirtualClock
from simulations.fleet import DeviceKind, Link, plain_fleet
from simulations.grid import SimulatedGrid, be_server

SECONDS = {0: 10.0, 1: 2.0, 2: 4.0}  # training time by partition


def fleet():
    kind = DeviceKind(
        name="board",
        profile_name="nrf52840",
        profile=load_device("nrf52840"),
        ram_bytes=1000,
        link=Link(down_bytes_per_s=1000, up_bytes_per_s=500, latency_s=0.5, watts=2.0),
        own_w=0.0,
    )
    return plain_fleet("three", (kind,), np.zeros(3, np.int64), first_node=7)


def echo():
    app = ClientApp()

    @app.train()
    def train(message, context):
        (record,) = message.content.array_records.values()
        record["w"] = Array(record["w"].numpy() + 1)  # a node that changes what it was sent
        partition = int(context.node_config["partition-id"])
        metrics = MetricRecord(
            {"time-s": SECONDS[partition], "energy-j": 1.0, "w": float(record["w"].numpy()[0])}
        )
        context.state["seen"] = MetricRecord({"before": 1.0})
        return Message(RecordDict({"arrays": record, "metrics": metrics}), reply_to=message)

    return app


def messages():
    be_server()
    record = RecordDict({"arrays": ArrayRecord({"w": Array(np.zeros(4, np.float32))})})
    return [Message(record, dst_node_id=node, message_type="train") for node in (7, 8, 9)]


def test_nodes_do_not_share_what_they_are_sent():
    grid = SimulatedGrid(fleet(), echo(), VirtualClock(), {})
    replies = list(grid.send_and_receive(messages()))
    assert [next(iter(r.content.metric_records.values()))["w"] for r in replies] == [1.0, 1.0, 1.0]
    assert [r.metadata.src_node_id for r in replies] == [7, 8, 9]
    assert len({r.metadata.reply_to_message_id for r in replies}) == 3


def test_time_passes_until_the_slowest_is_done_and_joules_are_charged():
    clock = VirtualClock()
    grid = SimulatedGrid(fleet(), echo(), clock, {})
    sent = messages()
    replies = list(grid.send_and_receive(sent))
    down_s = 0.5 + content_bytes(sent[0]) / 1000
    up_s = 0.5 + content_bytes(replies[0]) / 500
    assert clock.now_s() == down_s + 10.0 + up_s
    slow, fast, _ = grid.charges
    idle_w = slow.device.kind.profile.idle_w
    assert slow.wait_s == 0.0
    assert fast.wait_s == pytest.approx(8.0)
    assert fast.wait_j == pytest.approx(8.0 * idle_w)
    assert fast.radio_j == pytest.approx((down_s + up_s) * (2.0 + idle_w))
    assert fast.energy_j == pytest.approx(fast.wait_j + fast.radio_j + 1.0)


def test_a_reply_after_the_timeout_is_lost():
    clock = VirtualClock()
    grid = SimulatedGrid(fleet(), echo(), clock, {})
    replies = list(grid.send_and_receive(messages(), timeout=7.0))
    assert [r.metadata.src_node_id for r in replies] == [8, 9]
    assert clock.now_s() == 7.0


def test_a_device_that_fails_answers_with_the_reason():
    app = ClientApp()

    @app.train()
    def train(message, context):
        raise Refused("a raw batch tried to leave")

    done, log = [], []
    note = lambda device, error: log.append((device.node, str(error)))  # noqa: E731
    grid = SimulatedGrid(fleet(), app, VirtualClock(), {}, done.append, note)
    (reply, *_) = grid.send_and_receive(messages())
    assert reply.has_error()
    assert reply.error.reason == "a raw batch tried to leave"
    assert [d.node for d in done] == [7, 8, 9]
    assert log == [(n, "a raw batch tried to leave") for n in (7, 8, 9)]


def test_push_and_pull_give_each_reply_once():
    grid = SimulatedGrid(fleet(), echo(), VirtualClock(), {})
    ids = list(grid.push_messages(messages()))
    assert len(list(grid.pull_messages(ids))) == 3
    assert list(grid.pull_messages(ids)) == []
    assert list(grid.get_node_ids()) == [7, 8, 9]
    made = grid.create_message(RecordDict(), "train", 7, "1")
    assert made.metadata.dst_node_id == 7


def test_virtual_time_does_not_run_back():
    with pytest.raises(ValueError, match="cannot run back"):
        VirtualClock().advance(-1)
