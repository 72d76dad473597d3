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
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
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
        with self.opened() as session:
            return session.run(
                program,
                start=start,
                time_limit_s=time_limit_s,
                gap=gap,
                relaxed=relaxed,
                report=report,
            )

    @contextmanager
    def opened(self) -> Iterator[Backend]:
        """The same for several runs in a row, which share a process as long as nothing happens to it."""
        session = _Session(self)
        try:
            yield session
        finally:
            session.close()


class _Session:
    """An Isolated with the process that it has, if it has one."""

    def __init__(self, isolated: Isolated) -> None:
        self._isolated = isolated
        self._process: _Process | None = None

    @property
    def name(self) -> str:
        return self._isolated.name

    def close(self) -> None:
        if self._process is not None:
            self._process.end()
            self._process = None

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
        end_s = time.monotonic() + time_limit_s
        backend = self._isolated.backend
        pickle.dumps(backend)  # a backend that cannot travel is the caller's mistake: raise it here

        def task() -> Task:
            return Task(
                backend=backend,
                program=program,
                start=start,
                time_limit_s=max(end_s - time.monotonic(), 0.1),
                gap=gap,
                relaxed=relaxed,
            )

        try:
            process = self._process = self._process or _Process(log=self._isolated.log)
        except OSError as error:
            why = f"the solver's process could not be started: {error}"
            return replace(_NOTHING, cut_short=why)
        whole = False
        try:
            outcome = process.do(task, end_s + self._isolated.grace_s, report)
            whole = outcome.cut_short is None
        finally:
            if not whole:
                self.close()  # the next run gets a process of its own
        return outcome


class _Process:
    """The process and the folder for its temporary files. Raises OSError if it cannot be started."""

    def __init__(self, *, log: bool) -> None:
        # Solvers that PuLP talks to through files would leave them behind when they are killed.
        self._folder = TemporaryDirectory(prefix=FOLDER_PREFIX)
        place = dict.fromkeys(("TMPDIR", "TMP", "TEMP"), self._folder.name)
        try:
            self._child = subprocess.Popen(
                [sys.executable, "-c", _BOOTSTRAP, *sys.path],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=None if log else subprocess.DEVNULL,
                env={**os.environ, **place},
                start_new_session=True,  # Ctrl-C reaches the parent only
            )
        except OSError:
            self._folder.cleanup()
            raise

    def do(self, task: Callable[[], Task], end_s: float, report: Report | None) -> Outcome:
        """What the process says until it answers, ends, or is ended by time or by Ctrl-C."""
        heard = _Heard()
        talk = Thread(target=self._talk, args=(task, heard.news), daemon=True)
        cut_short, interrupted = None, False
        try:
            talk.start()
            heard.listen(end_s, report)
        except Empty:
            cut_short = "the solver did not end at its time limit"
        except KeyboardInterrupt:
            cut_short, interrupted = "interrupted", True
        finally:
            if not heard.answered:
                self._kill()
            talk.join()
        heard.rest()
        if cut_short is None and not heard.answered:
            cut_short = _how_it_ended(self._child.wait())
        if cut_short is None:
            return heard.known
        return replace(heard.known, cut_short=cut_short, interrupted=interrupted)

    def end(self) -> None:
        """End the process with all that it started, and give back what it took."""
        if self._child.returncode is None:
            self._kill()
        with suppress(BrokenPipeError), self._child:
            pass
        self._folder.cleanup()

    def _kill(self) -> None:
        """Before any wait, while the id is still the child's."""
        with suppress(ProcessLookupError):
            if os.name == "posix":
                os.killpg(self._child.pid, signal.SIGKILL)
            else:
                self._child.kill()

    def _talk(self, task: Callable[[], Task], news: _News) -> None:
        """All that may block on the child, in a thread: one that hangs must not hold up its parent."""
        questions = cast("IO[bytes]", self._child.stdin)
        answers = cast("IO[bytes]", self._child.stdout)
        with suppress(OSError, EOFError, pickle.UnpicklingError):
            pickle.load(answers)  # noqa: S301 (our own process; says that it is ready)
            pickle.dump(task(), questions)
            questions.flush()
            while not isinstance(message := pickle.load(answers), Answer):  # noqa: S301 (our own)
                news.put(message)
            news.put(message)
            return
        news.put(None)


class _Heard:
    """What the child has said so far; it sends None when it will say no more."""

    def __init__(self) -> None:
        self.news: _News = SimpleQueue()
        self.known = _NOTHING
        self.answered = False

    def listen(self, end_s: float, report: Report | None) -> None:
        """Until the child has answered or will say no more. Raises Empty at `end_s`."""
        while not self.answered:
            message = self.news.get(timeout=max(end_s - time.monotonic(), 0.0))
            if message is None:
                return
            self._hear(message)
            if report is not None and isinstance(message, Outcome):
                report(message)

    def rest(self) -> None:
        """What was on its way when the child was ended."""
        while not self.news.empty():
            if (message := self.news.get()) is not None:
                self._hear(message)

    def _hear(self, message: Outcome | Answer) -> None:
        self.answered = isinstance(message, Answer)
        found = message.outcome if isinstance(message, Answer) else message
        self.known = self.known.joined(found)


def _how_it_ended(code: int) -> str:
    if code >= 0:
        return f"the solver's process ended with exit code {code}"
    killed = " (out of memory, perhaps)" if -code == signal.SIGKILL else ""
    return f"the solver's process was ended by {signal.Signals(-code).name}{killed}"


def opened(backend: Backend) -> AbstractContextManager[Backend]:
    """The backend for several runs in a row: one that is isolated starts its process once."""
    return backend.opened() if isinstance(backend, Isolated) else nullcontext(backend)
