"""A device of the device service that trains nothing: it adds a known number to every array it gets."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from client.device.identity import Credentials
from client.device.link import Link
from protos import device_pb2 as pb
from protos.arrays import decode_arrays, encode_arrays
from protos.blobs import Arriving, blob_of
from protos.tasks import Task, open_task
from protos.values import to_numbers
from scheduler.errors import ConnectionLost

PAUSE_S = 0.1
PIECE_BYTES = 2**18

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, kw_only=True)
class NullDevice:
    """Who it is, what it says it can train, and how it answers."""

    address: str
    device_id: int
    partition: int
    credentials: Credentials
    workload: pb.KnownWorkload
    answered: Callable[[Task], Awaitable[None] | None] = lambda _: None

    async def run(self) -> None:
        """Take part until cancelled; a lost connection is made anew."""
        while True:
            with contextlib.suppress(ConnectionLost):
                async with Link(self.address, self.credentials) as link:
                    await self._connected(link)
            await asyncio.sleep(PAUSE_S)

    async def _connected(self, link: Link) -> None:
        await link.hello()
        await link.report(
            pb.Capabilities(
                profile="raspberry-pi-4b",
                device_kind="null",
                free_ram_bytes=10**9,
                ram_budget_bytes=10**8,
                charging=True,
                idle=True,
                unmetered=True,
                ready=True,
                workloads=[self.workload],
            )
        )
        async for notice in link.notices(()):
            if notice.WhichOneof("notice") == "task":
                await self._answer(link, notice.task)

    async def _answer(self, link: Link, signed: pb.SignedTask) -> None:
        task = open_task(
            signed,
            authority=self.credentials.authority,
            device_id=self.device_id,
            now_s=time.time(),
            seen=(),
        )
        arriving, pieces = Arriving(task.model), bytearray()
        async for chunk in link.model(task.model.digest, 0):
            pieces += arriving.take(chunk)
        arriving.finish()
        model = bytes(pieces)
        data = encode_arrays(null_update(decode_arrays(model), self.partition, task.round_number))
        blob = blob_of(io.BytesIO(data))
        header = pb.UpdateHeader(
            task_id=task.task_id,
            digest=blob.digest,
            size_bytes=blob.size_bytes,
            metrics=to_numbers(null_metrics(self.partition)),
            model_digest=hashlib.sha256(model).digest(),
        )
        known = await link.update_offset(task.task_id, blob.digest)
        if not known.HasField("receipt"):
            header.offset_bytes = known.offset_bytes
            left = range(known.offset_bytes, len(data), PIECE_BYTES)
            await link.send_update(header, (data[i : i + PIECE_BYTES] for i in left))
        if (done := self.answered(task)) is not None:
            await done


def null_update(arrays: Arrays, partition: int, number: int) -> dict[str, NDArray[Any]]:
    """What a null device makes of a model in a round."""
    step = (partition + 1) * number / 128
    return {
        name: (value + value.dtype.type(step)).astype(value.dtype) for name, value in arrays.items()
    }


def null_metrics(partition: int) -> dict[str, int | float]:
    """What it says of that."""
    return {"num-examples": 10 + partition, "partition-id": partition, "train-loss": 1.0}
