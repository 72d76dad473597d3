"""What the device service keeps in its folder: a database, and blobs as files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from scheduler.errors import BadFile

from .blob_folder import BlobFolder
from .database import open_database
from .roster import Roster
from .taskbook import Taskbook

BLOBS = "blobs"


@dataclass(frozen=True, slots=True, kw_only=True)
class Store:
    """Devices, tasks and blobs; opened again after a crash it is as it was after the last whole change."""

    roster: Roster
    tasks: Taskbook
    blobs: BlobFolder
    engine: sa.Engine

    def close(self) -> None:
        """Close the database."""
        self.engine.dispose()


def open_store(folder: Path) -> Store:
    """The store in a folder, made if there is none. Raises BadFile when it cannot be used."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        blobs = BlobFolder(folder / BLOBS)
    except OSError as error:
        raise BadFile(f"cannot keep a store in {folder}: {error.strerror}") from error
    engine = open_database(folder)
    return Store(roster=Roster(engine), tasks=Taskbook(engine), blobs=blobs, engine=engine)
