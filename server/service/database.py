"""The tables of the service's store, and how its file is opened."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa

from scheduler.errors import BadFile
from server.database import open_sqlite

FILE = "service.sqlite"
VERSION = 1
BUSY_S = 30.0  # `fedpoet keys` may write while a coordinator does

tables = sa.MetaData()

devices = sa.Table(
    "devices",
    tables,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("label", sa.Text, nullable=False),
    sa.Column("public_key", sa.LargeBinary, nullable=False),  # DER
    sa.Column("serial", sa.Text, nullable=False),  # of its newest certificate, in hex
    sa.Column("expires_at_s", sa.Float, nullable=False),
    sa.Column("enrolled_at_s", sa.Float, nullable=False),
    sa.Column("seen_at_s", sa.Float),
    sa.Column("revoked_at_s", sa.Float),
    sa.Column("report", sa.LargeBinary),  # the last Capabilities
)

tickets = sa.Table(
    "tickets",
    tables,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("secret_digest", sa.LargeBinary, nullable=False),
    sa.Column("label", sa.Text, nullable=False),
    sa.Column("issued_at_s", sa.Float, nullable=False),
    sa.Column("expires_at_s", sa.Float, nullable=False),
    sa.Column("device_id", sa.Integer),  # who used it
    sa.Column("revoked_at_s", sa.Float),
)

tasks = sa.Table(
    "tasks",
    tables,
    sa.Column("id", sa.LargeBinary, primary_key=True),
    sa.Column("device_id", sa.Integer, nullable=False),
    sa.Column("group_id", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),  # a State of taskbook
    sa.Column("signed", sa.LargeBinary, nullable=False),  # SignedTask
    sa.Column("model_digest", sa.LargeBinary, nullable=False),
    sa.Column("issued_at_s", sa.Float, nullable=False),
    sa.Column("expires_at_s", sa.Float, nullable=False),
    sa.Column("update_digest", sa.LargeBinary),
    sa.Column("update_bytes", sa.Integer),
    sa.Column("header", sa.LargeBinary),  # UpdateHeader, for the metrics
    sa.Column("ended_at_s", sa.Float),
    sa.Column("reason", sa.Text),
    sa.Column("forgotten", sa.Boolean, nullable=False, default=False),
    sa.Index("tasks_of_device", "device_id", "state"),
    sa.Index("tasks_of_group", "group_id"),
)


def open_database(folder: Path) -> sa.Engine:
    """The store's database, made if there is none. Raises BadFile when the file is not one."""
    path = folder / FILE
    try:
        path.touch(mode=0o600)
    except OSError as error:
        raise BadFile(f"cannot keep a store in {folder}: {error.strerror}") from error
    return open_sqlite(path, tables, VERSION, "the service's store", busy_s=BUSY_S)
