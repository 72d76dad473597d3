"""Kill a coordinator and its devices at random moments, again and again: `python -m benchmarks.kill_runs`.

Each run is a whole federation of real processes: `fedpoet coordinate` and devices with `fedpoet join`, on the
workload of examples/own_workload.py, which needs no library for data, with so little RAM that plans page.
While it goes on, one of the processes is killed with SIGKILL at a random moment, some time later started
again with the same command, and so on. In the end the model must be the same, bit for bit, as that of a run
in which nobody was killed, and every round must have counted one update of each device.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import secrets
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.progress import track

from protos.trust import write_ticket
from server.cli import KEYS
from server.keyring import make_coordinator, make_keys, make_ticket
from server.service.store import open_store
from tests.e2e.flower_processes import VIBRATION, free_ports, is_open

FEDPOET = (sys.executable, "-c", "from simulations.cli import main; main()")
RAM_BYTES = 112_000  # 2 % over what a step needs at least
DEVICES = 2
ROUNDS = 8
RUN_S, LOOK_S = 600.0, 0.05
SOON_S, SOON_SHARE = 0.5, 0.7  # processes take longer to start than to go through a round


@dataclass
class Process:
    """A command that is started again after it was killed. Its output goes to a file."""

    command: Sequence[str]
    log: Path
    running: subprocess.Popen[bytes] | None = None
    kills: int = 0

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.running = subprocess.Popen(
                self.command, stdout=log, stderr=log, start_new_session=True
            )

    def code(self) -> int | None:
        """The exit code, None while it is at work or was never started."""
        return None if self.running is None else self.running.poll()

    def keep(self) -> None:
        """Start it if it is not at work."""
        if self.running is None or self.code() is not None:
            self.start()

    def kill(self) -> None:
        """SIGKILL: it gets to tidy up nothing. A device's child notices, and ends at once."""
        self.stop()
        self.kills += 1

    def stop(self) -> None:
        """The same at the end of a run, which is not counted."""
        if self.running is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.running.pid, signal.SIGKILL)
            self.running.wait()


@dataclass
class Federation:
    """The processes of one run, in a folder of its own."""

    folder: Path
    coordinator: Process = field(init=False)
    devices: list[Process] = field(init=False)
    port: int = field(init=False)
    until_s: float = field(init=False)
    met: bool = False  # whether the coordinator ever listened

    def __post_init__(self) -> None:
        port, web = free_ports(2)
        data = self.folder / "coordinator"
        tickets = _let_in(data)
        rules = f"--rounds {ROUNDS} --cohort {DEVICES} --patience 600 --strategy fedadam".split()
        places = f"--listen localhost:{port} --web 127.0.0.1:{web} --data {data}".split()
        self.port = port
        self.coordinator = Process(
            (*FEDPOET, "coordinate", "--workload", VIBRATION, *rules, *places),
            self.folder / "coordinator.log",
        )
        self.devices = []
        for partition, ticket in enumerate(tickets):
            own = f"--data {self.folder / f'device-{partition}'} --ticket {ticket}".split()
            what = f"--device raspberry-pi-4b --ram {RAM_BYTES} --rest 1".split()
            where = f"--coordinator localhost:{port} --partition {partition}".split()
            self.devices.append(
                Process(
                    (*FEDPOET, "join", "--workload", VIBRATION, *where, *own, *what),
                    self.folder / f"device-{partition}.log",
                )
            )

    @property
    def everybody(self) -> list[Process]:
        """The coordinator, then the devices."""
        return [self.coordinator, *self.devices]

    @property
    def kills(self) -> int:
        """How often somebody was killed."""
        return sum(process.kills for process in self.everybody)

    def run(self, generator: random.Random | None, every_s: float, most_kills: int) -> None:
        """Run to the end; with a generator, kill somebody at `most_kills` moments, while it lasts."""
        self.until_s = time.monotonic() + RUN_S
        try:
            self.coordinator.start()
            while self._goes_on():
                if generator is None or self.kills >= most_kills:
                    self._look()
                elif self._reaches(generator, every_s):
                    victim = generator.choice([p for p in self.everybody if p.running])
                    victim.kill()
                    time.sleep(generator.uniform(0, 1))
                    victim.start()
        finally:
            for process in self.everybody:
                process.stop()

    def _goes_on(self) -> bool:
        """Whether the coordinator is at work. Raises SystemExit when it failed or takes too long."""
        code = self.coordinator.code()
        if code:
            raise SystemExit(f"the coordinator ended with {code}; see {self.coordinator.log}")
        if time.monotonic() > self.until_s:
            raise SystemExit(f"the run in {self.folder} did not end in {RUN_S:.0f} s")
        return code is None

    def _look(self) -> None:
        """Wait a little, and start devices that are not at work, as a system's service manager does."""
        time.sleep(LOOK_S)
        self.met = self.met or is_open(self.port)
        if self.met:  # before, they would use the processor to find nobody
            for device in self.devices:
                device.keep()

    def _reaches(self, generator: random.Random, every_s: float) -> bool:
        """Wait for a random moment, most of them soon after a round; whether the run still goes on."""
        after_round = self._rounds() if generator.random() < SOON_SHARE else None
        left_s = generator.uniform(0, SOON_S)
        if after_round is None:
            left_s = generator.expovariate(1 / every_s)
        while self._goes_on() and left_s > 0:
            self._look()
            if after_round is None or self._rounds() > after_round:
                left_s -= LOOK_S
        return self._goes_on()

    def _rounds(self) -> int:
        """How many rounds made a model; told by its files, so that nobody opens the database meanwhile."""
        return sum(1 for _ in (self.folder / "coordinator/run/models").glob("*.safetensors"))

    def model(self) -> bytes:
        """The newest model."""
        with self._journal() as journal:
            ((row,),) = journal.execute("SELECT model FROM rounds ORDER BY id DESC LIMIT 1")
        return (self.folder / f"coordinator/run/models/{row:08d}.safetensors").read_bytes()

    def require_counted_once(self) -> None:
        """Every round from 1 has one update of each device, and nothing was refused."""
        with self._journal() as journal:
            records = [json.loads(r) for (r,) in journal.execute("SELECT record FROM rounds")]
        numbers = [r["number"] for r in records]
        counts = [len(r["metrics"]) for r in records[1:]]
        cohorts = [len(set(r["cohort"])) for r in records[1:]]
        refused = [r["refused"] for r in records if r["refused"]]
        if numbers != list(range(ROUNDS + 1)) or {*counts, *cohorts} != {DEVICES} or refused:
            raise SystemExit(
                f"{self.folder}: rounds {numbers}, updates {counts}, asked {cohorts}, refused {refused}"
            )

    @contextlib.contextmanager
    def _journal(self) -> Iterator[sqlite3.Connection]:
        with contextlib.closing(
            sqlite3.connect(self.folder / "coordinator/run/journal.sqlite")
        ) as journal:
            yield journal


