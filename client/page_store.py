"""Pages on storage: a block-aligned file whose content is encrypted and authenticated.

Every piece of a page (at most PIECE_BYTES) is sealed with AES-256-GCM. The key is random, made for
this store, and never leaves memory; a counter gives every piece ever written its own nonce. The
authentication tags stay in memory too and bind the tensor, the page's version and the piece's place,
so bytes that were changed, moved, cut off or replaced by older ones are an error, never data.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import struct
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from scheduler.errors import DamagedPage, PageStoreError, PageStoreFull

from .blocks import BlockAllocator

# The store's own buffers, one to write and one to read with, grow to the largest piece and its tag.
# A megabyte, since each piece costs some microseconds beside the copying and the cipher.
PIECE_BYTES = 1024 * 1024
TAG_BYTES = 16

_OPEN = os.O_RDWR | os.O_CLOEXEC
_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Where a piece lies in the file, and what authenticates it."""

    offset: int
    length: int
    nonce: int
    tag: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A written copy of a tensor's storage; only the store that made it can read it."""

    tensor: int
    version: int
    size_bytes: int
    runs: tuple[tuple[int, int], ...]
    pieces: tuple[Piece, ...]


class _Scratch:
    """A buffer as large as the most that was asked of it."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def __len__(self) -> int:
        return len(self._bytes)

    def view(self, size_bytes: int) -> memoryview:
        """Its first bytes. One that has to grow is a new one: views of the old may still be about."""
        if len(self._bytes) < size_bytes:
            self._bytes = bytearray(size_bytes)
        return memoryview(self._bytes)[:size_bytes]


class PageStore:
    """A file of pages that exists while the store is open.

    The file is for the owner only. Where the system allows it, it has no name; else it is at `path`
    (which must not exist) until the name can be removed. `capacity_bytes` limits the blocks in use.
    Threads may share a store: one writes and one reads at a time.
    Raises PageStoreError if the file cannot be made.
    """

    def __init__(
        self, path: Path, *, capacity_bytes: int | None = None, block_bytes: int = 4096
    ) -> None:
        self._path, self._block = path, block_bytes
        self._piece = max(1, PIECE_BYTES // block_bytes) * block_bytes
        limit = None if capacity_bytes is None else capacity_bytes // block_bytes
        self._capacity_bytes = capacity_bytes
        self._blocks = BlockAllocator(limit)
        self._cipher = AESGCM(AESGCM.generate_key(256))
        self._nonces = 0
        self._versions = 0
        self._buffer, self._read_buffer = (_Scratch() for _ in range(2))
        self._writing, self._reading, self._finding = (threading.Lock() for _ in range(3))
        self._file, self._named = _create(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Forget all pages and remove the file."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
            if self._named:
                self._path.unlink(missing_ok=True)

    @property
    def used_bytes(self) -> int:
        """Bytes of the blocks in use."""
        return self._blocks.used * self._block

    def write(self, tensor: int, data: memoryview) -> Page:
        """Write a new page. Raises PageStoreFull, after which the store is as it was before."""
        with self._finding:
            runs = self._blocks.take(-(-len(data) // self._block))
        if runs is None:
            raise PageStoreFull(
                f"the page store is full: {len(data)} bytes for tensor {tensor} do not fit beside the "
                f"{self.used_bytes} in use of {self._capacity_bytes}; give it more room or raise the "
                "RAM budget"
            )
        try:
            with self._writing:
                self._versions += 1
                version = self._versions
                pieces = tuple(self._seal(tensor, version, runs, data))
        except BaseException:
            with self._finding:
                self._blocks.give_back(runs)
            raise
        return Page(
            tensor=tensor, version=version, size_bytes=len(data), runs=tuple(runs), pieces=pieces
        )

    def read(self, page: Page, into: memoryview) -> None:
        """Fill `into` with the page's content. Raises DamagedPage; `into` is then undefined."""
        with self._reading:
            self._read(page, into)

    def _read(self, page: Page, into: memoryview) -> None:
        done = 0
        for index, piece in enumerate(page.pieces):
            sealed = self._read_buffer.view(piece.length + TAG_BYTES)
            self._read_exactly(page, piece, sealed[: piece.length])
            sealed[piece.length :] = piece.tag
            bound = _bound(page.tensor, page.version, index)
            try:
                self._cipher.decrypt_into(
                    _nonce(piece.nonce), sealed, bound, into[done : done + piece.length]
                )
            except InvalidTag as error:
                raise _damaged(page, "is not what was written") from error
            done += piece.length

    def drop(self, page: Page) -> None:
        """Make the page's blocks free for others."""
        with self._finding:
            self._blocks.give_back(list(page.runs))

    def _seal(
        self, tensor: int, version: int, runs: list[tuple[int, int]], data: memoryview
    ) -> Iterator[Piece]:
        done = 0
        for index, (offset, room) in enumerate(self._places(runs)):
            length = min(room, len(data) - done)
            self._nonces += 1
            padded = -(-length // self._block) * self._block
            blocks = self._buffer.view(max(padded, length + TAG_BYTES))
            sealed = blocks[: length + TAG_BYTES]
            self._cipher.encrypt_into(
                _nonce(self._nonces),
                data[done : done + length],
                _bound(tensor, version, index),
                sealed,
            )
            tag = bytes(sealed[length:])
            blocks[length:padded] = bytes(padded - length)
            self._write_all(blocks[:padded], offset, tensor)
            yield Piece(offset=offset, length=length, nonce=self._nonces, tag=tag)
            done += length

    def _places(self, runs: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
        """Offset and bytes of every piece."""
        for first, count in runs:
            start, end = first * self._block, (first + count) * self._block
            for offset in range(start, end, self._piece):
                yield offset, min(self._piece, end - offset)

    def _write_all(self, data: memoryview, offset: int, tensor: int) -> None:
        try:
            while data:
                written = os.pwrite(self._file, data, offset)
                data, offset = data[written:], offset + written
        except OSError as error:
            if error.errno in _NO_SPACE:
                raise PageStoreFull(
                    f"no space left for the page store beside the {self.used_bytes} bytes in use "
                    f"({error.strerror}, while writing tensor {tensor}); free some space or raise "
                    "the RAM budget"
                ) from error
            raise PageStoreError(f"the page store cannot be written: {error.strerror}") from error

    def _read_exactly(self, page: Page, piece: Piece, into: memoryview) -> None:
        done = 0
        while done < piece.length:
            try:
                count = os.preadv(self._file, [into[done:]], piece.offset + done)
            except OSError as error:
                raise PageStoreError(f"the page store cannot be read: {error.strerror}") from error
            if count == 0:
                raise _damaged(page, "is cut off")
            done += count


def _nonce(number: int) -> bytes:
    return number.to_bytes(12, "big")


def _bound(tensor: int, version: int, index: int) -> bytes:
    return struct.pack(">QQQ", tensor, version, index)


def _damaged(page: Page, how: str) -> DamagedPage:
    return DamagedPage(
        f"the page of tensor {page.tensor} in the page store {how}; the storage may be failing: "
        "use another one"
    )


def unused_path(folder: Path | None) -> Path:
    """A path for a page store that nobody else has, in this folder or the system's temporary one."""
    place = Path(tempfile.gettempdir()) if folder is None else folder
    return place / f"fedpoet-{secrets.token_hex(8)}.pages"


def _create(path: Path) -> tuple[int, bool]:
    """An open file, and whether its name is still there.

    Where the system can it never has one, so that nothing is left behind whenever the process dies.
    """
    try:
        if not os.path.lexists(path):
            with contextlib.suppress(OSError, AttributeError):
                return os.open(path.parent, _OPEN | os.O_TMPFILE, 0o600), False
        file = os.open(path, _OPEN | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise PageStoreError(f"the page store {path} cannot be made: {error.strerror}") from error
    return file, not _unlinked(path)


def _unlinked(path: Path) -> bool:
    with contextlib.suppress(PermissionError):
        path.unlink()
        return True
    return False
