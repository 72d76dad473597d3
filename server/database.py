"""SQLite files of the coordinator: with their tables, of one version, on disk when a change returns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DatabaseError

from scheduler.errors import BadFile

BUSY_S = 5.0  # as SQLite's own module


def open_sqlite(
    path: Path, tables: sa.MetaData, version: int, what: str, *, busy_s: float = BUSY_S
) -> sa.Engine:
    """The database in a file, made if there is none; `busy_s` is how long to wait for another writer.

    Raises BadFile when the file cannot be used as `what`.
    """
    engine = sa.create_engine(
        sa.URL.create("sqlite", database=str(path)), connect_args={"timeout": busy_s}
    )
    sa.event.listen(engine, "connect", _set_up)
    try:
        with engine.begin() as db:
            found = db.exec_driver_sql("PRAGMA user_version").scalar_one()
            if found not in (0, version):
                raise BadFile(
                    f"{path} is of version {found}; this fedpoet reads {version}. Use that which wrote it"
                )
            tables.create_all(db)
            db.exec_driver_sql(f"PRAGMA user_version={version}")
    except DatabaseError as error:
        engine.dispose()
        raise BadFile(f"{path} cannot be used as {what}: {error.orig}") from error
    return engine


def _set_up(connection: Any, _: object) -> None:
    cursor = connection.cursor()
    # One writer beside many readers, and what was committed stays, whatever happens to the machine.
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.close()
