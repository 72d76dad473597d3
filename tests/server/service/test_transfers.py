"""Models down and updates up: interrupted, repeated, damaged, slow, too large; others go on unharmed."""

from __future__ import annotations

import hashlib
import itertools
import threading
import time

import grpc
import pytest

from protos import device_pb2 as pb
from server.service.limits import Limits
from server.service.taskbook import State
from tests.server.service.peers import (
    MODEL_DIGEST,
    eventually,
    hosted,
    parts,
    peer,
    push,
    refused,
    update_blob,
)

UPDATE = update_blob(values=60_000)
HALF = 2**18
QUICK = Limits(stall_s=0.3, transfer_s=2.0, calls=10_000, calls_per_s=1e6)


def offset(device, task, data: bytes = UPDATE) -> pb.UpdateOffsetReply:
    header = next(parts(task.task_id, data)).header
    return device.stub.UpdateOffset(
        pb.UpdateOffsetRequest(task_id=task.task_id, digest=header.digest)
    )


def send_half(device, task, data: bytes = UPDATE) -> None:
    with pytest.raises(grpc.RpcError):
        device.stub.SendUpdate(itertools.islice(parts(task.task_id, data), 2))


def test_a_model_goes_on_from_where_it_was(host):
    model = bytes(range(256)) * 9000
    with peer(host) as device:
        task = push(host, device.device_id, model)
        assert device.fetch(task) == model
        assert device.fetch(task, offset_bytes=1_500_000) == model[1_500_000:]
        assert device.fetch(task, offset_bytes=len(model)) == b""
        for far in (len(model) + 1, 2**63 - 1, 2**63, 2**64 - 1):
            with refused("out-of-order"):
                device.fetch(task, offset_bytes=far)


def test_models_are_for_those_who_train_them(host):
    with peer(host) as device, peer(host) as other:
        task = push(host, device.device_id)
        with refused("no-such-model"):
            other.fetch(task)
        device.send(task.task_id, UPDATE)
        with refused("no-such-model"):
            device.fetch(task)


def test_an_update_goes_on_in_another_call_and_another_process(tmp_path, keys):
    with hosted(tmp_path, keys) as host, peer(host) as device:
        task = push(host, device.device_id)
        send_half(device, task)
        assert offset(device, task).offset_bytes == HALF
        with refused("out-of-order"):
            device.send(task.task_id, UPDATE)  # from its start
    with hosted(tmp_path, keys) as host:
        device.port = host.port
        with device:
            reply = offset(device, task)
            assert not reply.HasField("receipt")
            receipt = device.send(task.task_id, UPDATE, reply.offset_bytes)
            reply = offset(device, task)
            assert reply == pb.UpdateOffsetReply(offset_bytes=len(UPDATE), receipt=receipt)
        assert host.store.blobs.update(task.task_id).read_bytes() == UPDATE


def test_the_same_update_again_gives_the_same_receipt(host):
    ended = []
    host.on_change(ended.append)
    with peer(host) as device:
        task = push(host, device.device_id)
        receipt = device.send(task.task_id, UPDATE)
        kept = host.store.tasks.find(task.task_id)
        assert device.send(task.task_id, UPDATE) == receipt
        assert host.store.tasks.find(task.task_id) == kept
        with refused("replayed"):
            device.send(task.task_id, update_blob(seed=1))
        device.stub.Decline(pb.DeclineRequest(task_id=task.task_id))
        assert host.store.tasks.find(task.task_id) == kept
    assert host.store.blobs.update(task.task_id).read_bytes() == UPDATE


def test_nobody_answers_for_another(host):
    with peer(host) as device, peer(host) as other:
        task = push(host, device.device_id)
        send_half(device, task)
        for call in (
            lambda: other.send(task.task_id, UPDATE),
            lambda: other.send(task.task_id, UPDATE, HALF),
            lambda: offset(other, task),
            lambda: other.stub.Decline(pb.DeclineRequest(task_id=task.task_id)),
        ):
            with refused("no-such-task"):
                call()
        assert not other.stub.Heartbeat(pb.HeartbeatRequest(task_id=task.task_id)).open
        device.send(task.task_id, UPDATE, HALF)


def damaged(index: int, **change):
    sent = list(parts(b"", UPDATE))
    for name, value in change.items():
        setattr(sent[index].chunk, name, value)
    return sent[1:]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (damaged(2, crc32=1), "damaged"),
        (damaged(2, data=b"shorter"), "damaged"),
        (damaged(2, offset_bytes=5), "out-of-order"),
        (damaged(2, offset_bytes=2**64 - 1), "out-of-order"),
        (damaged(1, data=b""), "malformed"),
        (damaged(1)[1:], "out-of-order"),
        (damaged(1)[:1], "incomplete"),
        ([], "incomplete"),
        ([pb.UpdatePart()], "out-of-order"),
        ([next(parts(b"", UPDATE))], "out-of-order"),
    ],
)
def test_bodies_that_are_refused(host, body, reason):
    with peer(host) as device, peer(host) as other:
        task, its = push(host, device.device_id), push(host, other.device_id)
        header = next(parts(task.task_id, UPDATE))
        with refused(reason):
            device.stub.SendUpdate(iter([header, *body]))
        assert host.store.tasks.find(task.task_id).receipt is None
        # It can still be sent, and nobody else was harmed.
        device.send(task.task_id, UPDATE, offset(device, task).offset_bytes)
        other.send(its.task_id, UPDATE)


