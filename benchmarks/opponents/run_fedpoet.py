"""The comparison's task in fedpoet, with virtual time, plans and energy charged. Run by benchmarks.sim."""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
from pathlib import Path

from benchmarks.opponents import task
from simulations.config import SimulationConfig
from simulations.run import Machine, Watcher, simulate

HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--task", default="logistic")
    parser.add_argument("--began", type=float, default=0.0, help="time.time() at the start")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--no-training", action="store_true")
    parser.add_argument("--workers", type=int, default=1)
    asked = parser.parse_args()
    for client in range(0 if asked.workers > 1 else task.CLIENTS):
        task.examples(asked.task, client)  # as the others: before the first round
    logging.getLogger("flwr").setLevel(logging.WARNING)  # as `fedpoet simulate` does
    watch = task.Watch()
    config = SimulationConfig(
        workload=f"{HERE / 'workload.py'}:{asked.task}",
        fleet=str(HERE / "fleet.toml"),
        rounds=asked.rounds,
        cohort=task.COHORT,
        seed=task.SEED,  # the same initial model
        training="none" if asked.no_training else "plain",
    )
    watcher = Watcher(
        on_round=lambda record: watch.round_ended(record.accuracy) if record.round else None
    )
    with tempfile.TemporaryDirectory() as folder:
        simulate(config, Path(folder) / "run", watcher, machine=Machine(workers=asked.workers))
    json.dump(watch.report(asked.began), sys.stdout)


if __name__ == "__main__":
    main()
