"""Kill a coordinator and its devices at random moments, again and again: `python -m benchmarks.kill_runs`.

Each run is a whole federation of real processes: `fedpoet coordinate` and devices with `fedpoet join`, on the
digits workload. While it goes on, one of the processes is killed with SIGKILL at a random moment, some time
later started again with the same command, and so on. In the end the model must be the same, bit for bit, as
that of a run in which nobody was killed, and every round must have counted one update of each device.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.progress import track

from tests.e2e.flower_processes import free_ports

FEDPOET = (sys.executable, "-c", "from simulations.cli import main; main()")
DEVICES = 2
ROUNDS = 6
RUN_S, LOOK_S = 600.0, 0.5


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

    def keep(self) -> None:
        """Start it again if it has ended, as a system's service manager does."""
        if self.running is None or self.running.poll() is not None:
            self.start()

    def kill(self) -> None:
        """SIGKILL to the process and to its children: nobody gets to tidy up."""
        if self.running is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.running.pid, signal.SIGKILL)
        self.running.wait()
        self.kills += 1


@dataclass
class Federation:
    """The processes of one run, in a folder of its own."""

    folder: Path
    coordinator: Process = field(init=False)
    devices: list[Process] = field(init=False)

    def __post_init__(self) -> None:
        port, web = free_ports(2)
        data = self.folder / "coordinator"
        _run("keys", "init", "--data", str(data), "--host", "localhost")
        rules = f"--rounds {ROUNDS} --cohort {DEVICES} --patience 600 --strategy fedadam".split()
        places = f"--listen localhost:{port} --web 127.0.0.1:{web} --data {data}".split()
        self.coordinator = Process(
            (*FEDPOET, "coordinate", "--workload", "digits", *rules, *places),
            self.folder / "coordinator.log",
        )
        self.devices = []
        for partition in range(DEVICES):
            ticket = _run("keys", "ticket", "--data", str(data), "--label", f"device-{partition}")
            own = f"--data {self.folder / f'device-{partition}'} --ticket {ticket.strip()}".split()
            what = [
                "--workload",
                "digits",
                "--device",
                "raspberry-pi-4b",
                "--ram",
                "200KB",
                "--rest",
                "1",
            ]
            where = f"--coordinator localhost:{port} --partition {partition}".split()
            self.devices.append(
                Process(
                    (*FEDPOET, "join", *where, *own, *what),
                    self.folder / f"device-{partition}.log",
                )
            )

    def run(
        self, generator: random.Random | None, every_s: float, most_kills: float = math.inf
    ) -> None:
        """Run to the end; with a generator, kill somebody about every `every_s` seconds, up to so often."""
        everybody = [self.coordinator, *self.devices]
        until_s = time.monotonic() + RUN_S
        for process in everybody:
            process.start()
        try:
            while (code := self.coordinator.running.poll()) is None:  # type: ignore[union-attr]
                if time.monotonic() > until_s:
                    raise SystemExit(f"the run in {self.folder} did not end in {RUN_S:.0f} s")
                for device in self.devices:
                    device.keep()
                if generator is None or sum(p.kills for p in everybody) >= most_kills:
                    time.sleep(LOOK_S)
                    continue
                time.sleep(generator.expovariate(1 / every_s))
                victim = generator.choice(everybody)
                if self.coordinator.running.poll() is None:  # type: ignore[union-attr]
                    victim.kill()
                    time.sleep(generator.uniform(0, 1))
                    victim.start()
            if code != 0:
                raise SystemExit(f"the coordinator ended with {code}; see {self.coordinator.log}")
        finally:
            for process in everybody:
                process.kill()

    def model(self) -> bytes:
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


def _run(*arguments: str) -> str:
    return subprocess.run((*FEDPOET, *arguments), check=True, capture_output=True, text=True).stdout


def compare(
    runs: int, seed: int, every_s: float, folder: Path, most_kills: float = math.inf
) -> int:
    """Run once in peace and `runs` times with kills; how many kills there were. Raises on a difference."""
    peace = folder / "peace"
    peace.mkdir()
    federation = Federation(peace)
    federation.run(None, every_s)
    expected = federation.model()
    federation.require_counted_once()
    kills = 0
    for number in track(range(runs), description="runs with kills", console=Console(stderr=True)):
        own = folder / f"run-{number}"
        own.mkdir()
        federation = Federation(own)
        federation.run(random.Random(f"{seed}-{number}"), every_s, most_kills)
        federation.require_counted_once()
        if federation.model() != expected:
            raise SystemExit(f"run {number} with seed {seed} gave another model")
        kills += federation.coordinator.kills + sum(d.kills for d in federation.devices)
        kills -= 1 + DEVICES  # the end of the run
    return kills


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--every", type=float, default=4.0, help="seconds between kills, on average"
    )
    arguments = parser.parse_args()
    begun_s = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        kills = compare(arguments.runs, arguments.seed, arguments.every, Path(folder))
    print(
        f"{arguments.runs} runs, {kills} kills: the same model bit for bit, every update counted once; "
        f"{time.monotonic() - begun_s:.0f} s"
    )


if __name__ == "__main__":
    main()