HEADER = {"digest": bytes(32), "size_bytes": 10, "model_digest": MODEL_DIGEST}


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ({"digest": b"short"}, "malformed"),
        ({"size_bytes": 0}, "malformed"),
        ({"size_bytes": 2**40}, "too-large"),
        ({"size_bytes": 2**64 - 1}, "too-large"),
        ({"offset_bytes": 11}, "out-of-order"),
        ({"offset_bytes": 1}, "out-of-order"),
        ({"task_id": bytes(16)}, "no-such-task"),
        ({"task_id": b""}, "no-such-task"),
        ({"metrics": {f"m{i}": pb.Number(real=1) for i in range(65)}}, "too-large"),
        ({"metrics": {"m" * 201: pb.Number(real=1)}}, "too-large"),
        ({"metrics": {"m": pb.Number()}}, "malformed"),
        ({"model_digest": b""}, "malformed"),
        ({"plan_digest": b"short"}, "malformed"),
    ],
)
def test_headers_that_are_refused(host, header, reason):
    with peer(host) as device:
        task = push(host, device.device_id)
        given = {"task_id": task.task_id} | HEADER | header
        with refused(reason):
            device.stub.SendUpdate(iter([pb.UpdatePart(header=pb.UpdateHeader(**given))]))
        with refused("out-of-order"):
            device.stub.SendUpdate(iter([]))
        device.send(task.task_id, UPDATE)


@pytest.mark.parametrize(
    ("digests", "reason"),
    [
        ({"model_digest": hashlib.sha256(b"an older model").digest()}, "wrong-model"),
        ({"plan_digest": hashlib.sha256(b"an older plan").digest()}, "wrong-plan"),
    ],
)
def test_an_update_that_was_made_otherwise_than_asked_ends_its_task(host, digests, reason):
    with peer(host) as device, peer(host, label="other") as other:
        task = push(host, device.device_id, plan_hints=b"a plan")
        with refused(reason):
            device.stub.SendUpdate(parts(task.task_id, UPDATE, **digests))
        kept = host.store.tasks.find(task.task_id)
        assert kept.state is State.DECLINED
        assert "than the task's" in kept.reason
        with refused("task-ended"):
            device.send(task.task_id, UPDATE)
        assert host.counts.refusals[reason] == 1
        followed = push(host, other.device_id, plan_hints=b"a plan")
        plan_digest = hashlib.sha256(b"a plan").digest()
        other.stub.SendUpdate(parts(followed.task_id, UPDATE, plan_digest=plan_digest))
        assert host.store.tasks.find(followed.task_id).state is State.DONE


@pytest.mark.parametrize("size", [0, 31, 33, 300])
def test_a_digest_of_another_length(host, size):
    with peer(host) as device, refused("malformed"):
        task = push(host, device.device_id)
        device.stub.UpdateOffset(pb.UpdateOffsetRequest(task_id=task.task_id, digest=bytes(size)))


def test_a_whole_update_that_is_none_starts_anew(host):
    with peer(host) as device:
        task = push(host, device.device_id)
        with refused("malformed"):
            device.send(task.task_id, b"these are no arrays")
        wrong = update_blob(seed=2)
        header = next(parts(task.task_id, UPDATE))
        header.header.size_bytes = len(wrong)
        with refused("damaged"):  # every chunk is well, but not of this digest
            device.stub.SendUpdate(iter([header, *list(parts(task.task_id, wrong))[1:]]))
        assert offset(device, task).offset_bytes == 0
        device.send(task.task_id, UPDATE)


def test_what_arrived_of_one_update_does_not_pile_up_beside_another(host):
    with peer(host) as device:
        task = push(host, device.device_id)
        for seed in range(4):
            send_half(device, task, update_blob(values=60_000, seed=seed))
        assert offset(device, task).offset_bytes == 0
        incoming = host.store.blobs.update(task.task_id).parents[1] / "incoming"
        assert len(list(incoming.iterdir())) == 1
        device.stub.Decline(pb.DeclineRequest(task_id=task.task_id))
        assert list(incoming.iterdir()) == []


def drip(task, every_s: float, ended: threading.Event):
    """An update in chunks of a few bytes, never to end."""
    yield next(parts(task.task_id, UPDATE))
    for part in itertools.islice(parts(task.task_id, UPDATE, chunk_bytes=8), 1, None):
        if ended.wait(every_s):
            return
        yield part


