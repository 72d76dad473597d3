"""Models that do not arrive as announced: nothing wrong is used, nothing right is fetched twice."""

from __future__ import annotations

import asyncio
import hashlib
import zlib
from dataclasses import dataclass, field, replace

import pytest

from client.device import ask
from client.device.member import _declining
from client.device.transfer import fetch_model
from client.device.vault import CHUNK_BYTES, Vault
from client.outbox import DETAIL_BYTES, released
from protos.blobs import Blob
from protos.device_pb2 import Chunk, DeclineReason
from scheduler.errors import ConnectionLost
from tests.client.device.kept import a_task, model

DATA = bytes(range(251)) * 10_000  # two chunks and a half
TASK = replace(
    a_task(model())[0], model=Blob(digest=hashlib.sha256(DATA).digest(), size_bytes=len(DATA))
)
RECORD = ask.model_record(TASK.model.digest.hex())


def chunk(offset: int, data: bytes) -> Chunk:
    return Chunk(offset_bytes=offset, data=data, crc32=zlib.crc32(data))


@dataclass
class Broken:
    """A coordinator that sends chunks of `size`, spoiled by `spoil` from chunk number `after` on."""

    size: int = CHUNK_BYTES
    after: int = 10**9
    spoil: object = None
    asked: list[int] = field(default_factory=list)

    async def model(self, digest: bytes, offset_bytes: int):
        self.asked.append(offset_bytes)
        for number, start in enumerate(range(offset_bytes, len(DATA), self.size)):
            sound = chunk(start, DATA[start : start + self.size])
            if number < self.after:
                yield sound
                continue
            spoiled = self.spoil(sound)
            if spoiled is None:
                return
            yield spoiled


def fetch(vault: Vault, wire) -> None:
    asyncio.run(fetch_model(wire, vault, TASK))


@pytest.mark.parametrize("size", [1000, CHUNK_BYTES - 1, CHUNK_BYTES])
def test_chunks_of_any_size_make_the_model(tmp_path, size):
    vault = Vault(tmp_path)
    fetch(vault, Broken(size=size))
    assert vault.get(RECORD) == DATA


@pytest.mark.parametrize(
    "spoil",
    [
        lambda _: None,
        lambda c: Chunk(offset_bytes=c.offset_bytes, data=c.data, crc32=c.crc32 ^ 1),
        lambda c: chunk(c.offset_bytes + 1, c.data),
        lambda c: chunk(c.offset_bytes, b""),
        lambda c: chunk(c.offset_bytes, c.data + bytes(CHUNK_BYTES)),
    ],
    ids=["cut", "damaged", "misplaced", "empty", "oversized"],
)
def test_what_arrived_before_a_fault_is_not_fetched_again(tmp_path, spoil):
    vault = Vault(tmp_path)
    broken = Broken(after=1, spoil=spoil)
    with pytest.raises(ConnectionLost):
        fetch(vault, broken)
    good = Broken()
    fetch(vault, good)
    assert (broken.asked, good.asked) == ([0], [CHUNK_BYTES])
    assert vault.get(RECORD) == DATA
    again = Broken()
    fetch(vault, again)
    assert again.asked == []


def test_other_bytes_than_were_announced_are_dropped(tmp_path):
    vault = Vault(tmp_path)
    with pytest.raises(ConnectionLost, match="digest"):
        fetch(vault, Broken(after=0, spoil=lambda c: chunk(c.offset_bytes, bytes(len(c.data)))))
    assert RECORD not in vault
    vault.put(RECORD, DATA + bytes(2 * CHUNK_BYTES))  # kept for a task that announced another size
    with pytest.raises(ConnectionLost):
        fetch(vault, Broken())
    fetch(vault, Broken())
    assert vault.get(RECORD) == DATA


@pytest.mark.parametrize("detail", ["x" * 1000, "ä" * 400, "short"])
def test_a_long_reason_is_cut_rather_than_kept_from_leaving(detail):
    request = _declining(bytes(16), DeclineReason.DECLINE_REASON_FAILED, detail)
    assert released(request) is request
    assert detail.startswith(request.detail)
    assert len(request.detail.encode()) >= min(len(detail.encode()), DETAIL_BYTES - 1)
