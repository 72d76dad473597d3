"""A large fleet in virtual time without training: events, plans, energy and batteries alone (`make bench-fleet`)."""

from __future__ import annotations

import argparse
import cProfile
import pstats
import resource
import tempfile
import time
from pathlib import Path

from simulations.config import SimulationConfig, Training
from simulations.run import Machine, Watcher, simulate

MIB = 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fleet", default="phone")
    parser.add_argument("--workload", default="digits")
    parser.add_argument("--devices", type=int, default=100_000)
    parser.add_argument("--cohort", type=int, default=1_000)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--profile", action="store_true", help="also say where the time goes")
    asked = parser.parse_args()
    config = SimulationConfig(
        workload=asked.workload,
        fleet=asked.fleet,
        fleet_changes={"devices": asked.devices},
        rounds=asked.rounds,
        cohort=asked.cohort,
        over_selection=1.0,
        patience_s=86400.0,
        most_skipped=asked.rounds,
        training=Training.NONE,
    )
    marks: dict[str, float] = {}
    memory: list[float] = []

    def on_round(_: object) -> None:
        memory.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)

    watcher = Watcher(
        on_start=lambda _: marks.update(start=time.perf_counter(), cpu=time.process_time()),
        on_round=on_round,
    )
    profiler = cProfile.Profile()
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        if asked.profile:
            profiler.enable()
        run = simulate(config, Path(folder) / "run", watcher, machine=Machine())
        profiler.disable()
        ended, cpu = time.perf_counter(), time.process_time()
    updates = sum(r.aggregated for r in run.rounds)
    asked_all = sum(r.asked for r in run.rounds)
    print(f"{asked.devices:,} devices of {len(run.plans)} kinds, {asked.rounds} rounds")
    print(f"{asked_all:,} messages, {updates:,} updates, {run.rounds[-1].end_s / 3600:,.1f} virtual hours")
    print(
        f"planning {marks['start'] - begun:.1f} s, rounds and report {ended - marks['start']:.1f} s "
        f"(of the processor {cpu - marks['cpu']:.1f} s)"
    )
    print(f"most memory: {memory[-1]:,.0f} MiB; after round 10: {memory[min(10, asked.rounds)]:,.0f} MiB")
    if asked.profile:
        pstats.Stats(profiler).sort_stats("tottime").print_stats(45)


if __name__ == "__main__":
    main()
