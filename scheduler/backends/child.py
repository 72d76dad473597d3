"""The process in which `Isolated` runs a backend: asked over standard input, answering over standard output.

It says that it is ready, gets a Task, sends an Outcome for each thing found and then an Answer; and again.
"""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import sys
import tempfile
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import BinaryIO, NoReturn

from .base import Backend, Outcome, Verdict
from .program import Floats, Program

READY = "ready"
# Its folder for temporary files has a name that begins so.
FOLDER_PREFIX = "fedpoet-solver-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What the backend is to do; the fields are the arguments of `Backend.run`."""

    backend: Backend
    program: Program
    start: Floats | None
    time_limit_s: float
    gap: float
    relaxed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The last message on a task."""

    outcome: Outcome


def main() -> None:
    """Do one task after another, until the parent ends or wants no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what Ctrl-C means
    _go_first_when_memory_runs_out()
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a solver prints must not get between the answers
    tasks: SimpleQueue[Task | Exception] = SimpleQueue()
    threading.Thread(target=_read, args=(sys.stdin.buffer, tasks), daemon=True).start()
    while True:
        _send(answers, READY)
        _send(answers, Answer(outcome=_done(tasks.get(), answers)))


def _done(task: Task | Exception, answers: BinaryIO) -> Outcome:
    try:
        if isinstance(task, Exception):
            raise task
        return task.backend.run(
            task.program,
            start=task.start,
            time_limit_s=task.time_limit_s,
            gap=task.gap,
            relaxed=task.relaxed,
            report=lambda found: _send(answers, found),
        )
    except Exception as error:  # noqa: BLE001 (whatever a solver does, the parent gets an answer)
        why = f"the solver failed: {type(error).__name__}: {error}"
        return Outcome(verdict=Verdict.UNKNOWN, bound=None, cut_short=why)


def _read(questions: BinaryIO, tasks: SimpleQueue[Task | Exception]) -> None:
    """The parent keeps the pipe open as long as it lives and wants answers."""
    try:
        while True:
            tasks.put(pickle.load(questions))  # noqa: S301 (from the process that started this one)
    except EOFError:
        pass
    except Exception as error:  # noqa: BLE001 (a backend that cannot be imported here fails as it likes)
        tasks.put(error)
        while questions.read(1):
            pass
    finally:
        _end()


def _send(answers: BinaryIO, message: object) -> None:
    try:
        pickle.dump(message, answers)
        answers.flush()
    except BrokenPipeError:
        _end()


def _end() -> NoReturn:
    """At once, with the files and the processes of the solver: there is no parent to see to it."""
    folder = Path(tempfile.gettempdir())
    if folder.name.startswith(FOLDER_PREFIX):
        shutil.rmtree(folder, ignore_errors=True)
    if os.name == "posix" and os.getpgid(0) == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


def _go_first_when_memory_runs_out() -> None:
    """Linux then kills the solver rather than the process that holds the best plan."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
