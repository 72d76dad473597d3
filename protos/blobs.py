"""Blobs (models, updates) in chunks, the same on both sides; where the bytes are kept is the caller's."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from scheduler.errors import BadMessage

from .device_pb2 import Chunk

CHUNK_BYTES = 2**20
DIGEST_BYTES = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Blob:
    """Which blob: SHA-256 of its bytes, and how many they are. Raises BadMessage for none such."""

    digest: bytes
    size_bytes: int

    def __post_init__(self) -> None:
        if len(self.digest) != DIGEST_BYTES:
            raise BadMessage(f"a digest has {DIGEST_BYTES} bytes, not {len(self.digest)}")
        if self.size_bytes < 1:
            raise BadMessage("a blob has at least one byte")


def blob_of(file: BinaryIO) -> Blob:
    """The blob that a file holds from its start; the file ends at its end."""
    file.seek(0)
    sha, size_bytes = hashlib.sha256(), 0
    while data := file.read(CHUNK_BYTES):
        sha.update(data)
        size_bytes += len(data)
    return Blob(digest=sha.digest(), size_bytes=size_bytes)


def chunks(
    file: BinaryIO, *, offset_bytes: int = 0, chunk_bytes: int = CHUNK_BYTES
) -> Iterator[Chunk]:
    """What a file holds from `offset_bytes` to its end; one chunk is in memory at a time."""
    file.seek(offset_bytes)
    while data := file.read(chunk_bytes):
        yield Chunk(offset_bytes=offset_bytes, data=data, crc32=zlib.crc32(data))
        offset_bytes += len(data)


class Arriving:
    """The checks of a blob that arrives in chunks.

    `have` is what arrived of it before, in pieces of any size, when an interrupted one goes on.
    """

    def __init__(
        self, blob: Blob, have: Iterable[bytes] = (), *, chunk_bytes: int = CHUNK_BYTES
    ) -> None:
        self.blob, self.offset_bytes = blob, 0
        self._chunk_bytes, self._sha = chunk_bytes, hashlib.sha256()
        for piece in have:
            self._add(piece)

    def take(self, chunk: Chunk) -> bytes:
        """The data of the next chunk, to be kept. Raises BadMessage; the same chunk can then be sent anew."""
        data = chunk.data
        if not 0 < len(data) <= self._chunk_bytes:
            raise BadMessage(
                f"a chunk holds {len(data)} bytes; it must hold 1 to {self._chunk_bytes}"
            )
        if chunk.offset_bytes != self.offset_bytes:
            raise BadMessage(
                f"a chunk begins at byte {chunk.offset_bytes}, but byte {self.offset_bytes} comes next",
                reason="out-of-order",
            )
        if zlib.crc32(data) != chunk.crc32:
            raise BadMessage(
                f"the chunk at byte {chunk.offset_bytes} was damaged on its way", reason="damaged"
            )
        self._add(data)
        return data

    def finish(self) -> None:
        """Raise BadMessage unless the blob is whole; what arrived is of no use when its digest is wrong."""
        if self.offset_bytes != self.blob.size_bytes:
            raise BadMessage(
                f"{self.offset_bytes} of {self.blob.size_bytes} bytes arrived; send the rest",
                reason="incomplete",
            )
        if self._sha.digest() != self.blob.digest:
            raise BadMessage(
                "the bytes that arrived do not have the digest they were announced with",
                reason="damaged",
            )

    def _add(self, data: bytes) -> None:
        if self.offset_bytes + len(data) > self.blob.size_bytes:
            raise BadMessage(
                f"more bytes come than the {self.blob.size_bytes} that were announced",
                reason="too-large",
            )
        self._sha.update(data)
        self.offset_bytes += len(data)
