"""The device service behind Flower's Grid: the same messages, whatever dies in between."""

from __future__ import annotations

import math
import secrets
import threading
import time

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from protos import device_pb2 as pb
from protos.arrays import decode_arrays, encode_arrays, forms
from protos.tasks import workload_digest
from scheduler.errors import BadInput
from server.service.grid import ServiceGrid
from tests.server.service.peers import REPORT, eventually, hosted, parts, peer, refused

MODEL = {
    "layer.weight": np.arange(12, dtype=np.float32).reshape(3, 4) / 7,
    "count": np.array(3, dtype=np.int64),
}
DIGEST = workload_digest("watch", forms(MODEL))


def grid_on(host) -> ServiceGrid:
    return ServiceGrid(
        host,
        run_id=1,
        workload="watch",
        workload_digest=DIGEST,
        random_bytes=secrets.token_bytes,
    )


def message(
    grid, node: int, number: int = 1, record: ArrayRecord | None = None, **config
) -> Message:
    arrays = record or ArrayRecord({n: Array(v) for n, v in MODEL.items()})
    content = RecordDict(
        {"arrays": arrays, "config": ConfigRecord({"server-round": number} | config)}
    )
    return grid.create_message(content, "train", node, str(number))


def answer(device, task, factor: float = 2.0) -> dict:
    model = decode_arrays(device.fetch(task))
    trained = {n: np.asarray(v * factor, dtype=v.dtype) for n, v in model.items()}
    metrics = {"num-examples": 2**60 + 1, "train-loss": 0.1 + 0.2, "partition-id": 4}
    device.send(task.task_id, encode_arrays(trained), **metrics)
    return trained


def test_an_update_arrives_bit_for_bit_as_over_flower(host):
    grid = grid_on(host)
    with peer(host) as device:
        waiting = device.wait()
        eventually("the device is there", lambda: grid.get_node_ids() == [device.device_id])
        (message_id,) = grid.push_messages([message(grid, device.device_id, 7, seed=5)])
        task = device.next_task(waiting)
        assert (task.round_number, task.config) == (7, {"server-round": 7, "seed": 5})
        assert task.workload_digest == DIGEST
        trained = answer(device, task)
        grid.wait(20, 1)
        (reply,) = grid.pull_messages([message_id])
    over_flower = ArrayRecord({n: Array(trained[n]) for n in sorted(trained)})
    assert reply.content["arrays"] == over_flower
    metrics = reply.content["metrics"]
    assert metrics == MetricRecord(
        {"num-examples": 2**60 + 1, "partition-id": 4, "train-loss": 0.1 + 0.2}
    )
    assert isinstance(metrics["partition-id"], int)
    assert reply.metadata.src_node_id == device.device_id
    assert reply.metadata.reply_to_message_id == message_id
    assert list(grid.pull_messages([message_id])) == []


def test_one_blob_for_equal_models(host):
    grid = grid_on(host)
    with peer(host) as one, peer(host) as two:
        shared = message(grid, one.device_id)
        other = message(grid, two.device_id, record=shared.content["arrays"])
        grid.push_messages([shared, other, message(grid, two.device_id)])
    models = list((host.store.blobs.model(bytes(32)).parent).iterdir())
    assert len(models) == 1


def test_send_and_receive_takes_what_came_in_time(host):
    grid = grid_on(host)
    with peer(host) as quick, peer(host) as silent:
        waiting = quick.wait()
        worker = threading.Thread(target=lambda: answer(quick, quick.next_task(waiting)))
        worker.start()
        both = [message(grid, d.device_id) for d in (quick, silent)]
        replies = list(grid.send_and_receive(both, timeout=3))
        worker.join()
    assert [r.metadata.src_node_id for r in replies] == [quick.device_id]


def test_a_decline_is_an_error_with_the_devices_words(host):
    grid = grid_on(host)
    with peer(host) as device:
        waiting = device.wait()
        ids = grid.push_messages([message(grid, device.device_id)])
        task = device.next_task(waiting)
        device.stub.Decline(
            pb.DeclineRequest(
                task_id=task.task_id, reason=pb.DECLINE_REASON_INFEASIBLE, detail="Infeasible: 3 MB"
            )
        )
        grid.wait(20, 1)
        (reply,) = grid.pull_messages(ids)
    assert reply.has_error()
    assert reply.error.reason == "Infeasible: 3 MB"


def test_a_task_that_expires_is_an_error_and_refuses_its_update(host):
    grid = grid_on(host)
    with peer(host) as device:
        waiting = device.wait()
        soon = grid.create_message(
            message(grid, device.device_id).content, "train", device.device_id, "1", ttl=0.5
        )
        ids = grid.push_messages([soon])
        task = device.next_task(waiting)
        began = time.monotonic()
        grid.wait(20, 1)
        assert time.monotonic() - began < 10
        eventually("it expires", lambda: time.time() > task.expires_at_s)
        (reply,) = grid.pull_messages(ids)
        assert "expired" in reply.error.reason
        with refused("task-ended"):
            device.send(task.task_id, encode_arrays(MODEL))


