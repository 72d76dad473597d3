"""Any backend in a process of its own, so that whatever happens to the solver, the planner goes on.

A crash, a kill, a hang past the time limit or Ctrl-C ends that process alone. What the solver had
reported until then, its best solution and its bound, is the outcome.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from queue import Empty, SimpleQueue
from tempfile import TemporaryDirectory
from threading import Thread
from typing import IO, TypeAlias, cast

from .base import Backend, Outcome, Report, Verdict
from .child import FOLDER_PREFIX, Answer, Task
from .program import Floats, Program

# The child imports from where its parent does, be that an installation, a checkout or an app bundle.
_BOOTSTRAP = (
    "import sys; sys.path[:] = sys.argv[1:]; from scheduler.backends.child import main; main()"
)
_NOTHING = Outcome(verdict=Verdict.UNKNOWN, bound=None)

_Child: TypeAlias = "subprocess.Popen[bytes]"
# What the child sends, and None when it will send no more.
_News: TypeAlias = "SimpleQueue[Outcome | Answer | None]"


@dataclass(frozen=True, slots=True)
class Isolated:
    """`grace_s` is how long past its time limit a solver may take to say what it found.

    With `log`, what the solver prints goes to standard error; it is dropped otherwise.
    """

    backend: Backend
    grace_s: float = field(default=2.0, kw_only=True)
    log: bool = field(default=False, kw_only=True)

    @property
    def name(self) -> str:
        """Name and version of the solver."""
        return self.backend.name

    def run(
        self,
        program: Program,
        *,
        start: Floats | None,
        time_limit_s: float,
        gap: float,
        relaxed: bool = False,
        report: Report | None = None,
    ) -> Outcome:
        """Minimize the program; starting the process counts towards the time limit."""
        end_s = time.monotonic() + time_limit_s
        pickle.dumps(
            self.backend
        )  # a backend that cannot travel is the caller's mistake: raise it here

        def task() -> Task:
            return Task(
                backend=self.backend,
                program=program,
                start=start,
                time_limit_s=max(end_s - time.monotonic(), 0.1),
                gap=gap,
                relaxed=relaxed,
            )

        # Solvers that PuLP talks to through files would leave them behind when they are killed.
        with TemporaryDirectory(prefix=FOLDER_PREFIX) as folder:
            try:
                child = self._started(folder)
            except OSError as error:
                why = f"the solver's process could not be started: {error}"
                return replace(_NOTHING, cut_short=why)
            return _watched(child, task, end_s + self.grace_s, report)

    def _started(self, folder: str) -> _Child:
        return subprocess.Popen(
            [sys.executable, "-c", _BOOTSTRAP, *sys.path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None if self.log else subprocess.DEVNULL,
            env={**os.environ, "TMPDIR": folder, "TMP": folder, "TEMP": folder},
            start_new_session=True,  # Ctrl-C reaches the parent only
        )


def _watched(
    child: _Child, task: Callable[[], Task], end_s: float, report: Report | None
) -> Outcome:
    """What the child says until it answers, ends, or is ended by time or by Ctrl-C."""
    news: _News = SimpleQueue()
    talk = Thread(target=_talk, args=(child, task, news), daemon=True)
    heard = _Heard(news)
    cut_short, interrupted = None, False
    try:
        talk.start()
        heard.listen(end_s, report)
    except Empty:
        cut_short = "the solver did not end at its time limit"
    except KeyboardInterrupt:
        cut_short, interrupted = "interrupted", True
    finally:
        _end(child, talk)
    heard.rest()
    if cut_short is None and not heard.answered:
        cut_short = _how_it_ended(child.returncode)
    if cut_short is None:
        return heard.known
    return replace(heard.known, cut_short=cut_short, interrupted=interrupted)


class _Heard:
    """What the child has said so far."""

    def __init__(self, news: _News) -> None:
        self.known = _NOTHING
        self.answered = False
        self._news = news

    def listen(self, end_s: float, report: Report | None) -> None:
        """Until the child has answered or will say no more. Raises Empty at `end_s`."""
        while not self.answered:
            message = self._news.get(timeout=max(end_s - time.monotonic(), 0.0))
            if message is None:
                return
            self._hear(message)
            if report is not None and isinstance(message, Outcome):
                report(message)

    def rest(self) -> None:
        """What was on its way when the child was ended."""
        while not self._news.empty():
            if (message := self._news.get()) is not None:
                self._hear(message)

    def _hear(self, message: Outcome | Answer) -> None:
        self.answered = isinstance(message, Answer)
        found = message.outcome if isinstance(message, Answer) else message
        self.known = self.known.joined(found)


def _talk(child: _Child, task: Callable[[], Task], news: _News) -> None:
    """All that may block on the child, in a thread: a child that hangs must not hold up its parent."""
    questions, answers = cast("IO[bytes]", child.stdin), cast("IO[bytes]", child.stdout)
    with suppress(OSError, EOFError, pickle.UnpicklingError):
        pickle.load(answers)  # noqa: S301 (our own process; says that it is there)
        pickle.dump(task(), questions)
        questions.flush()
        while True:
            news.put(pickle.load(answers))  # noqa: S301 (our own process)
    news.put(None)


def _end(child: _Child, talk: Thread) -> None:
    """End the child with all that it started, and give back what talking to it took."""
    with suppress(ProcessLookupError):
        if os.name == "posix":
            os.killpg(
                child.pid, signal.SIGKILL
            )  # before the wait, while the id is still the child's
        else:
            child.kill()
    talk.join()
    with suppress(BrokenPipeError), child:
        pass


def _how_it_ended(code: int) -> str:
    if code >= 0:
        return f"the solver's process ended with exit code {code}"
    killed = " (out of memory, perhaps)" if -code == signal.SIGKILL else ""
    return f"the solver's process was ended by {signal.Signals(-code).name}{killed}"
