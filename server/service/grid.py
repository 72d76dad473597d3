"""The device service as a Flower Grid: messages become tasks, stored updates become replies."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any

from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.app.error import Error
from flwr.app.message import make_message
from flwr.app.metadata import Metadata
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode
from flwr.supercore.task_identity import TaskIdentity

from protos.arrays import write_arrays
from protos.blobs import Blob
from protos.compression import each_update_array
from protos.device_pb2 import Capabilities
from protos.tasks import TASK_ID_BYTES, Task, encode_task, sign_task
from protos.values import from_numbers
from scheduler.errors import BadInput, BadMessage
from server.grid import OwnGrid
from server.reports import Reports, Said, reports_of

from .host import ServiceHost
from .taskbook import Entry, NewTask, State

TASK_ID = 1  # Flower's, of which a coordinator has one
MOST_S = threading.TIMEOUT_MAX


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A message under way or answered, and not forgotten. `group_id` is Flower's: the round's number."""

    message_id: str
    node: int
    group_id: str
    asked_s: float


class ServiceGrid(OwnGrid):
    """What the round engine talks to when devices come over the device service.

    A message's id is its task's. Tasks and updates are in the host's store, so that a process that is
    killed finds them there again: `asked` lists them, and replies can be pulled again until `forget`.
    `workload_digest` is that of protos.tasks. `plan_hints` gives a device's plan, or nothing.
    `random_bytes` draws ids of tasks. Used by one thread.
    """

    def __init__(
        self,
        host: ServiceHost,
        *,
        run_id: int,
        workload: str,
        workload_digest: bytes,
        random_bytes: Callable[[int], bytes],
        plan_hints: Callable[[int], bytes] = lambda _: b"",
    ) -> None:
        self._host, self._store, self._run_id = host, host.store, run_id
        self._workload, self._workload_digest = workload, workload_digest
        self._random_bytes, self._plan_hints = random_bytes, plan_hints
        self._changed = threading.Condition()
        self._expires_s: dict[bytes, float] = {}  # of tasks without a reply that was pulled
        self._answered: set[bytes] = set()  # those of them that have ended
        _be_somebody(run_id)
        host.on_change(self._note)
        for kept in self._store.tasks.kept():
            self._expires_s[kept.id] = kept.expires_at_s
            if kept.state != State.OPEN:
                self._note([kept.id])

    def get_node_ids(self) -> Iterable[int]:
        """Ids of the devices that wait for work now, in ascending order."""
        return list(self._host.presence.there())

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Make a task of each message; all are on disk when this returns. Raises BadInput."""
        models: dict[int, Blob] = {}  # strategies put one record into all messages
        new: list[NewTask] = []
        for message in messages:
            record = _only(message.content.array_records, "array record")
            if id(record) not in models:
                models[id(record)] = self._keep(record)
            new.append(self._task(message, models[id(record)]))
        expires_s = {n.task.task_id: n.task.expires_at_s for n in new}
        with self._changed:  # first: an answer may come before the next line is done
            self._expires_s |= expires_s
        try:
            self._store.tasks.push(new)
        except BaseException:
            self._drop(expires_s)
            raise
        self._host.tell(n.task.device_id for n in new)
        return [n.task.task_id.hex() for n in new]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Replies that have come, each once; an error for a task that was declined or has expired.

        Each update is read from the disk when it is its turn, so that never two are in RAM.
        """
        now_s, ids = self._host.now_s(), {bytes.fromhex(i) for i in message_ids}
        with self._changed:
            answered = self._answered & ids
            due = {t for t in ids - answered if self._expires_s.get(t, now_s) < now_s}
        self._withdraw(due)  # before they are read, so that no update is taken for late and lost
        self._drop(answered | due)
        return map(self._reply, self._store.tasks.entries(answered | due))

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Push, and pull until all replies are there or `timeout` seconds have passed."""
        until_s = time.monotonic() + (MOST_S if timeout is None else timeout)
        missing = set(self.push_messages(messages))
        replies: list[Message] = []
        while True:
            found = list(self.pull_messages(missing))
            replies += found
            missing -= {m.metadata.reply_to_message_id for m in found}
            left_s = until_s - time.monotonic()
            if not missing or left_s <= 0:
                return replies
            self.wait(left_s, len(missing))

    def wait(self, seconds: float, replies: int) -> None:
        """Until so many replies can be pulled or a task expires, at most so long."""
        with self._changed:
            now_s = self._host.now_s()
            lives_s = [at_s - now_s for at_s in self._expires_s.values() if at_s > now_s]
            seconds = min([seconds, *lives_s])
            self._changed.wait_for(
                lambda: len(self._answered) >= replies, timeout=min(max(0.0, seconds), MOST_S)
            )

    def reports(self) -> Reports:
        """What the devices that wait for work said of themselves last."""
        return reports_of(
            {
                device_id: Said(
                    charging=said.charging,
                    idle=said.idle,
                    unmetered=said.unmetered,
                    battery=said.battery if said.HasField("battery") else 1.0,
                    free_ram_bytes=min(
                        said.free_ram_bytes, said.ram_budget_bytes or said.free_ram_bytes
                    ),
                    can_train=self._can_train(said),
                )
                for device_id, said in self._host.presence.there().items()
            }
        )

    def asked(self) -> tuple[Asked, ...]:
        """All messages that were pushed and not forgotten, by this process or one before it."""
        return tuple(
            Asked(
                message_id=kept.id.hex(),
                node=kept.device_id,
                group_id=kept.group_id,
                asked_s=kept.issued_at_s,
            )
            for kept in self._store.tasks.kept()
        )

    def withdraw(self, message_ids: Collection[str]) -> None:
        """No replies are wanted any more for those of these messages that have none; devices are told."""
        ids = {bytes.fromhex(i) for i in message_ids}
        self._withdraw(ids)
        self._drop(ids)

    def forget(self, message_ids: Collection[str]) -> None:
        """These messages are dealt with for good: open ones are withdrawn, updates and models deleted."""
        ids, now_s = {bytes.fromhex(i) for i in message_ids}, self._host.now_s()
        self.withdraw(message_ids)
        self._store.tasks.forget(ids, now_s)
        for task_id in ids:
            self._store.blobs.drop_update(task_id)
        self._store.tasks.prune(now_s)
        self._store.blobs.keep_models(self._store.tasks.models_needed())

    def _withdraw(self, ids: Collection[bytes]) -> None:
        if ids:
            self._store.tasks.withdraw(ids, self._host.now_s())
            self._host.tell(e.task.device_id for e in self._store.tasks.entries(ids))

    def _drop(self, ids: Iterable[bytes]) -> None:
        """Have `wait` and `pull_messages` look for these no more."""
        with self._changed:
            for task_id in ids:
                self._expires_s.pop(task_id, None)
                self._answered.discard(task_id)

    def _note(self, ended: Collection[bytes]) -> None:
        with self._changed:
            self._answered |= set(ended) & self._expires_s.keys()
            self._changed.notify_all()

    def _can_train(self, said: Capabilities) -> bool:
        known = (self._workload, self._workload_digest)
        return said.ready and any((w.name, w.digest) == known for w in said.workloads)

    def _keep(self, record: ArrayRecord) -> Blob:
        arrays = {name: array.numpy() for name, array in record.items()}
        return self._store.blobs.add_model(lambda path: write_arrays(arrays, path))

    def _task(self, message: Message, model: Blob) -> NewTask:
        node = message.metadata.dst_node_id
        config = _only(message.content.config_records, "config record")
        number = config.get("server-round", 0)
        if not isinstance(number, int):
            raise BadInput(f"server-round is {number!r}; it must be a whole number")
        now_s, keys = self._host.now_s(), self._host.keys.tasks
        task = Task(
            task_id=self._random_bytes(TASK_ID_BYTES),
            device_id=node,
            run_id=self._run_id,
            kind=message.metadata.message_type,
            round_number=number,
            workload=self._workload,
            workload_digest=self._workload_digest,
            config=dict(config),
            model=model,
            plan_hints=self._plan_hints(node),
            issued_at_s=now_s,
            expires_at_s=now_s + message.metadata.ttl,
        )
        signed = sign_task(encode_task(task), keys.key, keys.certificate)
        return NewTask(task=task, signed=signed, group_id=message.metadata.group_id)

    def _reply(self, entry: Entry) -> Message:
        if entry.state is State.DONE:
            try:
                return make_message(_metadata(entry), content=self._content(entry))
            except (BadMessage, OSError) as problem:
                reason = f"the stored update cannot be read: {problem}"
        else:
            reason = entry.reason or "no update came before the task expired"
        error = Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason)
        return make_message(_metadata(entry), error=error)

    def _content(self, entry: Entry) -> RecordDict:
        arrays = ArrayRecord()
        blobs, task = self._store.blobs, entry.task
        update, model = blobs.update(task.task_id), blobs.model(task.model.digest)
        for name, array in each_update_array(update, model):
            arrays[name] = Array(array)
        metrics = from_numbers(entry.header.metrics) if entry.header else {}
        return RecordDict({"arrays": arrays, "metrics": MetricRecord(dict(metrics))})


def _be_somebody(run_id: int) -> None:
    """Flower's messages name the task that makes them; within a ServerApp, Flower has said which."""
    try:
        _ = TaskIdentity.task_id
    except RuntimeError:
        TaskIdentity.task_id, TaskIdentity.run_id = TASK_ID, run_id
        TaskIdentity.node_id = SUPERLINK_NODE_ID


def _metadata(entry: Entry) -> Metadata:
    task = entry.task
    created_s = task.issued_at_s if entry.ended_at_s is None else entry.ended_at_s
    message_id = task.task_id.hex()
    return Metadata(
        run_id=task.run_id,
        message_id=f"{message_id}-reply",
        src_node_id=task.device_id,
        dst_node_id=SUPERLINK_NODE_ID,
        reply_to_message_id=message_id,
        group_id=entry.group_id,
        created_at=created_s,
        ttl=max(task.expires_at_s - created_s, 1.0),
        message_type=task.kind,
    )


def _only(records: Any, what: str) -> Any:
    if len(records) != 1:
        raise BadInput(f"a message to a device has one {what}, not {len(records)}")
    (record,) = records.values()
    return record