@pytest.mark.parametrize("every_s", [0.05, 5.0])
def test_drips_are_cut_off_and_others_go_on(tmp_path, keys, every_s):
    ended = threading.Event()
    with hosted(tmp_path, keys, QUICK) as host, peer(host) as slow, peer(host) as other:
        task = push(host, slow.device_id)
        began = time.monotonic()
        call = slow.stub.SendUpdate.future(drip(task, every_s, ended))
        its = push(host, other.device_id)
        other.send(its.task_id, UPDATE)
        assert not call.done() or every_s > 1
        with refused("too-slow"):
            call.result(20)
        ended.set()
        assert time.monotonic() - began < 10
        assert offset(slow, task).offset_bytes % 8 == 0
        slow.send(task.task_id, UPDATE, offset(slow, task).offset_bytes)


def test_a_model_that_is_not_taken_is_cut_off(tmp_path, keys):
    with hosted(tmp_path, keys, QUICK) as host, peer(host) as slow, peer(host) as other:
        model = bytes(40_000_000)
        task = push(host, slow.device_id, model)
        request = pb.FetchModelRequest(digest=task.model.digest)
        taken = slow.stub.FetchModel(request)
        first = next(taken)
        assert first.offset_bytes == 0
        its = push(host, other.device_id)
        assert other.fetch(its) == b"model" * 1000
        # It ends by itself: the stream is free again, and what was under way still arrives.
        eventually("it ended", lambda: host.counts.refusals.get("too-slow") == 1, 20)
        with refused("too-slow"):
            list(taken)


def goes_on(device, task) -> bool:
    """One try to send the rest; another upload may move the offset meanwhile."""
    try:
        device.send(task.task_id, UPDATE, offset(device, task).offset_bytes)
    except grpc.RpcError as error:
        if error.code() != grpc.StatusCode.OUT_OF_RANGE:
            raise
        return False
    return True


def test_a_second_upload_takes_over(host):
    ended = threading.Event()
    with peer(host) as device:
        task = push(host, device.device_id)
        lost = device.stub.SendUpdate.future(drip(task, 0.01, ended))
        eventually("some arrived", lambda: offset(device, task).offset_bytes > 0)
        eventually("the second one is done", lambda: goes_on(device, task))
        with refused("replaced"):
            lost.result(20)
        ended.set()
    assert host.store.blobs.update(task.task_id).read_bytes() == UPDATE


def test_streams_at_once_are_limited(tmp_path, keys):
    limits = Limits(streams=2, calls=10_000, calls_per_s=1e6)
    ended = threading.Event()
    with hosted(tmp_path, keys, limits) as host, peer(host) as device, peer(host) as other:
        tasks = [push(host, device.device_id) for _ in range(3)]
        calls = [device.stub.SendUpdate.future(drip(t, 0.05, ended)) for t in tasks[:2]]
        for task in tasks[:2]:
            eventually("it began", lambda t=task: offset(device, t).offset_bytes > 0)
        with refused("too-many-streams"):
            device.send(tasks[2].task_id, UPDATE)
        other.send(push(host, other.device_id).task_id, UPDATE)
        ended.set()
        for call in calls:
            with refused("incomplete"):
                call.result(20)
        device.send(tasks[2].task_id, UPDATE)


def test_messages_beyond_the_limit_are_refused(host):
    with peer(host) as device:
        task = push(host, device.device_id)
        for size in (2**20 + 2**17, 2**22):  # more than allowed, and more than gRPC takes in
            chunk = pb.Chunk(data=bytes(size))
            sent = [next(parts(task.task_id, UPDATE)), pb.UpdatePart(chunk=chunk)]
            with pytest.raises(grpc.RpcError) as caught:
                device.stub.SendUpdate(iter(sent))
            assert caught.value.code() in (
                grpc.StatusCode.INVALID_ARGUMENT,
                grpc.StatusCode.RESOURCE_EXHAUSTED,
            )
        device.send(task.task_id, UPDATE)


def test_who_waits_hears_of_an_update_whose_call_ended_before_its_receipt(host, monkeypatch):
    """As when a device is killed in that moment."""
    heard: list[bytes] = []
    host.on_change(heard.extend)
    counting, over = threading.Event(), threading.Event()
    receive = host.store.tasks.receive

    def slowly(*args):
        counting.set()
        assert over.wait(30)
        return receive(*args)

    monkeypatch.setattr(host.store.tasks, "receive", slowly)
    with peer(host) as device:
        task = push(host, device.device_id)
        call = device.stub.SendUpdate.future(parts(task.task_id, UPDATE))
        assert counting.wait(30)
        call.cancel()
        time.sleep(0.3)  # until the service knows
        over.set()
        eventually("the news", lambda: heard == [task.task_id])
