"""A large fleet in virtual time: events, plans, energy, batteries (`make bench-fleet`).

Without training, unless `--train` says so. `--every 50` tells after how many rounds how much memory the
process has; what it is is resident memory, of all its parts.
"""

from __future__ import annotations

import argparse
import cProfile
import logging
import pstats
import resource
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from simulations.config import SimulationConfig, Training
from simulations.reading import Run
from simulations.results import RoundRecord
from simulations.run import Watcher, simulate


@dataclass(kw_only=True)
class Marks:
    """When the rounds began, of all time and of the processor's, and the memory after each round."""

    start_s: float = 0.0
    start_cpu_s: float = 0.0
    memory_mib: list[float] = field(default_factory=list)
    every: int | None = None

    def start(self, _: object) -> None:
        self.start_s, self.start_cpu_s = time.perf_counter(), time.process_time()

    def note(self, record: RoundRecord) -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        self.memory_mib.append(pages * resource.getpagesize() / 2**20)
        if self.every and not record.round % self.every:
            print(f"round {record.round:>5}  {self.memory_mib[-1]:7.1f} MiB", flush=True)


def main() -> None:
    asked = _asked()
    logging.getLogger("flwr").setLevel(logging.WARNING)
    config = SimulationConfig(
        workload=asked.workload,
        fleet=asked.fleet,
        fleet_changes={"devices": asked.devices},
        rounds=asked.rounds,
        cohort=asked.cohort,
        over_selection=1.0,
        patience_s=86400.0,
        most_skipped=asked.rounds,
        training=(Training.PLAIN if asked.train else Training.NONE).value,
    )
    marks, profiler = Marks(every=asked.every), cProfile.Profile()
    watcher = Watcher(on_start=marks.start, on_round=marks.note)
    with tempfile.TemporaryDirectory() as folder:
        begun_s = time.perf_counter()
        if asked.profile:
            profiler.enable()
        run = simulate(config, Path(folder) / "run", watcher)
        profiler.disable()
        _print(run, marks, begun_s)
    if asked.profile:
        pstats.Stats(profiler).sort_stats("tottime").print_stats(45)


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fleet", default="phone")
    parser.add_argument("--workload", default="digits")
    parser.add_argument("--devices", type=int, default=100_000)
    parser.add_argument("--cohort", type=int, default=1_000)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--train", action="store_true", help="train, as plain PyTorch")
    parser.add_argument("--every", type=int, help="tell the memory after every so many rounds")
    parser.add_argument("--profile", action="store_true", help="also say where the time goes")
    return parser.parse_args()


def _print(run: Run, marks: Marks, begun_s: float) -> None:
    planning_s = marks.start_s - begun_s
    rounds_s, cpu_s = time.perf_counter() - marks.start_s, time.process_time() - marks.start_cpu_s
    messages = sum(r.asked for r in run.rounds)
    updates = sum(r.aggregated for r in run.rounds)
    hours, early = run.rounds[-1].end_s / 3600, marks.memory_mib[:11][-1]
    most_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{len(run.devices):,} devices, {len(run.plans)} plans, {len(run.rounds) - 1} rounds")
    print(f"{messages:,} messages, {updates:,} updates, {hours:,.1f} virtual hours")
    print(f"planning {planning_s:.1f} s; rounds and report {rounds_s:.1f} s, of which the", end=" ")
    print(f"processor was ours for {cpu_s:.1f} s")
    print(f"memory {early:,.0f} MiB after round 10,", end=" ")
    print(f"{marks.memory_mib[-1]:,.0f} MiB after the last, {most_mib:,.0f} MiB at most")


if __name__ == "__main__":
    main()
