"""Predicted against measured time of a training step on this very machine.

    python -m benchmarks.predict --only mlp gru --rounds 3

Predicted is `replay` of the plan under a cost table measured here, operator by operator and page by page,
and the pages that let a failed step be undone (column "alone": `replay` without these); measured is the
interpreter's step. Each model is planned twice: with RAM to spare, and with RAM halfway
between the floor and what keep-all needs. Costs and steps are measured in turn, in several rounds, since
other programs disturb both; the ratio of a row is the median of its rounds. Exit code 0 whether or not the
target (a median |ratio - 1| of at most 15 %) is met.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import torch

from benchmarks.drawn import sequences, vectors
from benchmarks.models import Step, step_of
from benchmarks.networks import Mlp, UNet
from client.costs import expected_step_s, measured_costs
from client.interpreter import Interpreter
from client.meter import NoMeter
from client.page_store import PageStore
from client.prepare import Posed, pose_step
from client.profile import profile_machine
from scheduler import DeviceProfile, Plan, Problem, floor, keep_all, load_device, replay, solve
from scheduler.sweep import budgets_between

TARGET = 0.15
WARM_UP = 3  # the first steps make the optimizer's state and are watched by the allocator's trace


STEPS = (
    step_of(
        "mlp",
        32,
        title="an MLP 64-256-256-10",
        build=partial(Mlp, 64, 256, 10, dropout=0.0),
        draw=partial(vectors, features=64),
    ),
    step_of("resnet18", 4),
    step_of("vgg16", 4),
    step_of("mobilenetv2", 8),
    step_of("unet", 2, title="U-Net of width 16, 64 x 64", build=partial(UNet, 16, 2)),
    step_of("bert4", 2),
    step_of(
        "gru",
        16,
        title="two GRU layers of 256, 32 steps of 40 features",
        draw=partial(sequences, steps=32),
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One model under one budget; times are of the round whose ratio is the median."""

    name: str
    ram: str
    ram_bytes: int
    plan_s: float
    predicted_s: float
    measured_s: float
    ratio: float
    paged_bytes: int
    recomputed: int


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    device = _device(options)
    print(device.description)
    for name, link in (("page in", device.page_in), ("page out", device.page_out)):
        print(f"{name}: {link.latency_s * 1e6:.0f} us, then {link.bytes_per_s / 1e9:.2f} GB/s")
    print(f"load average before: {os.getloadavg()[0]:.2f} on {os.cpu_count()} cores")
    print(
        f"{'model':12} {'RAM':>7} {'bytes':>13} {'alone':>11} {'predicted':>11} {'measured':>11} "
        f"{'ratio':>6} {'paged':>13} recomputed"
    )
    rows: list[Row] = []
    for chosen in STEPS:
        if not options.only or chosen.name in options.only:
            for row in _rows(chosen, device, options):
                rows.append(row)
                print(_line(row), flush=True)
    off = {ram: [abs(r.ratio - 1) for r in rows if r.ram == ram] for ram in ("slack", "halfway")}
    print(f"load average after: {os.getloadavg()[0]:.2f}")
    for ram, values in off.items():
        print(f"median |ratio - 1|, {ram}: {statistics.median(values):.1%}")
    both = statistics.median([v for values in off.values() for v in values])
    print(
        f"median |ratio - 1|, all: {both:.1%}; target {TARGET:.0%}: {'met' if both <= TARGET else 'missed'}"
    )
    if options.out:
        options.out.write_text(json.dumps([asdict(r) for r in rows], indent=1) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME")
    parser.add_argument(
        "--device", metavar="FILE", help="a profile of this machine; measured unless given"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=15, help="measured in each round")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--time-limit", type=float, default=10.0, help="seconds of planning")
    parser.add_argument("--out", type=Path, metavar="FILE", help="the rows as JSON")
    return parser.parse_args()


def _device(options: argparse.Namespace) -> DeviceProfile:
    if options.device:
        return load_device(options.device)
    return profile_machine(
        name="here",
        store_folder=Path(tempfile.gettempdir()),
        today=time.strftime("%Y-%m-%d"),
        meter=NoMeter(reason="time alone is asked for"),
    )


def _rows(step: Step, device: DeviceProfile, options: argparse.Namespace) -> Iterator[Row]:
    module = step.build()
    module.train()
    batch = step.batch()
    optimizer = step.optimizer(module.parameters())
    posed = pose_step(module, step.loss, optimizer, batch, device=device)

    def costed(problem: Problem) -> Problem:
        costs = measured_costs(posed.traced, module, optimizer, device)
        return replace(problem, costs=costs)

    first = costed(posed.problem)
    runs = [_Run.of(step, posed, first, ram, options) for ram in ("slack", "halfway")]
    rounds: list[list[_Times]] = [[] for _ in runs]
    for _ in range(options.rounds):
        again = costed(posed.problem)
        for run, times in zip(runs, rounds, strict=True):
            problem = replace(again, budget=run.problem.budget)
            times.append(
                _Times(
                    plan_s=replay(run.plan, problem).time_s,
                    predicted_s=expected_step_s(run.plan, problem),
                    measured_s=run.measured_s(options.steps),
                )
            )
    for run, times in zip(runs, rounds, strict=True):
        yield run.row(sorted(times, key=lambda t: t.ratio)[len(times) // 2])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Times:
    """One round of a row."""

    plan_s: float
    predicted_s: float
    measured_s: float

    @property
    def ratio(self) -> float:
        return self.predicted_s / self.measured_s


@dataclass(frozen=True, kw_only=True)
class _Run:
    """One model's plan for one budget, and how to run it."""

    step: Step
    posed: Posed
    ram: str
    problem: Problem
    plan: Plan

    @classmethod
    def of(
        cls, step: Step, posed: Posed, problem: Problem, ram: str, options: argparse.Namespace
    ) -> _Run:
        keep_bytes = budgets_between(problem, 2)[-1]
        if ram == "slack":
            # Twice what is needed: the way back from a failed step is kept in RAM too.
            problem = replace(problem, budget=replace(problem.budget, ram_bytes=2 * keep_bytes))
            plan = keep_all(problem)
        else:
            half = (floor(problem).ram_bytes + keep_bytes) // 2
            problem = replace(problem, budget=replace(problem.budget, ram_bytes=half))
            plan = solve(problem, time_limit_s=options.time_limit).plan
        return cls(step=step, posed=posed, ram=ram, problem=problem, plan=plan)

    def measured_s(self, steps: int) -> float:
        """Median seconds of a step of the interpreter."""
        step = self.step
        torch.manual_seed(0)
        module = step.build()
        module.train()
        optimizer, (x, y) = step.optimizer(module.parameters()), step.batch()
        times: list[float] = []
        with tempfile.TemporaryDirectory() as folder:
            store = partial(
                PageStore, Path(folder) / "pages", block_bytes=self.posed.device.page_block_bytes
            )
            with (
                store() as pages,
                Interpreter(
                    self.posed.traced, self.problem, self.plan, pages, module, optimizer
                ) as run,
            ):
                for n in range(WARM_UP + steps):
                    start_s = time.perf_counter()
                    run(x, y)
                    if n >= WARM_UP:
                        times.append(time.perf_counter() - start_s)
        return statistics.median(times)

    def row(self, times: _Times) -> Row:
        """What stands for the model in the table."""
        used = replay(self.plan, self.problem)
        return Row(
            name=self.step.name,
            ram=self.ram,
            ram_bytes=self.problem.budget.ram_bytes,
            plan_s=times.plan_s,
            predicted_s=times.predicted_s,
            measured_s=times.measured_s,
            ratio=times.ratio,
            paged_bytes=used.page_in_bytes + used.page_out_bytes,
            recomputed=len(used.recomputed),
        )


def _line(row: Row) -> str:
    times = (f"{t * 1e3:8.2f} ms" for t in (row.plan_s, row.predicted_s, row.measured_s))
    return (
        f"{row.name:12} {row.ram:>7} {row.ram_bytes:13,} {' '.join(times)} {row.ratio:6.2f} "
        f"{row.paged_bytes:13,} {row.recomputed:10}"
    )


if __name__ == "__main__":
    main()
