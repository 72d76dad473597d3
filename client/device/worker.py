"""The child that trains, as the waiting process sees it: started when needed, kept warm, ended in time."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from scheduler.errors import FedpoetError

from . import ask
from .ask import Owner

# A training step notices at once that it has to end, unless one operator alone takes longer than this.
STOP_S = 0.5


class ChildDied(FedpoetError):
    """The process that trains ended before it answered; the system may have needed its memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Child:
    """A running child."""

    process: asyncio.subprocess.Process
    questions: asyncio.StreamWriter
    answers: asyncio.StreamReader


class Worker:
    """Asks the child, one question at a time. A child that has no work for `keep_warm_s` is ended."""

    def __init__(self, folder: Path, owner: Owner, *, keep_warm_s: float) -> None:
        self._folder, self._owner, self._keep_warm_s = folder, owner, keep_warm_s
        self._child: Child | None = None
        self._cooling: asyncio.TimerHandle | None = None
        self._ending: set[asyncio.Task[None]] = set()

    @property
    def pid(self) -> int | None:
        """The child's process id, None when there is no child."""
        return None if self._child is None else self._child.process.pid

    async def ask(self, message: ask.Message) -> ask.Message:
        """The child's answer. Cancelling this stops the child. Raises ChildDied."""
        self._stay_warm()
        try:
            child = self._child = self._child or await self._start()
            child.questions.write(ask.to_line(message))
            with suppress(ConnectionError):
                await child.questions.drain()
            line = await child.answers.readline()
            if not line:
                raise ChildDied(await _how_it_ended(child))
            answer = ask.from_line(line)
        except BaseException:
            await asyncio.shield(self.stop())
            raise
        self._cooling = asyncio.get_running_loop().call_later(self._keep_warm_s, self._cool)
        return answer

    async def stop(self) -> None:
        """End the child with all that it started: told first, killed after STOP_S."""
        self._stay_warm()
        child, self._child = self._child, None
        if child is None:
            return
        _signal(child, signal.SIGTERM)
        try:
            await asyncio.wait_for(child.process.wait(), STOP_S)
        except TimeoutError:
            _signal(child, signal.SIGKILL)
            await child.process.wait()
        child.questions.close()

    async def _start(self) -> Child:
        # Where this process imports from, too, and not from the folder that it happens to run in.
        paths = os.pathsep.join(path for path in sys.path if path)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "client.device.child", str(self._folder)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": paths},
            start_new_session=True,  # Ctrl-C reaches the waiting process only
        )
        assert process.stdin is not None  # noqa: S101 (both are pipes)
        assert process.stdout is not None  # noqa: S101
        process.stdin.write(ask.to_line(self._owner))
        return Child(process=process, questions=process.stdin, answers=process.stdout)

    def _stay_warm(self) -> None:
        if self._cooling is not None:
            self._cooling.cancel()
            self._cooling = None

    def _cool(self) -> None:
        task = asyncio.get_running_loop().create_task(self.stop())
        self._ending.add(task)  # the loop itself holds tasks weakly
        task.add_done_callback(self._ending.discard)


def _signal(child: Child, number: int) -> None:
    """Before the child's end was waited for, so that the id is still its own."""
    if child.process.returncode is None:
        with suppress(ProcessLookupError):
            os.killpg(child.process.pid, number)


async def _how_it_ended(child: Child) -> str:
    code = await child.process.wait()
    if code >= 0:
        return f"the process that trains ended with exit code {code}"
    killed = " (out of memory, perhaps)" if -code == signal.SIGKILL else ""
    return f"the process that trains was ended by {signal.Signals(-code).name}{killed}"
