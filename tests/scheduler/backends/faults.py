"""Backends with real faults; they run in the child, which imports them from here."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pulp

from scheduler.backends import Outcome, Program, Report, Verdict
from scheduler.backends.program import Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Faulty:
    """Reports one solution (all zero) and a bound, does some harm, and then sleeps for ever."""

    harm: str
    path: Path | None = None

    @property
    def name(self) -> str:
        return f"faulty: {self.harm}"

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
        assert report is not None
        values = (0.0,) * program.columns
        report(Outcome(verdict=Verdict.FEASIBLE, bound=-3.0, values=values))
        report(Outcome(verdict=Verdict.UNKNOWN, bound=-2.0))
        getattr(self, f"_{self.harm}")()
        while True:
            time.sleep(60)

    def _abort(self) -> None:
        os.abort()

    def _segfault(self) -> None:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        ctypes.string_at(0)

    def _kill(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def _exit(self) -> None:
        os._exit(3)

    def _fail(self) -> None:
        raise RuntimeError("wrong basis")

    def _fill_memory(self) -> None:
        resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30))
        held = [bytearray(2**26) for _ in range(64)]
        raise AssertionError(f"{len(held)} blocks fit")

    def _sleep(self) -> None:
        """Nothing besides: a solver that hangs."""

    def _stop(self) -> None:
        """Hangs in a way that no signal but SIGKILL ends."""
        os.kill(os.getpid(), signal.SIGSTOP)

    def _print(self) -> None:
        """A solver that writes to both outputs, then crashes."""
        os.write(1, b"Welcome to the solver\n" * 10_000)
        os.write(2, b"terminate called after throwing an instance of 'std::bad_alloc'\n")
        os.abort()

    def _write_file(self) -> None:
        """As PuLP does for CBC, where PuLP does."""
        folder = Path(pulp.COIN_CMD(msg=False).tmpDir)
        (folder / "fedpoet-left-behind").touch()
        assert self.path is not None
        self.path.write_text(str(folder))
        os.abort()

    def _start_another(self) -> None:
        """A solver that runs a program, as PuLP does with CBC; the ids of both are written down."""
        assert self.path is not None
        with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as other:
            write_whole(self.path, f"{os.getpid()} {other.pid}")
            other.wait()

    def _start_another_and_crash(self) -> None:
        assert self.path is not None
        other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        write_whole(self.path, f"{os.getpid()} {other.pid}")
        os.abort()


def write_whole(path: Path, text: str) -> None:
    """Nobody reads half of it."""
    draft = path.with_suffix(".new")
    draft.write_text(text)
    draft.replace(path)