def test_after_a_crash_everything_is_there_again(tmp_path, keys):
    with hosted(tmp_path, keys) as host:
        grid = grid_on(host)
        with peer(host) as done, peer(host) as under_way:
            waiting, other = done.wait(), under_way.wait()
            ids = list(grid.push_messages([message(grid, d.device_id) for d in (done, under_way)]))
            first = done.next_task(waiting)
            second = under_way.next_task(other)
            answer(done, first)
            grid.wait(20, 1)
            (before,) = grid.pull_messages(ids)
    # All that a new process has is the folder.
    with hosted(tmp_path, keys) as host:
        grid = grid_on(host)
        assert {(a.message_id, a.node) for a in grid.asked()} == {
            (ids[0], done.device_id),
            (ids[1], under_way.device_id),
        }
        (again,) = grid.pull_messages(ids)
        assert again.content["arrays"] == before.content["arrays"]
        assert again.content["metrics"] == before.content["metrics"]
        under_way.port = host.port
        with under_way:
            waiting = under_way.wait()
            notice = next(iter(waiting))
            assert notice.task.task  # it was there before; a device that knows it says so in `held`
            answer(under_way, second)
        grid.wait(20, 1)
        (reply,) = grid.pull_messages(ids)
        assert reply.metadata.src_node_id == under_way.device_id
        grid.forget(ids)
        assert grid.asked() == ()
    with hosted(tmp_path, keys) as host:
        grid = grid_on(host)
        assert list(grid.pull_messages(ids)) == []
        assert not any(host.store.blobs.update(bytes(16)).parent.iterdir())
        assert not any(host.store.blobs.model(bytes(32)).parent.iterdir())


def test_a_withdrawn_task_is_told_and_its_update_refused(host):
    grid = grid_on(host)
    with peer(host) as device:
        waiting = device.wait()
        ids = grid.push_messages([message(grid, device.device_id)])
        task = device.next_task(waiting)
        assert device.stub.Heartbeat(pb.HeartbeatRequest(task_id=task.task_id)).open
        grid.withdraw(list(ids))
        told = next(n for n in waiting if n.WhichOneof("notice") == "withdrawn")
        assert told.withdrawn.task_id == task.task_id
        assert not device.stub.Heartbeat(pb.HeartbeatRequest(task_id=task.task_id)).open
        with refused("task-ended"):
            device.send(task.task_id, encode_arrays(MODEL))
    assert list(grid.pull_messages(ids)) == []


def test_reports_say_what_devices_say(host):
    grid = grid_on(host)
    able = pb.Capabilities()
    able.CopyFrom(REPORT)
    able.workloads.add(name="watch", digest=DIGEST)
    able.battery = 0.25
    with peer(host) as one, peer(host) as two:
        one.stub.Report(able)
        streams = [one.wait(), two.wait()]
        eventually("both are there", lambda: len(grid.get_node_ids()) == 2)
        reports = grid.reports()
        said = dict(zip(reports.node.tolist(), range(2), strict=True))
        assert sorted(said) == reports.node.tolist() == grid.get_node_ids()
        mine, other = said[one.device_id], said[two.device_id]
        assert bool(reports.can_train[mine])
        assert not reports.can_train[other]  # it does not have the workload
        assert reports.battery[mine] == 0.25
        assert reports.battery[other] == 1.0
        assert reports.free_ram_bytes[mine] == 10**8  # of 10**9 free the owner gives so much
        streams[0].cancel()
        eventually("one is gone", lambda: grid.get_node_ids() == [two.device_id])


def test_what_cannot_be_sent_is_refused_before_anything_is_kept(host):
    grid = grid_on(host)
    with peer(host) as device:
        fine = message(grid, device.device_id)
        bad = message(grid, device.device_id, lists=[1, 2])
        with pytest.raises(BadInput, match="lists"):
            grid.push_messages([fine, bad])
    assert grid.asked() == ()


def test_an_answer_that_comes_while_messages_are_pushed_is_not_lost(host, monkeypatch):
    grid = grid_on(host)
    push = host.store.tasks.push

    def push_and_answer(new):
        push(new)
        ids = [n.task.task_id for n in new]
        host.store.tasks.decline(ids, "at once", 0.0)
        grid._note(ids)

    monkeypatch.setattr(host.store.tasks, "push", push_and_answer)
    with peer(host) as device:
        ids = grid.push_messages([message(grid, device.device_id)])
        grid.wait(math.inf, 1)
        (reply,) = grid.pull_messages(ids)
    assert reply.error.reason == "at once"


def test_a_task_that_is_forgotten_while_its_update_comes_leaves_nothing(host):
    grid = grid_on(host)
    with peer(host) as device:
        waiting = device.wait()
        ids = list(grid.push_messages([message(grid, device.device_id)]))
        task = device.next_task(waiting)
        rest = threading.Event()

        def halting():
            header, chunk, *more = parts(
                task.task_id,
                encode_arrays(MODEL),
                chunk_bytes=50,
                model_digest=task.model.digest,
            )
            yield header
            yield chunk
            rest.wait(20)
            yield from more

        call = device.stub.SendUpdate.future(halting())
        incoming = host.store.blobs.update(task.task_id).parents[1] / "incoming"
        eventually("some of it came", lambda: any(incoming.iterdir()))
        grid.forget(ids)
        rest.set()
        with refused("task-ended"):
            call.result(20)
    left = [path for path in incoming.parent.rglob("*") if path.is_file()]
    assert left == []
    assert grid.asked() == ()
