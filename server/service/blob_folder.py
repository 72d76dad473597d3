"""Models and updates as files: written beside, synced, renamed, so that a name stands for a whole blob."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable, Collection
from pathlib import Path
from typing import BinaryIO

from protos.blobs import Blob, blob_of


class BlobFolder:
    """Models by their digest; updates, whole and half, by their task."""

    def __init__(self, folder: Path) -> None:
        self._models, self._updates, self._incoming = (
            folder / name for name in ("models", "updates", "incoming")
        )
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)  # updates can tell about the data
        for part in (self._models, self._updates, self._incoming):
            part.mkdir(exist_ok=True)
        for draft in self._models.glob(".draft-*"):
            draft.unlink()  # of a process that was killed

    def add_model(self, write: Callable[[Path], None]) -> Blob:
        """Keep what `write` writes to a path; the same bytes are kept once."""
        draft = self._models / f".draft-{secrets.token_hex(4)}"
        try:
            write(draft)
            with draft.open("rb") as file:
                blob = blob_of(file)
                os.fsync(file.fileno())
            _rename(draft, self.model(blob.digest))
        finally:
            draft.unlink(missing_ok=True)
        return blob

    def model(self, digest: bytes) -> Path:
        """Where the model with this digest is, if it is kept."""
        return self._models / digest.hex()

    def keep_models(self, digests: Collection[bytes]) -> None:
        """Delete all models but these."""
        names = {digest.hex() for digest in digests}
        for path in self._models.iterdir():
            if path.name not in names:
                path.unlink()

    def update(self, task_id: bytes) -> Path:
        """Where the update of a task is, once it is whole."""
        return self._updates / task_id.hex()

    def incoming_bytes(self, task_id: bytes, digest: bytes) -> int:
        """How much has arrived of an update that is not whole."""
        path = self._half(task_id, digest)
        return path.stat().st_size if path.exists() else 0

    def open_incoming(self, task_id: bytes, digest: bytes) -> BinaryIO:
        """The file of an update that arrives, at its end. What arrived with another digest is deleted."""
        mine = self._half(task_id, digest)
        for path in self._incoming.glob(f"{task_id.hex()}-*"):
            if path != mine:
                path.unlink()
        file = mine.open("a+b")
        file.seek(0, os.SEEK_END)
        return file

    def complete(self, task_id: bytes, digest: bytes, file: BinaryIO) -> None:
        """The update has arrived whole: from here on it survives a crash."""
        file.flush()
        os.fsync(file.fileno())
        _rename(self._half(task_id, digest), self.update(task_id))

    def drop_incoming(self, task_id: bytes) -> None:
        """Delete what arrived of a task's update so far."""
        for path in self._incoming.glob(f"{task_id.hex()}-*"):
            with contextlib.suppress(FileNotFoundError):
                path.unlink()

    def drop_update(self, task_id: bytes) -> None:
        """Delete a task's update."""
        self.update(task_id).unlink(missing_ok=True)
        self.drop_incoming(task_id)

    def _half(self, task_id: bytes, digest: bytes) -> Path:
        return self._incoming / f"{task_id.hex()}-{digest.hex()}"


def _rename(source: Path, target: Path) -> None:
    source.replace(target)
    descriptor = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)  # the name too is on disk
    finally:
        os.close(descriptor)
