"""The process that trains: it has torch, and ends when the waiting process ends or wants its memory back.

It reads the task and the model from the vault and writes the sealed update there. What it prints goes to
standard error.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import signal
import sys
import threading
import time
from pathlib import Path
from queue import SimpleQueue
from typing import BinaryIO, NoReturn

from client.asked import settings_from
from client.meter import find_meter
from client.node import Node, PreparedSteps, Settings
from client.outbox import Update, failure
from client.profile import profile_machine
from client.state import initial_arrays
from client.workload import Workload, load_workload
from protos.arrays import Arrays, decode_arrays, encode_arrays, forms
from protos.codec import decode_plan, encode_plan
from protos.compression import compress, parse_compression
from protos.device_pb2 import SignedTask, UpdateHeader
from protos.tasks import Task, decode_task, workload_digest
from protos.values import to_numbers
from scheduler import Plan
from scheduler.device import dump_device
from scheduler.errors import BadFile, DamagedState, Infeasible, NoPlanInTime
from scheduler.files import write_atomically

from . import ask
from .ask import (
    Describe,
    Described,
    Failed,
    Fault,
    Measure,
    Measured,
    Owner,
    Train,
    Trained,
)
from .vault import Vault

_log = logging.getLogger("fedpoet.child")


class Stopped(BaseException):
    """The waiting process wants the training to end; what holds the device's memory is let go on the way."""


class Apprentice:
    """Does what the waiting process asks for. Steps prepared once serve all later tasks of this process."""

    def __init__(self, vault: Vault, owner: Owner) -> None:
        self._vault, self._owner = vault, owner
        self._prepared: PreparedSteps = {}
        self._load = functools.cache(load_workload)

    def answer(self, message: ask.Message) -> ask.Message:
        """The answer; Failed with what may be said for every error, whose text goes to the log."""
        try:
            match message:
                case Describe():
                    return self._describe(message)
                case Measure():
                    return self._measure(message)
                case Train():
                    return self._train(message)
        except Exception as error:  # noqa: BLE001 (whatever training does, the parent gets an answer)
            _log.exception("%s", type(message).__name__)
            small = isinstance(error, Infeasible | NoPlanInTime)
            fault = Fault.INFEASIBLE if small else Fault.FAILED
            return Failed(fault=fault, detail=failure(error))
        raise ValueError(f"a {type(message).__name__} is no question")

    def _describe(self, message: Describe) -> Described:
        workload = self._load(message.workload)
        return Described(name=workload.name, digest=_digest(workload).hex())

    def _measure(self, message: Measure) -> Measured:
        out = Path(message.out)
        device = profile_machine(
            name=out.stem,
            store_folder=self._pages(),
            today=time.strftime("%Y-%m-%d"),
            meter=find_meter(),
        )
        write_atomically(out, dump_device(device).encode())
        return Measured(out=message.out)

    def _train(self, message: Train) -> Trained:
        task = self._task(message.task)
        model = self._kept(ask.model_record(task.model.digest.hex()))
        arrays = decode_arrays(model)
        node = Node(self._settings(task, message.workload), self._prepared, self._load)
        plan = self._prepare(node, task)
        began_s = time.monotonic()
        update = node.train(arrays, int(str(task.config.get("server-round", task.round_number))))
        _log.info("task %s trained in %.3f s", message.task, time.monotonic() - began_s)
        blob = self._blob(update, arrays, task)
        header = UpdateHeader(
            task_id=task.task_id,
            digest=hashlib.sha256(blob).digest(),
            size_bytes=len(blob),
            metrics=to_numbers(update.metrics),
            model_digest=hashlib.sha256(model).digest(),
            plan_digest=hashlib.sha256(task.plan_hints).digest() if _is(plan, task) else b"",
        )
        self._vault.put(ask.blob_record(message.task), blob)
        self._vault.put(ask.update_record(message.task), header.SerializeToString())
        return Trained(task=message.task)

    def _task(self, name: str) -> Task:
        """The task; the waiting process checked its signature before it put it there."""
        return decode_task(SignedTask.FromString(self._kept(ask.task_record(name))).task)

    def _kept(self, name: str) -> bytes:
        if (data := self._vault.get(name)) is None:
            raise DamagedState(f"{self._vault.folder} has no {name}")
        return data

    def _settings(self, task: Task, workload: str) -> Settings:
        node = {
            "workload": workload,
            "device": self._owner.device,
            "ram-bytes": self._owner.ram_bytes or 0,
            "partition-id": self._owner.partition,
            "page-dir": str(self._pages()),
        }
        return settings_from(task.config, node)

    def _pages(self) -> Path:
        folder = self._vault.folder / "pages"
        folder.mkdir(mode=0o700, exist_ok=True)
        return folder

    def _prepare(self, node: Node, task: Task) -> bytes:
        """The plan, encoded.

        One from before, or the coordinator's hint, saves solving, where it passes `check` here.
        """
        record = ask.plan_record(task.workload_digest.hex())
        kept = self._vault.get(record)
        prepared = node.prepare(_plan(kept) or _plan(task.plan_hints))
        if (data := encode_plan(prepared.solution.plan)) != kept:
            self._vault.put(record, data)
        return data

    def _blob(self, update: Update, base: Arrays, task: Task) -> bytes:
        asked = self._owner.compression or str(task.config.get("compression", ""))
        if (how := parse_compression(asked)) is None:
            return encode_arrays(update.arrays)
        owed = self._vault.get(ask.owed_record(task.workload_digest.hex()))
        before = None if owed is None else self._vault.get(ask.lost_record(owed.decode()))
        sent, lost = compress(
            update.arrays, base, {} if before is None else decode_arrays(before), how
        )
        self._vault.put(ask.lost_record(task.task_id.hex()), encode_arrays(lost))
        return encode_arrays(sent)


def _digest(workload: Workload) -> bytes:
    return workload_digest(workload.name, forms(initial_arrays(workload, seed=0)))


def _is(plan: bytes, task: Task) -> bool:
    """Whether a plan, encoded, is the one that came with the task."""
    hinted = _plan(task.plan_hints)
    return hinted is not None and encode_plan(hinted) == plan


def _plan(data: bytes | None) -> Plan | None:
    try:
        return decode_plan(data) if data else None
    except BadFile:
        return None


def main() -> None:
    """Answer one question after another, until the parent ends or says so."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what Ctrl-C means
    signal.signal(signal.SIGTERM, _stop)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a workload prints must not get between the answers
    try:
        import torch

        torch.set_num_threads(1)  # the order of summation, and so the last digit, depends on it
        questions: SimpleQueue[ask.Message] = SimpleQueue()
        threading.Thread(target=_read, args=(sys.stdin.buffer, questions), daemon=True).start()
        owner = questions.get()
        if not isinstance(owner, Owner):
            raise TypeError(f"the first message is a {type(owner).__name__}, not the owner's")
        apprentice = Apprentice(Vault(Path(sys.argv[1])), owner)
        while True:
            answers.write(ask.to_line(apprentice.answer(questions.get())))
            answers.flush()
    except Stopped:
        os._exit(0)


def _read(questions: BinaryIO, into: SimpleQueue[ask.Message]) -> None:
    """Hand on each question; once there can be no more, nobody waits for an answer: end at once."""
    try:
        for line in questions:
            into.put(ask.from_line(line))
    finally:
        os._exit(0)


def _stop(*_: object) -> NoReturn:
    raise Stopped


if __name__ == "__main__":
    main()
