"""A device that takes part: it waits, trains when its owner allows it, and never loses what it has trained.

Three things go on side by side: the connection is kept up, one task after the other is done, and the facts
are watched. Work goes on without a connection as far as it can. Everything that must survive is in the vault.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any, TypeVar

from client.outbox import DETAIL_BYTES, failure
from protos.device_pb2 import Capabilities, DeclineReason, DeclineRequest, Notice, SignedTask
from protos.tasks import Task, decode_task
from scheduler.errors import (
    BadMessage,
    ConnectionLost,
    DamagedState,
    StateError,
    TurnedAway,
    Untrusted,
)

from .ask import Described, Failed, Fault, Message, Owner, Train, Trained
from .contact import FATAL, Contact, Talk
from .fabric import Fabric, Wire
from .facts import Sources
from .ledger import Ledger
from .policy import Policy
from .standing import capabilities
from .transfer import fetch_model, send_update
from .vault import Vault
from .watch import Pace, Watch
from .worker import ChildDied, Worker

log = logging.getLogger("fedpoet.device")

Done = TypeVar("Done")
_LEAVE_S = 2.0
_FAULTS = {
    Fault.INFEASIBLE: DeclineReason.DECLINE_REASON_INFEASIBLE,
    Fault.FAILED: DeclineReason.DECLINE_REASON_FAILED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Joining:
    """What a device joins with. `workloads` has, by description, the owner's word for what it can train.

    Larger models than `most_model_bytes` are declined.
    """

    owner: Owner
    policy: Policy
    workloads: Mapping[Described, str]
    pace: Pace = field(default_factory=Pace)
    most_model_bytes: int = 2**31


class Member:
    """Runs until it is cancelled, or the coordinator turns this device away (TurnedAway)."""

    def __init__(
        self,
        joining: Joining,
        fabric: Fabric,
        vault: Vault,
        worker: Worker,
        sources: Sources,
        *,
        generator: Random,
        now_s: Callable[[], float],
    ) -> None:
        self._joining, self._fabric, self._vault = joining, fabric, vault
        self._worker, self._sources, self._now_s = worker, sources, now_s
        self._ledger = Ledger(vault)
        talk = Talk(held=self._held, hear=self._hear, capabilities=self._capabilities)
        self._contact = Contact(fabric.connect, talk, generator)
        self._watch = Watch(
            joining.policy,
            sources,
            joining.pace,
            clock=asyncio.get_running_loop().time,
            on_change=self._contact.report_soon,
        )
        self._arrived = asyncio.Event()
        self._current: tuple[bytes, asyncio.Event] | None = None

    async def run(self) -> None:
        """Take part."""
        self._ledger.sweep()
        await self._watch.look()
        try:
            async with asyncio.TaskGroup() as group:
                for part in (self._contact.run, self._watch.run, self._do_tasks):
                    group.create_task(part())
        except BaseExceptionGroup as several:
            raise _first(several) from several
        finally:
            await self._worker.stop()

    async def leave(self) -> None:
        """Tell the coordinator that the device goes, if it can be told at once."""
        with contextlib.suppress(ConnectionLost, TurnedAway):
            async with self._fabric.connect() as wire:
                await wire.leave(_LEAVE_S)

    # What is said and heard.

    def _held(self) -> list[bytes]:
        return [task.task_id for task in self._ledger.tasks()]

    def _capabilities(self) -> Capabilities:
        assert self._watch.standing is not None  # noqa: S101 (`run` looks before it connects)
        joining, free_ram = self._joining, self._sources.free_ram().value or 0
        known = tuple(joining.workloads)
        return capabilities(self._watch.standing, joining.owner, known, free_ram)

    async def _hear(self, wire: Wire, notice: Notice) -> None:
        match notice.WhichOneof("notice"):
            case "task":
                await self._take_on(wire, notice.task)
            case "withdrawn":
                self._withdraw(notice.withdrawn.task_id)
            case "keep_alive":
                task_id = self._current[0] if self._current else b""
                if not await wire.heartbeat(task_id) and task_id:
                    self._withdraw(task_id)

    async def _take_on(self, wire: Wire, signed: SignedTask) -> None:
        """Checked before anything else is done with it. What does not hold is declined, unless known."""
        seen = self._ledger.seen()
        try:
            task = self._fabric.opened(signed, seen)
        except (Untrusted, BadMessage) as error:
            log.warning("a task is refused: %s", error)
            with contextlib.suppress(BadMessage, TurnedAway):
                if (task_id := decode_task(signed.task).task_id) not in seen:
                    await wire.decline(_declining(task_id, DeclineReason.DECLINE_REASON_BAD_TASK))
            return
        self._ledger.accept(signed, task, self._now_s())
        self._arrived.set()

    def _withdraw(self, task_id: bytes) -> None:
        if self._current is not None and self._current[0] == task_id:
            self._current[1].set()
            return
        for task in self._ledger.tasks():
            if task.task_id == task_id:
                self._ledger.forget(task, self._now_s())

    # What is done.

    async def _do_tasks(self) -> None:
        while True:
            self._arrived.clear()
            for task in self._ledger.tasks()[:1]:
                await self._do(task)
                break
            else:
                await self._arrived.wait()

    async def _do(self, task: Task) -> None:
        """One task until it is over: its update or decline has arrived, or nobody wants that any more."""
        left_s, withdrawn = task.expires_at_s - self._now_s(), asyncio.Event()
        self._current = (task.task_id, withdrawn)
        try:
            done = await _unless(self._finish(task), withdrawn.wait(), left_s)
            if done is None:
                log.info("task %s is withdrawn or expired", task.task_id.hex())
                self._ledger.forget(task, self._now_s())
        except TurnedAway as error:
            if error.reason in FATAL:
                raise
            log.warning("task %s is over: %s", task.task_id.hex(), error)
            self._ledger.forget(task, self._now_s())
        finally:
            self._current = None

    async def _finish(self, task: Task) -> bool:
        declined = self._ledger.declined(task)
        if declined is None and self._ledger.update(task) is None:
            log.info(
                "round %d of %s: task %s", task.round_number, task.workload, task.task_id.hex()
            )
            declined = await self._make_update(task)
            if declined is not None:
                self._ledger.decline(task, declined)
        if declined is not None:
            log.info("task %s is declined: %s", task.task_id.hex(), _word(declined))
            await self._contact.attempt(lambda wire: wire.decline(declined))
            self._ledger.forget(task, self._now_s())
        elif (header := self._ledger.update(task)) is None:
            raise DamagedState(f"{self._vault.folder} lacks the update that was put there")
        else:
            await self._watch.until_free_of_charge()
            await self._contact.attempt(lambda wire: send_update(wire, self._ledger, task, header))
            self._ledger.received(task, self._now_s())
            log.info("the update of task %s has arrived", task.task_id.hex())
        return True

    async def _make_update(self, task: Task) -> DeclineRequest | None:
        """None with the update in the vault, or why there is none."""
        known = Described(name=task.workload, digest=task.workload_digest.hex())
        if task.kind != "train" or known not in self._joining.workloads:
            return _declining(task.task_id, DeclineReason.DECLINE_REASON_UNKNOWN_WORKLOAD)
        if task.model.size_bytes > self._joining.most_model_bytes:
            return _declining(task.task_id, DeclineReason.DECLINE_REASON_INFEASIBLE)
        workload = self._joining.workloads[known]
        try:
            answer = await _unless(self._train(task, workload), self._watch.until_forbidden())
        except (ChildDied, StateError) as error:
            log.warning("%s", error)
            answer = Failed(fault=Fault.FAILED, detail=failure(error))
        match answer:
            case Trained():
                return None
            case Failed():
                return _declining(task.task_id, _FAULTS[answer.fault], answer.detail)
        return _declining(task.task_id, DeclineReason.DECLINE_REASON_POLICY)

    async def _train(self, task: Task, workload: str) -> Message:
        await self._contact.attempt(lambda wire: fetch_model(wire, self._vault, task))
        return await self._worker.ask(Train(task=task.task_id.hex(), workload=workload))


async def _unless(
    work: Coroutine[Any, Any, Done],
    stop: Coroutine[Any, Any, object],
    within_s: float | None = None,
) -> Done | None:
    """What the work returns; None if `stop` returns first or time is up. Both are over then."""
    working, stopping = asyncio.ensure_future(work), asyncio.ensure_future(stop)
    both = (working, stopping)
    try:
        await asyncio.wait(both, timeout=within_s, return_when=asyncio.FIRST_COMPLETED)
        if stopping.done() and not working.done():
            stopping.result()
        return working.result() if working.done() else None
    finally:
        for each in both:
            each.cancel()
        await asyncio.gather(*both, return_exceptions=True)


def _declining(task_id: bytes, reason: DeclineReason, detail: str = "") -> DeclineRequest:
    short = detail.encode()[:DETAIL_BYTES].decode(errors="ignore")
    return DeclineRequest(task_id=task_id, reason=reason, detail=short)


def _word(declined: DeclineRequest) -> str:
    name = DeclineReason.Name(declined.reason)
    return name.removeprefix("DECLINE_REASON_").lower().replace("_", "-")


def _first(several: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first error of a group, which may have groups in it."""
    found: BaseException = several
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found
