"""The tasks that a device has taken on, and how far each is, on disk. What ends a task is written at once."""

from __future__ import annotations

import json
from collections.abc import Iterator

from protos.device_pb2 import DeclineRequest, SignedTask, UpdateHeader
from protos.tasks import Task, decode_task

from . import ask
from .vault import CHUNK_BYTES, Vault

SEEN = "seen"
_OF_TASKS = (
    ask.update_record,
    ask.blob_record,
    ask.decline_record,
    ask.lost_record,
    ask.envelope_record,
    ask.model_record,
)


class Ledger:
    """A task is open, then has an update or a decline to be sent, and is forgotten once that has arrived."""

    def __init__(self, vault: Vault) -> None:
        self._vault = vault

    def tasks(self) -> tuple[Task, ...]:
        """All tasks that are not done, the oldest first."""
        found = map(self._task, self._held())
        return tuple(sorted(found, key=lambda task: (task.issued_at_s, task.task_id)))

    def seen(self) -> set[bytes]:
        """Ids of all tasks that were taken on and have not expired since."""
        held = (name.removeprefix(ask.task_record("")) for name in self._held())
        return {bytes.fromhex(name) for name in (*held, *self._seen())}

    def accept(self, signed: SignedTask, task: Task, now_s: float) -> None:
        """Take a task on. Its signature must have been checked."""
        self._vault.put(ask.task_record(task.task_id.hex()), signed.SerializeToString())
        self._note(task, now_s)

    def update(self, task: Task) -> UpdateHeader | None:
        """The header of a task's update, if it was trained."""
        data = self._vault.get(ask.update_record(task.task_id.hex()))
        return None if data is None else UpdateHeader.FromString(data)

    def pieces(self, task: Task, offset_bytes: int, most_bytes: int) -> Iterator[bytes]:
        """The update's blob from `offset_bytes` on, in pieces of at most `most_bytes`."""
        skip = offset_bytes % CHUNK_BYTES
        name = ask.blob_record(task.task_id.hex())
        for chunk in self._vault.chunks(name, offset_bytes - skip):
            for start in range(skip, len(chunk), most_bytes):
                yield chunk[start : start + most_bytes]
            skip = 0

    def decline(self, task: Task, request: DeclineRequest) -> None:
        """There will be no update for this task, and what was made for one is of no use any more."""
        self._vault.put(ask.decline_record(task.task_id.hex()), request.SerializeToString())
        self.sweep()

    def declined(self, task: Task) -> DeclineRequest | None:
        """What is to be sent instead of an update."""
        data = self._vault.get(ask.decline_record(task.task_id.hex()))
        return None if data is None else DeclineRequest.FromString(data)

    def received(self, task: Task, now_s: float) -> None:
        """The update has arrived: what its compression lost is owed from now on."""
        name = task.task_id.hex()
        if ask.lost_record(name) in self._vault:
            self._vault.put(ask.owed_record(task.workload_digest.hex()), name.encode())
        self.forget(task, now_s)

    def forget(self, task: Task, now_s: float) -> None:
        """The task is over; only its id is kept, for as long as it could come again."""
        self._note(task, now_s)
        self._vault.remove(ask.task_record(task.task_id.hex()))
        self.sweep()

    def sweep(self) -> None:
        """Remove what no task needs any more, also what a process left that ended halfway."""
        vault, needed = self._vault, set()
        for task in self.tasks():
            name = task.task_id.hex()
            needed |= {ask.envelope_record(name), ask.decline_record(name)}
            if ask.decline_record(name) not in vault:
                needed |= {ask.update_record(name), ask.blob_record(name), ask.lost_record(name)}
                needed.add(ask.model_record(task.model.digest.hex()))
        for owed in vault.names(ask.owed_record("")):
            needed.add(ask.lost_record((vault.get(owed) or b"").decode()))
        for kind in _OF_TASKS:
            for name in vault.names(kind("")):
                if name not in needed:
                    vault.remove(name)

    def _task(self, record: str) -> Task:
        data = self._vault.get(record) or b""
        return decode_task(SignedTask.FromString(data).task)

    def _held(self) -> tuple[str, ...]:
        return self._vault.names(ask.task_record(""))

    def _seen(self) -> dict[str, float]:
        data = self._vault.get(SEEN)
        found: dict[str, float] = {} if data is None else json.loads(data)
        return found

    def _note(self, task: Task, now_s: float) -> None:
        """Ids of tasks that have expired are dropped: an expired task is refused for that."""
        before = self._seen()
        seen = {name: until_s for name, until_s in before.items() if until_s >= now_s}
        seen[task.task_id.hex()] = task.expires_at_s
        if seen != before:
            self._vault.put(SEEN, json.dumps(seen).encode())
