"""Training by a plan against plain training, over 20 steps: every bit, and every byte of RAM.

    python -m benchmarks.exact --only resnet18 gru --batch 1 8 --out exact.jsonl

Seven networks, SGD with momentum and Adam, batches of 1, 8 and 32, each at half the RAM that keep-all
needs, or 1.1 times the least feasible where that is more. Compared are every loss and gradient, and
afterwards parameters, buffers, optimizer state and torch's generator. The RAM is measured apart from
our own accounting, by torch's allocation events from before the module exists. A row is written when it
is done, and with --out a run goes on where the last one stopped. Exit code 1 if a row breaks a promise.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import math
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import nn

from benchmarks.drawn import Batch
from benchmarks.models import NETWORKS
from benchmarks.outcomes import Note, Outcome, differences, outcome, recording
from benchmarks.points import ram_bytes, with_ram
from client.allocator import AllocatorTrace
from client.interpreter import EVERY_STEP, Interpreter
from client.page_store import PageStore
from client.prepare import Posed, pose_step
from scheduler import Plan, load_device, replay, solve

STEPS = 20
BATCHES = (1, 8, 32)
TOLERANCE = 0.02
# At the end, the interpreter measures by itself, to compare.
OWN_STEPS = 2
DEVICE = "raspberry-pi-4b"
NAMES = [name for name in NETWORKS if name != "bert12"]  # minutes a step
LOSS = nn.functional.cross_entropy
OPTIMIZERS: dict[str, tuple[type[torch.optim.Optimizer], dict[str, float]]] = {
    "sgd": (torch.optim.SGD, {"lr": 0.01, "momentum": 0.9}),
    "adam": (torch.optim.Adam, {"lr": 1e-3}),
}
HEADER = (
    f"{'network':12} {'optim.':6} {'batch':>5} {'operators':>9} {'keep-all':>13} {'budget':>13} "
    f"{'predicted':>13} {'measured':>13} {'ratio':>7} {'reruns':>6} {'paged in':>13} {'s':>6}  result"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What came of one combination; `wrong` names what differs or is out of bounds."""

    network: str
    optimizer: str
    batch: int
    operators: int = 0
    keep_all_bytes: int = 0
    budget_bytes: int = 0
    predicted_bytes: int = 0
    measured_bytes: int = 0
    recomputed: int = 0
    paged_in_bytes: int = 0
    wall_s: float = 0.0
    wrong: tuple[str, ...] = ()

    @property
    def key(self) -> tuple[str, str, int]:
        return self.network, self.optimizer, self.batch

    @property
    def line(self) -> str:
        ratio = self.measured_bytes / self.predicted_bytes if self.predicted_bytes else 0.0
        return (
            f"{self.network:12} {self.optimizer:6} {self.batch:5} {self.operators:9} "
            f"{self.keep_all_bytes:13,} {self.budget_bytes:13,} {self.predicted_bytes:13,} "
            f"{self.measured_bytes:13,} {ratio:7.4f} {self.recomputed:6} {self.paged_in_bytes:13,} "
            f"{self.wall_s:6.1f}  {'WRONG: ' + ', '.join(self.wrong) if self.wrong else 'same bits'}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Peaks:
    """Bytes of RAM at the worst moment: predicted, measured here, and measured by the interpreter."""

    predicted_bytes: int
    measured_bytes: int
    own_bytes: int

    def wrong(self, budget_bytes: int) -> Iterator[str]:
        if self.measured_bytes > budget_bytes:
            yield "over the budget"
        if abs(self.measured_bytes - self.predicted_bytes) > TOLERANCE * self.predicted_bytes:
            yield "prediction off"
        if self.own_bytes != self.measured_bytes:
            yield f"the interpreter itself measured {self.own_bytes:,}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How long to train and to plan, and at what RAM."""

    steps: int
    time_limit_s: float
    ram: str


class _Case:
    """One combination; every training starts from the same seed."""

    def __init__(self, network: str, optimizer: str, batch: int, steps: int) -> None:
        kind, self._options = OPTIMIZERS[optimizer]
        self._kind = recording(kind)
        self._build = NETWORKS[network].build
        self._draw, self._batch, self._steps = NETWORKS[network].draw, batch, steps

    def fresh(self) -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(3)
        module = self._build().train()
        return module, self._kind(module.parameters(), **self._options)

    def batches(self) -> Iterator[Batch]:
        generator = torch.Generator().manual_seed(5)
        for _ in range(self._steps):
            yield self._draw(self._batch, generator)

    def posed(self) -> Posed:
        module, optimizer = self.fresh()
        device = load_device(DEVICE)
        return pose_step(module, LOSS, optimizer, next(self.batches()), device=device)

    def plainly(self) -> Outcome:
        notes = self._noted()
        module, optimizer = self.fresh()
        losses = []
        for x, y in self.batches():
            optimizer.zero_grad()
            loss = LOSS(module(x), y)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        found = outcome(module, optimizer, losses)
        found.gradients = list(notes)
        return found

    def by_plan(self, posed: Posed, plan: Plan, folder: Path) -> tuple[Outcome, Peaks]:
        """Also measured, apart from the interpreter's own accounting; the last steps by it too."""
        notes = self._noted()
        losses, peaks = [], []
        gc.collect()
        with PageStore(folder / "pages") as store:
            with AllocatorTrace() as trace:
                module, optimizer = self.fresh()
                problem = replace(posed.problem, budget=plan.budget)
                step = Interpreter(
                    posed.traced, problem, plan, store, module, optimizer, measured_steps=EVERY_STEP
                )
                step.__enter__()
            held_bytes = trace.usage.kept_bytes
            for n, (x, y) in enumerate(self.batches()):
                if n >= self._steps - OWN_STEPS:
                    losses.append(step(x, y))
                    continue
                with AllocatorTrace() as trace:
                    losses.append(step(x, y))
                peaks.append(held_bytes + trace.usage.peak_bytes)
                held_bytes += trace.usage.kept_bytes
            step.__exit__()
        found = outcome(module, optimizer, losses)
        found.gradients = list(notes)
        return found, Peaks(
            predicted_bytes=step.predicted_peak_bytes,
            measured_bytes=max(peaks),
            own_bytes=step.measured_peak_bytes,
        )

    def _noted(self) -> list[Note]:
        notes: list[Note] = self._kind.notes  # type: ignore[attr-defined]
        notes.clear()
        return notes


def run(network: str, optimizer: str, batch: int, options: Options) -> Row:
    """Train both ways and compare."""
    began_s = time.monotonic()
    case = _Case(network, optimizer, batch, options.steps)
    posed = case.posed()
    most, least = (ram_bytes(posed.problem, share) for share in ("100%", "1.1x"))
    problem = with_ram(posed.problem, max(ram_bytes(posed.problem, options.ram), least))
    plan = solve(problem, time_limit_s=options.time_limit_s).plan
    used = replay(plan, problem)
    with tempfile.TemporaryDirectory(prefix="fedpoet-") as folder:
        planned, peaks = case.by_plan(posed, plan, Path(folder))
    return Row(
        network=network,
        optimizer=optimizer,
        batch=batch,
        operators=len(problem.graph.operators),
        keep_all_bytes=most,
        budget_bytes=problem.budget.ram_bytes,
        predicted_bytes=peaks.predicted_bytes,
        measured_bytes=peaks.measured_bytes,
        recomputed=len(used.recomputed),
        paged_in_bytes=used.page_in_bytes,
        wall_s=time.monotonic() - began_s,
        wrong=(*peaks.wrong(problem.budget.ram_bytes), *_wrong_bits(case, planned)),
    )


def _wrong_bits(case: _Case, planned: Outcome) -> Iterator[str]:
    plain = case.plainly()
    if not all(map(math.isfinite, plain.losses)):
        yield "plain training itself diverges: nothing is compared"
    yield from differences(plain, planned)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=NAMES, choices=NETWORKS)
    parser.add_argument("--optimizer", nargs="+", default=[*OPTIMIZERS], choices=OPTIMIZERS)
    parser.add_argument("--batch", nargs="+", type=int, default=BATCHES)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--ram", default="50%", help='a share of keep-all\'s, "50%%", or "1.2x"')
    parser.add_argument("--time-limit", type=float, default=10.0, help="seconds for each plan")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="rows as JSON lines; goes on there"
    )
    return parser.parse_args()


def _known(path: Path | None) -> dict[tuple[str, str, int], Row]:
    if path is None or not path.exists():
        return {}
    lines = path.read_text(encoding="utf-8").splitlines()
    rows = [Row(**json.loads(line)) for line in lines]
    return {row.key: row for row in rows}


def main() -> None:
    arguments = _arguments()
    torch.set_num_threads(1)
    options = Options(steps=arguments.steps, time_limit_s=arguments.time_limit, ram=arguments.ram)
    rows = _known(arguments.out)
    print(HEADER, flush=True)
    wrong = 0
    for batch, network, optimizer in itertools.product(
        arguments.batch, arguments.only, arguments.optimizer
    ):
        row = rows.get((network, optimizer, batch)) or run(network, optimizer, batch, options)
        print(row.line, flush=True)
        wrong += bool(row.wrong)
        if arguments.out and row.key not in rows:
            with arguments.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(row)) + "\n")
    print("every promise kept" if not wrong else f"{wrong} rows break a promise")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
