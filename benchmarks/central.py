"""Federated against central training of the same model, for as many epochs.

    python benchmarks/central.py --workload watch --rounds 30 --seeds 0 1 2

Central training sees all partitions in one place, in one order of examples per epoch, with the same
optimizer and batch size. Both start from the same arrays. Accuracy is on the held-out examples, of the
last round and as the mean of the last five (single epochs differ by about 0.02); nothing is chosen by
looking at it. `majority` is the share of the most common class among these examples. Where a fleet asks a
cohort only, `--epochs` says for how long central training goes on.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path

import torch

from client.state import initial_arrays, score, set_arrays
from client.workload import Examples, Workload, load_workload
from simulations.run import SimulationConfig, simulate

LAST = 5


def central(workload: Workload, seed: int, epochs: int) -> list[float]:
    """Accuracy after each epoch."""
    parts = [workload.examples(n) for n in range(workload.partitions)]
    pooled = Examples(x=torch.cat([p.x for p in parts]), y=torch.cat([p.y for p in parts]))
    model = workload.model()
    set_arrays(model, initial_arrays(workload, seed))
    optimizer = workload.optimizer(model.parameters())
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    test, accuracies = workload.test(), []
    for _ in range(epochs):
        for chosen in torch.randperm(len(pooled), generator=generator).split(workload.batch_size):
            optimizer.zero_grad()
            workload.loss(model(pooled.x[chosen]), pooled.y[chosen]).backward()
            optimizer.step()
        accuracies.append(score(workload, model, test)["accuracy"])
    return accuracies


def majority(workload: Workload) -> float:
    """Accuracy of always saying the most common class."""
    test = workload.test()
    return int(torch.bincount(test.y).max()) / len(test)


def federated(name: str, seed: int, rounds: int, fleet: str) -> list[float]:
    """Accuracy after each round."""
    config = SimulationConfig(workload=name, rounds=rounds, seed=seed, fleet=fleet)
    with tempfile.TemporaryDirectory() as folder:
        result = simulate(config, Path(folder) / "run")
    return [r.accuracy or 0.0 for r in result.rounds[1:]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workload", default="watch")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--fleet", default="default")
    parser.add_argument(
        "--epochs", type=int, help="of central training; as many as federated, unless told"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    workload = load_workload(options.workload)
    print(json.dumps({"majority": majority(workload)}))
    gaps = []
    for seed in options.seeds:
        there = federated(options.workload, seed, options.rounds, options.fleet)
        here = central(workload, seed, options.epochs or options.rounds * workload.local_epochs)
        means = {
            "federated": statistics.mean(there[-LAST:]),
            "central": statistics.mean(here[-LAST:]),
        }
        gaps.append(means["central"] - means["federated"])
        last = {"federated": there[-1], "central": here[-1]}
        print(json.dumps({"seed": seed, "last": last, "mean of last five": means}), flush=True)
    print(json.dumps({"mean gap": statistics.mean(gaps), "largest gap": max(gaps)}))


if __name__ == "__main__":
    main()
