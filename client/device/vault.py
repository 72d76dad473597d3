"""What a device keeps on disk: records, encrypted and authenticated with a key that only it has.

A record is a file of chunks. Each chunk is its nonce, then AES-256-GCM of at most CHUNK_BYTES, bound to the
record's name and the chunk's place: bytes that were changed, moved or taken from another record are an error.
That a long record is whole is for its reader to know, who has a digest of it: records grow by appending.
The key is derived from a secret of the device's own, in a file that only its owner may read.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from scheduler.errors import DamagedState, StateError

CHUNK_BYTES = 2**20
SECRET_BYTES = 32
_NONCE_BYTES, _TAG_BYTES = 12, 16
_SEALED_BYTES = _NONCE_BYTES + CHUNK_BYTES + _TAG_BYTES
_SECRET = "secret"  # noqa: S105 (a file's name)
_PURPOSE = b"fedpoet device state v1"


class Vault:
    """The records in a folder, by name. One process writes a record at a time.

    Raises StateError where the folder or a file cannot be used, DamagedState for what was not written here.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with _told(folder, "used"):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._cipher = AESGCM(_derived(_secret(folder / _SECRET)))

    def names(self, prefix: str = "") -> tuple[str, ...]:
        """Names of the records that begin so, sorted."""
        with _told(self.folder, "read"):
            found = [p.name.removesuffix(".sealed") for p in self.folder.glob("*.sealed")]
        return tuple(sorted(name for name in found if name.startswith(prefix)))

    def put(self, name: str, data: bytes) -> None:
        """Write a record, whole or not at all; it is on the disk when this returns."""
        path = self._path(name)
        draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        with _told(path, "written"):
            try:
                with _made(draft) as file:
                    for index, start in enumerate(range(0, max(len(data), 1), CHUNK_BYTES)):
                        file.write(self._seal(name, index, data[start : start + CHUNK_BYTES]))
                draft.replace(path)
                _sync_folder(self.folder)
            except OSError:
                draft.unlink(missing_ok=True)
                raise

    def get(self, name: str) -> bytes | None:
        """A record's content, None if there is none."""
        return b"".join(self.chunks(name)) if name in self else None

    def __contains__(self, name: str) -> bool:
        return self._path(name).exists()

    def whole_bytes(self, name: str) -> int:
        """Bytes of content in the chunks of a record that are full; 0 if there is none."""
        path = self._path(name)
        with _told(path, "read"):
            return path.stat().st_size // _SEALED_BYTES * CHUNK_BYTES if path.exists() else 0

    def content_bytes(self, name: str) -> int:
        """Bytes of content in a record, if its last chunk is whole; 0 if there is none."""
        path = self._path(name)
        with _told(path, "read"):
            stored = path.stat().st_size if path.exists() else 0
        whole, rest = divmod(stored, _SEALED_BYTES)
        return whole * CHUNK_BYTES + max(0, rest - _NONCE_BYTES - _TAG_BYTES)

    def chunks(self, name: str, start_bytes: int = 0) -> Iterator[bytes]:
        """The content from a multiple of CHUNK_BYTES on, a chunk at a time."""
        path = self._path(name)
        index = start_bytes // CHUNK_BYTES
        with _told(path, "read"), path.open("rb") as file:
            file.seek(index * _SEALED_BYTES)
            while sealed := file.read(_SEALED_BYTES):
                yield self._open(name, index, sealed)
                index += 1

    def append(self, name: str, data: bytes, at_bytes: int) -> None:
        """Add a chunk where the record ends: at `at_bytes`, a multiple of CHUNK_BYTES.

        Half a chunk that an earlier process left there is written over. The bytes are on the disk for
        certain only after `sync`.
        """
        path = self._path(name)
        index, rest = divmod(at_bytes, CHUNK_BYTES)
        if rest or len(data) > CHUNK_BYTES or at_bytes > self.whole_bytes(name):
            raise ValueError(f"{len(data)} bytes at {at_bytes} are no next chunk of {name}")
        with _told(path, "written"):
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            with os.fdopen(file, "r+b") as opened:
                opened.seek(index * _SEALED_BYTES)
                opened.write(self._seal(name, index, data))
                opened.truncate()

    def sync(self, name: str) -> None:
        """Have the whole record on the disk when this returns."""
        path = self._path(name)
        with _told(path, "written"), path.open("rb") as file:
            os.fsync(file.fileno())
            _sync_folder(self.folder)

    def remove(self, name: str) -> None:
        """Forget a record, if there is one."""
        with _told(self._path(name), "removed"):
            self._path(name).unlink(missing_ok=True)

    def tidy(self) -> None:
        """Remove what processes left half-written that were killed; nobody else may write meanwhile."""
        with _told(self.folder, "tidied"):
            for draft in self.folder.glob(".*"):
                draft.unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.sealed"

    def _seal(self, name: str, index: int, data: bytes) -> bytes:
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, data, _bound(name, index))

    def _open(self, name: str, index: int, sealed: bytes) -> bytes:
        nonce, rest = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
        try:
            return self._cipher.decrypt(nonce, rest, _bound(name, index))
        except (InvalidTag, ValueError) as error:
            raise DamagedState(
                f"{self._path(name)} is not what this device wrote there; remove the file"
            ) from error


def _derived(secret: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=_PURPOSE).derive(secret)


def _bound(name: str, index: int) -> bytes:
    return f"{name}\0{index}".encode()


def _secret(path: Path) -> bytes:
    """The device's own secret, made when there is none yet."""
    with _told(path, "used"):
        with suppress(FileExistsError):
            draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
            with _made(draft) as file:
                file.write(secrets.token_bytes(SECRET_BYTES))
            try:
                os.link(draft, path)  # fails where another process was first
                _sync_folder(path.parent)
            finally:
                draft.unlink()
        if path.stat().st_mode & 0o077:
            raise StateError(f"others may read {path}; chmod 600 {path}")
        found = path.read_bytes()
    if len(found) != SECRET_BYTES:
        raise DamagedState(
            f"{path} holds {len(found)} bytes, not {SECRET_BYTES}; join again in a new folder"
        )
    return found


@contextmanager
def _made(path: Path) -> Iterator[BinaryIO]:
    """A new file for the owner only, on the disk when it is closed."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(file, "wb") as opened:
        yield opened
        opened.flush()
        os.fsync(opened.fileno())


def _sync_folder(folder: Path) -> None:
    """A new name is on the disk only when its folder is."""
    opened = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


@contextmanager
def _told(path: Path, how: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StateError(f"{path} cannot be {how}: {error.strerror}") from error
