"""A device's way through the service, over real gRPC and mutual TLS on loopback."""

from __future__ import annotations

import contextlib
import math
import threading
import time

import grpc
import pytest

from protos import device_pb2 as pb
from protos.trust import PROTOCOL
from scheduler.errors import BadInput, Untrusted
from server.service.limits import Limits
from server.service.refusals import Reason
from server.service.taskbook import State
from tests.server.service.peers import (
    REPORT,
    Peer,
    eventually,
    hosted,
    make_keyring,
    peer,
    push,
    refused,
    update_blob,
)


def test_a_round(host):
    with peer(host) as device:
        waiting = device.wait()
        pushed = push(host, device.device_id)
        task = device.next_task(waiting)
        assert task == pushed
        assert device.fetch(task) == b"model" * 1000
        update = update_blob(values=100_000)
        receipt = device.send(task.task_id, update, **{"num-examples": 12, "train-loss": 0.1})
        entry = host.store.tasks.find(task.task_id)
        assert entry.receipt == receipt
        assert host.store.blobs.update(task.task_id).read_bytes() == update
        assert entry.header.metrics["num-examples"].integer == 12
        assert entry.header.metrics["train-loss"].real == 0.1


def test_tasks_pushed_before_the_device_waits_come_in_order(host):
    with peer(host) as device:
        pushed = [push(host, device.device_id, round_number=n) for n in range(3)]
        waiting = device.wait()
        assert [device.next_task(waiting) for _ in pushed] == pushed


def test_held_tasks_are_not_sent_again(host):
    with peer(host) as device:
        known, new, gone, done = (push(host, device.device_id) for _ in range(4))
        host.store.tasks.withdraw([gone.task_id], 0.0)
        device.send(done.task_id, update_blob())
        waiting = device.wait(held=(known.task_id, gone.task_id, done.task_id, bytes(16)))
        notices = [next(waiting) for _ in range(3)]
        assert device.opened(notices[0].task) == new
        told = {n.withdrawn.task_id for n in notices[1:]}
        assert told == {gone.task_id, bytes(16)}


def test_a_new_wait_ends_the_old_one(host):
    with peer(host) as device:
        old = device.wait()
        eventually("it waits", host.presence.there)
        new = device.wait()
        with refused("replaced"):
            next(old)
        push(host, device.device_id)
        device.next_task(new)


def test_a_wait_is_not_silent(tmp_path, keys):
    with hosted(tmp_path, keys, Limits(keep_alive_s=0.05)) as host, peer(host) as device:
        waiting = device.wait()
        assert {next(waiting).WhichOneof("notice") for _ in range(3)} == {"keep_alive"}


def test_a_device_reports_before_it_waits_once(tmp_path, keys):
    with hosted(tmp_path, keys) as host, peer(host, report=False) as device:
        with refused("out-of-order"):
            next(device.wait())
        device.stub.Report(REPORT)
        waiting = device.wait()
        eventually("it is there", host.presence.there)
    with hosted(tmp_path, keys) as host:
        device.port = host.port
        with device:
            again = device.wait()  # the coordinator remembers
            eventually("it is there", host.presence.there)
        assert again is not waiting
        (known,) = host.store.roster.devices()
        assert known.report == REPORT
        assert known.seen_at_s is not None


def test_who_leaves_declines_what_is_open(host):
    with peer(host) as device:
        task = push(host, device.device_id)
        waiting = device.wait()
        device.next_task(waiting)
        device.stub.Leave(pb.LeaveRequest())
        with refused("left"):
            next(waiting)
        entry = host.store.tasks.find(task.task_id)
        assert (entry.state, entry.reason) == (State.DECLINED, "declined: left")
        eventually("it is gone", lambda: not host.presence.there())
        waiting = device.wait()
        eventually("it is back", host.presence.there)


def test_the_end_of_the_coordinator_ends_waits(tmp_path, keys):
    with contextlib.ExitStack() as later:
        with hosted(tmp_path, keys) as host:
            device = later.enter_context(peer(host))
            waiting = device.wait()
            eventually("it waits", host.presence.there)
        with refused("ending"):
            next(waiting)


@pytest.mark.parametrize(
    "change",
    [
        {"battery": 1.5},
        {"battery": math.nan},
        {"profile": "p" * 201},
        {"free_ram_bytes": 2**63},
        {"workloads": [pb.KnownWorkload(name="w", digest=b"short")]},
        {"workloads": [pb.KnownWorkload(name="w", digest=bytes(32))] * 65},
    ],
)
def test_reports_that_are_refused(host, change):
    with peer(host) as device:
        with refused("malformed", "too-large"):
            device.stub.Report(pb.Capabilities(**change))
        assert host.store.roster.find(device.device_id).report == REPORT


def test_other_protocols_are_refused(host):
    with peer(host) as device:
        assert device.stub.Hello(pb.HelloRequest(protocol=PROTOCOL)).protocol == PROTOCOL
        for call in (
            lambda: device.stub.Hello(pb.HelloRequest(protocol=PROTOCOL + 1)),
            lambda: next(device.stub.Wait(pb.WaitRequest())),
        ):
            with refused("protocol"):
                call()


def test_a_port_that_is_taken(host, keys, tmp_path):
    before = threading.active_count()
    with (
        pytest.raises(BadInput, match="choose another"),
        hosted(tmp_path / "other", keys, port=host.port),
    ):
        pass
    assert threading.active_count() == before
    with peer(host) as device:
        device.stub.Hello(pb.HelloRequest(protocol=PROTOCOL))


def test_a_coordinator_does_not_start_with_expired_keys(tmp_path):
    old = make_keyring(tmp_path / "keys", now_s=time.time() - 3 * 365 * 86_400)
    with pytest.raises(Untrusted, match="valid from"), hosted(tmp_path / "store", old):
        pass


def test_connections_that_break_while_much_is_sent_are_no_faults(host):
    with peer(host) as device:
        task = push(host, device.device_id, bytes(20_000_000))
        for _ in range(20):
            push(host, device.device_id)
        for number in range(20):
            again = Peer(device.device_id, device.keys, device.port, device.identity)
            with again, contextlib.suppress(grpc.RpcError):  # the device's own calls end, too
                fetching = again.stub.FetchModel(pb.FetchModelRequest(digest=task.model.digest))
                waiting = again.wait()
                for _ in range(1 + number % 5):
                    next(fetching)
                for _ in range(1 + number % 20):
                    next(waiting)
        eventually("all are gone", lambda: host.presence.there() == {})
        assert device.fetch(task) == bytes(20_000_000)
    assert Reason.FAULT not in host.counts.refusals
