"""Models that arrive and updates that leave, both from where the last try ended."""

from __future__ import annotations

import asyncio

from protos.blobs import CHUNK_BYTES, Arriving
from protos.device_pb2 import Receipt, UpdateHeader
from protos.tasks import Task
from scheduler.errors import BadMessage, ConnectionLost

from . import ask, vault
from .ledger import Ledger
from .link import Link
from .vault import Vault


async def fetch_model(link: Link, kept: Vault, task: Task) -> None:
    """Have the task's model in the vault, whole and verified. Raises what a Link raises.

    One that arrives damaged is dropped, and the connection counts as lost.
    """
    name = ask.model_record(task.model.digest.hex())
    done_bytes = min(kept.whole_bytes(name), task.model.size_bytes)
    try:
        arriving = await asyncio.to_thread(
            Arriving, task.model, kept.chunks(name) if done_bytes else ()
        )
        if arriving.offset_bytes < task.model.size_bytes:
            await _receive(link, kept, name, arriving)
        arriving.finish()
    except BadMessage as error:
        kept.remove(name)
        raise ConnectionLost(f"the model did not arrive as announced: {error}") from error


async def _receive(link: Link, kept: Vault, name: str, arriving: Arriving) -> None:
    """Chunks of any size arrive; the vault's are all of one size but the last."""
    at_bytes, waiting = arriving.offset_bytes, bytearray()
    async for chunk in link.model(arriving.blob.digest, at_bytes):
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


async def send_update(link: Link, ledger: Ledger, task: Task, header: UpdateHeader) -> Receipt:
    """The receipt for a task's update. Raises what a Link raises, ConnectionLost for a wrong receipt."""
    known = await link.update_offset(task.task_id, header.digest)
    if known.HasField("receipt"):
        receipt = known.receipt
    else:
        if known.offset_bytes > header.size_bytes:
            raise ConnectionLost("the coordinator says that it has more of an update than there is")
        begun = UpdateHeader()
        begun.CopyFrom(header)
        begun.offset_bytes = known.offset_bytes
        most_bytes = min(CHUNK_BYTES, link.limits.chunk_bytes or CHUNK_BYTES)
        pieces = ledger.pieces(task, known.offset_bytes, most_bytes)
        receipt = await link.send_update(begun, pieces)
    if (receipt.task_id, receipt.digest) != (task.task_id, header.digest):
        raise ConnectionLost("the coordinator sent a receipt for something else")
    return receipt
