"""Energy and time against RAM, for POET and every baseline, on the networks and devices of POET's paper.

    make bench-paper                                        everything, into docs/
    python -m benchmarks.paper --network vgg16 --device nrf52840 --time-limit 5

Every result is kept in runs/paper as soon as it is known, so that a second call goes on where the first
was stopped; --fresh forgets them. With --network or --device, table and plots go to runs/paper too.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.models import STEPS, Step
from benchmarks.paper_plots import Row, publish, write_rows
from benchmarks.traced import posed
from scheduler import (
    Budget,
    DeviceProfile,
    Graph,
    Infeasible,
    NoPlanInTime,
    Plan,
    Problem,
    check,
    cost_table,
    floor,
    keep_all,
    load_device,
    replay,
    solve,
)
from scheduler.baselines.table import BASELINES
from scheduler.files import read_problem, write_problem
from scheduler.prefetch import prefetch

# Networks, and how many operators of forward and backward pass they are joined to; None for few enough.
NETWORKS = {"vgg16": None, "resnet18": None, "bert12": 120}
DEVICES = ("mkr1000", "nrf52840", "raspberry-pi-4b", "jetson-tx2")
# Budgets, as shares of the way from the floor (0) to what keep-all needs (1).
SHARES = (0.05, 0.3, 0.6, 0.8, 0.9, 1.0)
METHODS = ("poet", *BASELINES)
FOLDER = Path("runs/paper")


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """One method's plan for one problem; without `energy_j` it found none."""

    energy_j: float | None = None
    time_s: float | None = None
    peak_bytes: int | None = None
    gap: float | None = None
    planning_s: float


def plan_by(method: str, problem: Problem, time_limit_s: float) -> Found:
    """Plan, check, let paging hide where the device can, and charge."""
    began_s, gap = time.monotonic(), None
    plan: Plan | None = None
    if method == "poet":
        try:
            solution = solve(problem, time_limit_s=time_limit_s)
            plan, gap = solution.plan, solution.gap
        except (Infeasible, NoPlanInTime):
            pass
    else:
        plan = BASELINES[method](problem, time_limit_s=time_limit_s)
    planning_s = time.monotonic() - began_s
    if plan is None:
        return Found(planning_s=planning_s)
    plan = prefetch(plan, problem)
    used = check(plan, problem)
    return Found(
        energy_j=used.energy_j,
        time_s=used.time_s,
        peak_bytes=used.peak_bytes,
        gap=gap,
        planning_s=planning_s,
    )


class Store:
    """Results by problem, method and time limit; written after each."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.found: dict[str, Found] = {}
        if path.exists():
            known = json.loads(path.read_text(encoding="utf-8"))
            self.found = {key: Found(**value) for key, value in known.items()}

    def get(self, method: str, problem: Problem, time_limit_s: float) -> Found:
        limit = f"{time_limit_s:g}" if method in ("poet", "checkmate", "paging") else "-"
        key = f"{problem.digest} {method} {limit}"
        if key not in self.found:
            self.found[key] = plan_by(method, problem, time_limit_s)
            text = json.dumps({k: asdict(v) for k, v in self.found.items()}, indent=0)
            aside = self.path.with_suffix(".new")
            aside.write_text(text, encoding="utf-8")
            aside.replace(self.path)
        return self.found[key]


def graph_of(step: Step) -> Graph:
    """The traced and measured step; the same on all devices, so it is traced once and kept."""
    path = FOLDER / f"{step.name}.json"
    if not path.exists():
        write_problem(posed(step, NETWORKS[step.name]), path)
    return read_problem(path).graph


def problems_of(graph: Graph, device: DeviceProfile) -> Iterator[tuple[float, Problem]]:
    """The same work under each budget. The device's own RAM and page store are not looked at."""
    costs = cost_table(graph, device)
    problem = Problem(graph=graph, costs=costs, budget=Budget(ram_bytes=0))
    least, most = floor(problem).ram_bytes, replay(keep_all(problem), problem).peak_bytes
    for share in SHARES:
        ram_bytes = round(least + share * (most - least))
        yield share, replace(problem, budget=Budget(ram_bytes=ram_bytes))


def row_of(network: str, device: str, problem: Problem, method: str, found: Found) -> Row:
    once, plain = problem.compute_once, keep_all(problem)
    return Row(
        network=network,
        device=device,
        ram_bytes=problem.budget.ram_bytes,
        floor_bytes=floor(problem).ram_bytes,
        keep_all_bytes=replay(plain, problem).peak_bytes,
        method=method,
        energy_j=found.energy_j,
        extra_energy=None if found.energy_j is None else found.energy_j / once.energy_j - 1,
        time_s=found.time_s,
        extra_time=None if found.time_s is None else found.time_s / once.time_s - 1,
        gap=found.gap,
        planning_s=found.planning_s,
    )


def measure(
    networks: list[str], devices: list[str], time_limit_s: float, console: Console
) -> list[Row]:
    steps = {step.name: step for step in STEPS}
    store, rows = Store(FOLDER / "results.json"), []
    columns = (
        TextColumn("{task.description:44}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:
        total = len(networks) * len(devices) * len(SHARES) * len(METHODS)
        bar = progress.add_task("tracing", total=total)
        for network in networks:
            progress.update(bar, description=f"{network}: tracing")
            graph = graph_of(steps[network])
            for name in devices:
                for share, problem in problems_of(graph, load_device(name)):
                    say = partial("{} on {}, {:.0%}: {}".format, network, name, share)
                    for method in METHODS:
                        progress.update(bar, description=say(method))
                        found = store.get(method, problem, time_limit_s)
                        rows.append(row_of(network, name, problem, method, found))
                        progress.advance(bar)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", action="append", choices=list(NETWORKS))
    parser.add_argument("--device", action="append", choices=DEVICES)
    parser.add_argument("--time-limit", type=float, default=10.0, help="seconds of each solve")
    parser.add_argument("--fresh", action="store_true", help="forget results of earlier calls")
    options = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    if options.fresh:
        for path in FOLDER.glob("*.json"):
            path.unlink()
    torch.set_num_threads(1)
    rows = measure(
        options.network or list(NETWORKS),
        options.device or list(DEVICES),
        options.time_limit,
        Console(stderr=True),
    )
    everything = not (options.network or options.device)
    folder = Path("docs") if everything else FOLDER
    write_rows(rows, folder / "paper.csv")
    publish(rows, folder)


if __name__ == "__main__":
    main()
