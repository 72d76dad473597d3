"""A model and an update of 200 MB pass through the service, which holds a few chunks of them at a time."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from protos import device_pb2 as pb
from protos import device_pb2_grpc
from protos.arrays import write_arrays
from protos.blobs import Arriving, blob_of, chunks
from protos.tasks import decode_task
from protos.trust import PROTOCOL
from tests.server.service.hosting import channel_of, start
from tests.server.service.peers import REPORT

MIB = 2**20
SIZE = 200 * MIB
MOST_MIB = 48  # more than that for all that passes; a copy of a blob would take 200


@pytest.mark.slow
def test_memory_does_not_grow_with_the_blob(tmp_path):
    service = start(tmp_path, model_bytes=SIZE, tasks=1)
    try:
        began = json.loads(service.stdout.readline())
        pass_through(tmp_path, began["port"])
        told, _ = service.communicate("end\n", timeout=60)
    finally:
        service.kill()
        service.communicate()
    grown = (json.loads(told)["peak"] - began["peak"]) / MIB
    sys.stdout.write(f"{SIZE / MIB:.0f} MiB passed, memory grew by {grown:.1f} MiB\n")
    assert grown < MOST_MIB, f"{grown:.0f} MiB"


def pass_through(folder: Path, port: int) -> None:
    """Fetch the model and send an update of its size, as a device does."""
    update = folder / "update"
    write_arrays({"w": np.arange(SIZE // 8, dtype=np.float64)}, update)
    with (
        channel_of(folder, port) as channel,
        update.open("rb") as file,
    ):
        stub = device_pb2_grpc.DeviceServiceStub(channel)
        stub.Report(REPORT)
        waiting = stub.Wait(pb.WaitRequest(protocol=PROTOCOL))
        task = decode_task(next(waiting).task.task)
        arriving = Arriving(task.model)
        for chunk in stub.FetchModel(pb.FetchModelRequest(digest=task.model.digest)):
            arriving.take(chunk)
        arriving.finish()
        blob = blob_of(file)
        header = pb.UpdateHeader(
            task_id=task.task_id,
            digest=blob.digest,
            size_bytes=blob.size_bytes,
            model_digest=task.model.digest,
        )

        def parts():
            yield pb.UpdatePart(header=header)
            for chunk in chunks(file):
                yield pb.UpdatePart(chunk=chunk)

        assert stub.SendUpdate(parts()).digest == blob.digest
        waiting.cancel()
    kept = folder / "store" / "blobs" / "updates" / task.task_id.hex()
    with kept.open("rb") as stored:
        assert blob_of(stored) == blob
