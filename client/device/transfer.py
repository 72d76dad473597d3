"""Models that arrive and updates that leave, both from where the last try ended."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import islice

from protos.blobs import CHUNK_BYTES, Arriving
from protos.device_pb2 import Receipt, UpdateHeader
from protos.tasks import Task
from scheduler.errors import BadMessage, ConnectionLost

from . import ask, vault
from .fabric import Wire
from .ledger import Ledger
from .vault import Vault


async def fetch_model(wire: Wire, kept: Vault, task: Task) -> None:
    """Have the task's model in the vault, whole and verified. Raises what a Wire raises.

    One that does not arrive as announced is a lost connection; one that is whole and wrong is dropped.
    """
    name = ask.model_record(task.model.digest.hex())
    try:
        arriving = await asyncio.to_thread(Arriving, task.model, _arrived(kept, name, task))
    except BadMessage as error:
        kept.remove(name)
        raise ConnectionLost(f"what is here of the model is of no use: {error}") from error
    try:
        if arriving.offset_bytes < task.model.size_bytes:
            await _receive(wire, kept, name, arriving)
        arriving.finish()
    except BadMessage as error:
        if arriving.offset_bytes == task.model.size_bytes:
            kept.remove(name)
        raise ConnectionLost(f"the model did not arrive as announced: {error}") from error


def _arrived(kept: Vault, name: str, task: Task) -> Iterator[bytes]:
    """What is there already: all of the model, else its chunks that are full."""
    if kept.content_bytes(name) == task.model.size_bytes:
        return kept.chunks(name)
    return islice(kept.chunks(name), kept.whole_bytes(name) // vault.CHUNK_BYTES)


async def _receive(wire: Wire, kept: Vault, name: str, arriving: Arriving) -> None:
    """Chunks of any size arrive; the vault's are all of one size but the last."""
    at_bytes, waiting = arriving.offset_bytes, bytearray()
    async for chunk in wire.model(arriving.blob.digest, at_bytes):
        waiting += arriving.take(chunk)
        whole = arriving.offset_bytes == arriving.blob.size_bytes
        while len(waiting) >= vault.CHUNK_BYTES or (whole and waiting):
            piece = bytes(waiting[: vault.CHUNK_BYTES])
            kept.append(name, piece, at_bytes)
            at_bytes += len(piece)
            del waiting[: len(piece)]
        if whole:
            break
    await asyncio.to_thread(kept.sync, name)


async def send_update(wire: Wire, ledger: Ledger, task: Task, header: UpdateHeader) -> Receipt:
    """The receipt for a task's update. Raises what a Wire raises, ConnectionLost for a wrong receipt."""
    known = await wire.update_offset(task.task_id, header.digest)
    if known.HasField("receipt"):
        receipt = known.receipt
    else:
        if known.offset_bytes > header.size_bytes:
            raise ConnectionLost("the coordinator says that it has more of an update than there is")
        begun = UpdateHeader()
        begun.CopyFrom(header)
        begun.offset_bytes = known.offset_bytes
        most_bytes = min(CHUNK_BYTES, wire.limits.chunk_bytes or CHUNK_BYTES)
        pieces = ledger.pieces(task, known.offset_bytes, most_bytes)
        receipt = await wire.send_update(begun, pieces)
    if (receipt.task_id, receipt.digest) != (task.task_id, header.digest):
        raise ConnectionLost("the coordinator sent a receipt for something else")
    return receipt