def _let_in(data: Path) -> list[str]:
    """Make a coordinator's keys, and a ticket for each device."""
    now_s = time.time()
    authority = make_keys(data / KEYS, now_s=now_s)
    make_coordinator(data / KEYS, ["localhost"], now_s=now_s)
    tickets = [
        make_ticket(authority, now_s=now_s, valid_s=3600, random_bytes=secrets.token_bytes)
        for _ in range(DEVICES)
    ]
    with contextlib.closing(open_store(data)) as store:
        for number, ticket in enumerate(tickets):
            store.roster.add_ticket(ticket, f"device-{number}", now_s)
    return [write_ticket(ticket) for ticket in tickets]


def finished(
    folder: Path, generator: random.Random | None, every_s: float, kills: int
) -> Federation:
    """A federation in a new folder after its run, in which every update was counted once."""
    folder.mkdir()
    federation = Federation(folder)
    federation.run(generator, every_s, kills)
    federation.require_counted_once()
    return federation


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kills", type=int, default=4, help="in each run")
    parser.add_argument(
        "--every", type=float, default=3.0, help="seconds between kills, on average"
    )
    parser.add_argument("--at-once", type=int, default=2, help="runs side by side")
    given = parser.parse_args()
    begun_s = time.monotonic()
    folder = Path(tempfile.mkdtemp())  # stays with its logs when something fails
    with ThreadPoolExecutor(given.at_once) as pool:
        expected = finished(folder / "peace", None, given.every, 0).model()

        def killed(number: int) -> int:
            generator = random.Random(f"{given.seed}-{number}")
            run = finished(folder / f"run-{number}", generator, given.every, given.kills)
            if run.model() != expected:
                raise SystemExit(f"run {number} with seed {given.seed} gave another model")
            return run.kills

        runs = pool.map(killed, range(given.runs))
        kills = sum(track(runs, "runs with kills", given.runs, console=Console(stderr=True)))
    shutil.rmtree(folder)
    print(
        f"{given.runs} runs, {kills} kills: the same model bit for bit, every update counted once; "
        f"{time.monotonic() - begun_s:.0f} s"
    )


if __name__ == "__main__":
    main()
