"""`fedpoet join` as a process of its own, on loopback, and a coordinator in this process."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from protos.arrays import encode_arrays, forms, read_arrays
from protos.tasks import Task, workload_digest
from protos.trust import write_ticket
from server.keyring import make_ticket
from server.service.host import ServiceHost
from server.service.taskbook import State
from tests.client.device.kept import SEED
from tests.server.service.peers import push

BIN = Path(sys.executable).parent
RAM_BYTES = 64_000_000
OWNER = ("--device", "phone-pixel-6", "--ram", str(RAM_BYTES), "--partition", "3")


def new_ticket(host: ServiceHost, hours: float = 1.0) -> str:
    made = make_ticket(
        host.keys.authority,
        now_s=time.time(),
        valid_s=hours * 3600,
        random_bytes=secrets.token_bytes,
    )
    host.store.roster.add_ticket(made, "", time.time())
    return write_ticket(made)


def task_for(host: ServiceHost, device_id: int, arrays, *, number: int = 1, **config) -> Task:
    """A task to train digits for one epoch, unless told otherwise."""
    return push(
        host,
        device_id,
        encode_arrays(arrays),
        workload="digits",
        workload_digest=workload_digest("digits", forms(arrays)),
        round_number=number,
        config={"seed": SEED, "server-round": number, "local-epochs": 1, **config},
    )


def state(host: ServiceHost, task: Task) -> State:
    return host.store.tasks.find(task.task_id).state


def update(host: ServiceHost, task: Task) -> dict[str, np.ndarray]:
    return read_arrays(host.store.blobs.update(task.task_id))


def eventually(what: str, done, within_s: float = 60.0, process=None) -> None:
    until_s = time.monotonic() + within_s
    while not (found := done()):
        if process is not None and process.poll() is not None:
            raise AssertionError(f"the process ended with {process.returncode} before {what}")
        if time.monotonic() > until_s:
            raise TimeoutError(f"waited {within_s:.0f} s for {what}")
        time.sleep(0.02)
    return found


@dataclass
class Device:
    """A folder in which `fedpoet join` can be started again and again."""

    host: ServiceHost
    folder: Path
    port: int = 0
    options: tuple[str, ...] = ()
    owner: tuple[str, ...] = OWNER
    process: subprocess.Popen | None = None
    id: int = 0
    _log: list[Path] = field(default_factory=list)

    @property
    def state_folder(self) -> Path:
        return self.folder / "state"

    @property
    def log(self) -> str:
        return "\n".join(path.read_text(errors="replace") for path in self._log)

    def start(self, *options: str) -> None:
        """Start, and wait until the coordinator hears of it."""
        self.launch(*options)
        before = self.id
        known = {d.id for d in self.host.store.roster.devices()} if not before else set()

        def there() -> int:
            waiting = set(self.host.presence.there())
            return before in waiting if before else next(iter(waiting & self._new(known)), 0)

        found = eventually("the device", there, process=self.process)
        self.id = before or found

    def _new(self, known: set[int]) -> set[int]:
        return {d.id for d in self.host.store.roster.devices()} - known

    def launch(self, *options: str) -> None:
        """Start without waiting for anything."""
        self.folder.mkdir(exist_ok=True)
        log = self.folder / f"log-{len(self._log)}.txt"
        self._log.append(log)
        command = [
            *(BIN / "fedpoet", "join", "--coordinator", f"localhost:{self.port or self.host.port}"),
            *("--data", self.state_folder, "--workload", "digits"),
            *self.owner,
            *self.options,
            *options,
        ]
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                [str(part) for part in command],
                stdout=out,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                cwd=self.folder,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.wait()

    def end(self, number: int = signal.SIGTERM, within_s: float = 10) -> int:
        self.process.send_signal(number)
        return self.process.wait(within_s)

    def children(self) -> list[int]:
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(word) for word in path.read_text().split()]

    def resident_bytes(self) -> int:
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise AssertionError("no VmRSS")


@contextlib.contextmanager
def device(
    host: ServiceHost,
    folder: Path,
    *options: str,
    port: int = 0,
    owner: tuple[str, ...] = OWNER,
) -> Iterator[Device]:
    """An enrolled device that waits for work."""
    found = Device(host=host, folder=folder, port=port, options=options, owner=owner)
    try:
        found.start("--ticket", new_ticket(host))
        yield found
    except BaseException:
        print(found.log)  # noqa: T201 (pytest shows it with the failure)
        raise
    finally:
        if found.process is not None and found.process.poll() is None:
            found.kill()
