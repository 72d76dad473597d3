"""The service is killed at random moments: what it gave a receipt for is there, once and whole."""

from __future__ import annotations

import contextlib
import itertools
import json
import random
import threading
from functools import partial

import grpc
import pytest

from protos import device_pb2 as pb
from protos import device_pb2_grpc
from protos.tasks import decode_task
from protos.trust import PROTOCOL
from server.service.store import open_store
from server.service.taskbook import State
from tests.server.service.hosting import channel_of, start
from tests.server.service.peers import REPORT, parts, update_blob

KILLS = 3
TASKS = 60


@pytest.mark.slow
def test_no_receipt_is_lost_and_no_update_counted_twice(tmp_path):
    rng = random.Random(5)
    receipts: dict[bytes, bytes] = {}
    resumed: set[bytes] = set()
    for _ in range(KILLS):
        service = start(tmp_path, model_bytes=2**20, tasks=TASKS)
        port = json.loads(service.stdout.readline())["port"]
        killer = threading.Timer(rng.uniform(0.05, 0.6), service.kill)
        killer.start()
        with channel_of(tmp_path, port) as channel, contextlib.suppress(grpc.RpcError):
            work(device_pb2_grpc.DeviceServiceStub(channel), receipts, resumed, rng)
        killer.join()
        service.communicate()
    assert receipts
    assert resumed
    store = open_store(tmp_path / "store")
    done = [store.tasks.find(k.id) for k in store.tasks.kept() if k.state == State.DONE]
    assert {e.task.task_id for e in done} >= receipts.keys()
    for entry in done:
        task_id = entry.task.task_id
        assert store.blobs.update(task_id).read_bytes() == trained(task_id)
        if task_id in receipts:
            assert entry.receipt.SerializeToString() == receipts[task_id]
    # At most the one update whose receipt was on its way when the process died.
    assert len(done) <= len(receipts) + KILLS
    store.close()


def trained(task_id: bytes) -> bytes:
    return update_blob(values=50_000, seed=int.from_bytes(task_id))


def work(stub, receipts: dict[bytes, bytes], resumed: set[bytes], rng: random.Random) -> None:
    """Answer tasks as they come, until the service dies; some uploads are given up in the middle first."""
    stub.Report(REPORT)
    for notice in stub.Wait(pb.WaitRequest(protocol=PROTOCOL)):
        task = decode_task(notice.task.task)
        task_id, update = task.task_id, trained(task.task_id)
        sent = partial(parts, task_id, update, model_digest=task.model.digest)
        digest = next(sent()).header.digest
        ask = pb.UpdateOffsetRequest(task_id=task_id, digest=digest)
        if rng.random() < 0.3:
            begun = itertools.islice(sent(stub.UpdateOffset(ask).offset_bytes), 2)
            with contextlib.suppress(grpc.RpcError):
                stub.SendUpdate(begun)
        offset = stub.UpdateOffset(ask).offset_bytes
        receipt = stub.SendUpdate(sent(offset)).SerializeToString()
        assert receipts.setdefault(task_id, receipt) == receipt
        if offset:
            resumed.add(task_id)
