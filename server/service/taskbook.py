"""Tasks and what became of them, as the store keeps them."""

from __future__ import annotations

import enum
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from protos.blobs import Blob
from protos.device_pb2 import Receipt, SignedTask, UpdateHeader
from protos.tasks import Task, decode_task

from .database import tasks
from .refusals import Reason, Refusal

AT_ONCE = 500  # SQLite takes so many values in one statement, and more


class State(enum.StrEnum):
    """Where a task is; every change goes from OPEN to one of the others and no further."""

    OPEN = "open"
    DONE = "done"
    DECLINED = "declined"
    WITHDRAWN = "withdrawn"


@dataclass(frozen=True, slots=True, kw_only=True)
class NewTask:
    """A task to be kept. `group_id` is whatever the engine finds its tasks by."""

    task: Task
    signed: SignedTask
    group_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A task that is kept; `update`, `header` and `reason` are set as far as it has ended."""

    task: Task
    signed: SignedTask
    group_id: str
    state: State
    update: Blob | None
    header: UpdateHeader | None
    ended_at_s: float | None
    reason: str | None

    @property
    def receipt(self) -> Receipt | None:
        """What the device is told of its update; always the same."""
        if self.update is None or self.ended_at_s is None:
            return None
        return Receipt(
            task_id=self.task.task_id, digest=self.update.digest, received_at_s=self.ended_at_s
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What is to be known of a task without reading it."""

    id: bytes
    device_id: int
    group_id: str
    state: str
    issued_at_s: float
    expires_at_s: float


class Taskbook:
    """All tasks. Every change is one transaction, and on disk when the call returns."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def push(self, new: Sequence[NewTask]) -> None:
        """Keep tasks, all or none; a task that is kept already stays as it is."""
        if not new:
            return
        insert = sa.text(
            "INSERT OR IGNORE INTO tasks (id, device_id, group_id, state, signed, model_digest, "
            "issued_at_s, expires_at_s, forgotten) VALUES (:id, :device_id, :group_id, :state, "
            ":signed, :model_digest, :issued_at_s, :expires_at_s, 0)"
        )
        with self._engine.begin() as db:
            db.execute(insert, [_values(n) for n in new])

    def find(self, task_id: bytes) -> Entry | None:
        """A task by its id."""
        found = self.entries([task_id])
        return found[0] if found else None

    def entries(self, ids: Collection[bytes]) -> list[Entry]:
        """The tasks with these ids that are kept, in ascending order of id."""
        found: list[Entry] = []
        listed = sorted(ids)
        with self._engine.connect() as db:
            for first in range(0, len(listed), AT_ONCE):
                some = tasks.c.id.in_(listed[first : first + AT_ONCE])
                found += map(_entry, db.execute(tasks.select().where(some).order_by(tasks.c.id)))
        return found

    def kept(self) -> list[Kept]:
        """All tasks that are not forgotten, in the order in which they were issued."""
        columns = [tasks.c[name] for name in Kept.__slots__]
        query = sa.select(*columns).where(tasks.c.forgotten.is_(False))
        with self._engine.connect() as db:
            rows = db.execute(query.order_by(tasks.c.issued_at_s, tasks.c.id))
            return [Kept(**{n: getattr(row, n) for n in Kept.__slots__}) for row in rows]

    def open_for(self, device_id: int, now_s: float) -> dict[bytes, SignedTask]:
        """Tasks of a device that are open and have not expired, the oldest first."""
        query = (
            sa.select(tasks.c.id, tasks.c.signed)
            .where(
                tasks.c.device_id == device_id,
                tasks.c.state == State.OPEN,
                tasks.c.expires_at_s >= now_s,
            )
            .order_by(tasks.c.issued_at_s, tasks.c.id)
        )
        with self._engine.connect() as db:
            return {row.id: SignedTask.FromString(row.signed) for row in db.execute(query)}

    def answered(self, ids: Collection[bytes], device_id: int) -> set[bytes]:
        """Those of these tasks that the device itself has ended."""
        ended = (State.DONE, State.DECLINED)
        return {
            entry.task.task_id
            for entry in (self.entries(ids) if ids else ())
            if entry.task.device_id == device_id and entry.state in ended
        }

    def is_open(self, task_id: bytes, device_id: int, now_s: float) -> bool:
        """Whether a device may still answer a task."""
        query = sa.select(sa.func.count()).where(
            tasks.c.id == task_id,
            tasks.c.device_id == device_id,
            tasks.c.state == State.OPEN,
            tasks.c.expires_at_s >= now_s,
        )
        with self._engine.connect() as db:
            return bool(db.execute(query).scalar_one())

    def model_allowed(self, digest: bytes, device_id: int, now_s: float) -> bool:
        """Whether a device has an open task with this model."""
        query = sa.select(sa.func.count()).where(
            tasks.c.model_digest == digest,
            tasks.c.device_id == device_id,
            tasks.c.state == State.OPEN,
            tasks.c.expires_at_s >= now_s,
        )
        with self._engine.connect() as db:
            return bool(db.execute(query).scalar_one())

    def receive(self, header: UpdateHeader, now_s: float) -> Receipt:
        """The update of a task is whole and on disk: count it, once.

        Raises Refusal when the task has ended in another way.
        """
        values = {
            "state": State.DONE,
            "update_digest": header.digest,
            "update_bytes": header.size_bytes,
            "header": header.SerializeToString(deterministic=True),
            "ended_at_s": now_s,
        }
        with self._engine.begin() as db:
            db.execute(
                tasks.update()
                .where(tasks.c.id == header.task_id, tasks.c.state == State.OPEN)
                .values(**values)
            )
            row = db.execute(tasks.select().where(tasks.c.id == header.task_id)).first()
        return require_same(None if row is None else _entry(row), header.digest)

    def decline(self, ids: Collection[bytes], reason: str, now_s: float) -> None:
        """There will be no update for these tasks; nothing changes for those that have ended."""
        self._end(ids, State.DECLINED, reason, now_s)

    def withdraw(self, ids: Collection[bytes], now_s: float) -> None:
        """No update is wanted any more for those of these tasks that are open."""
        self._end(ids, State.WITHDRAWN, None, now_s)

    def forget(self, ids: Collection[bytes], now_s: float) -> None:
        """These tasks are dealt with: open ones are withdrawn. What is kept is enough to refuse a replay."""
        self.withdraw(ids, now_s)
        listed = sorted(ids)
        with self._engine.begin() as db:
            for first in range(0, len(listed), AT_ONCE):
                some = tasks.c.id.in_(listed[first : first + AT_ONCE])
                db.execute(tasks.update().where(some).values(forgotten=True, header=None))

    def prune(self, before_s: float) -> None:
        """Delete tasks that were forgotten and expired before a time; their ids are then unknown."""
        with self._engine.begin() as db:
            db.execute(
                tasks.delete().where(tasks.c.forgotten.is_(True), tasks.c.expires_at_s < before_s)
            )

    def models_needed(self) -> set[bytes]:
        """Digests of the models of open tasks, and of those whose update may be a change of its model."""
        waits = (tasks.c.state == State.DONE) & tasks.c.forgotten.is_(False)
        needed = (tasks.c.state == State.OPEN) | waits
        query = sa.select(tasks.c.model_digest).where(needed).distinct()
        with self._engine.connect() as db:
            return set(db.execute(query).scalars())

    def _end(self, ids: Collection[bytes], state: State, reason: str | None, now_s: float) -> None:
        listed = sorted(ids)
        with self._engine.begin() as db:
            for first in range(0, len(listed), AT_ONCE):
                some = tasks.c.id.in_(listed[first : first + AT_ONCE])
                db.execute(
                    tasks.update()
                    .where(some, tasks.c.state == State.OPEN)
                    .values(state=state, reason=reason, ended_at_s=now_s)
                )


def require_same(entry: Entry | None, digest: bytes) -> Receipt:
    """The receipt of a task whose update has this digest. Raises Refusal when it has none such."""
    if entry is None:
        raise Refusal(Reason.NO_SUCH_TASK, "this device has no such task")
    if (receipt := entry.receipt) is None:
        raise Refusal(Reason.TASK_ENDED, f"the task was {entry.state}; no update is wanted")
    if receipt.digest != digest:
        raise Refusal(Reason.REPLAYED, "the task has an update already, and it is another one")
    return receipt


def _values(new: NewTask) -> dict[str, Any]:
    task = new.task
    return {
        "id": task.task_id,
        "device_id": task.device_id,
        "group_id": new.group_id,
        "state": State.OPEN.value,
        "signed": new.signed.SerializeToString(),
        "model_digest": task.model.digest,
        "issued_at_s": task.issued_at_s,
        "expires_at_s": task.expires_at_s,
    }


def _entry(row: sa.Row[Any]) -> Entry:
    signed = SignedTask.FromString(row.signed)
    update = None
    if row.update_digest is not None:
        update = Blob(digest=row.update_digest, size_bytes=row.update_bytes)
    return Entry(
        task=decode_task(signed.task),
        signed=signed,
        group_id=row.group_id,
        state=State(row.state),
        update=update,
        header=None if row.header is None else UpdateHeader.FromString(row.header),
        ended_at_s=row.ended_at_s,
        reason=row.reason,
    )
