"""Training steps on a GPU by their plans and by other ways to save memory, as ratios to plain eager.

    python -m benchmarks.gpu [--only resnet50] [--shares 0.6 0.4]
    python -m benchmarks.gpu --device cpu --quick        # the same with small networks, to try it out

For each network, in one run: plain eager; plans within all memory and within shares of what keeping
everything takes; torch.utils.checkpoint of every block; torch.autograd.graph.save_on_cpu with pinned
memory; and Rockmate, if it is installed. A peak is torch.cuda.max_memory_allocated of the training
steps (without a GPU, what torch's allocator of RAM held). Ways take turns with eager, a step each;
times are medians by the GPU's events. Same bits: losses, parameters, buffers, optimizer state and
generators after the steps that warm up, compared with those of plain eager.

Ends with exit code 0; 2 where there is no CUDA device; 1 if a plan's peak was above its budget or a plan
gave other bits.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib.util
import os
import statistics
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.utils.deterministic as deterministically

from benchmarks.gpu_models import QUICK_STEPS, STEPS
from benchmarks.gpu_ways import (
    Around,
    Change,
    Contest,
    Trained,
    eager,
    planned,
    rival,
    rockmate,
    unchanged,
)
from benchmarks.models import Step
from benchmarks.outcomes import Outcome, differences
from benchmarks.rivals import every_block
from client.costs import measured_costs
from client.gpu_profile import profile_gpu, require_gpu, with_measured_pages
from client.host_store import HostStore, Immediate
from client.prepare import pose_step
from client.timing import clock_of
from scheduler import (
    DeviceProfile,
    FedpoetError,
    floor,
    keep_all,
    load_device,
    replay,
)

# Exact sums in a fixed order, on a GPU too: https://docs.nvidia.com/cuda/cublas, "Results reproducibility".
ENVIRONMENT = {
    "PYTORCH_ALLOC_CONF": "expandable_segments:True",
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
}
TODAY = "the day of this run"
QUICK_PAGE_BYTES = (2**16, 2**20)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One way to train. `problem` says why it did not; `differs` what is not as plain eager left it.

    A plan has a budget; others have none.
    """

    name: str
    budget_bytes: int | None = None
    peak_bytes: int = 0
    ratio: float = 0.0
    differs: tuple[str, ...] = ()
    problem: str | None = None

    @property
    def broken(self) -> bool:
        """Whether a plan broke a promise."""
        if self.budget_bytes is None:
            return False
        over = self.peak_bytes > self.budget_bytes
        return over or bool(self.differs) or self.problem is not None


def measured(
    game: Contest,
    name: str,
    opened: Callable[[], contextlib.AbstractContextManager[Trained]],
    plain: Outcome | None = None,
    budget_bytes: int | None = None,
) -> tuple[Result, Outcome | None]:
    """Open a way to train and time it against plain eager; what it cannot do is its result."""
    gc.collect()
    result = Result(name=name, budget_bytes=budget_bytes)
    try:
        with opened() as way:
            ratio = _ratio(game, way.run) if plain else 1.0
            differs = tuple(differences(plain, way.found)) if plain else ()
            done = replace(result, peak_bytes=way.peak_bytes, ratio=ratio, differs=differs)
            return done, way.found
    except (FedpoetError, RuntimeError, TypeError, ValueError, AttributeError) as error:
        return replace(result, problem=str(error).splitlines()[0][:90]), None


def _ratio(game: Contest, run: Callable[[], float]) -> float:
    with eager(game) as plain:
        for each in (plain.run, run):
            each()
        pairs = [(_seconds(game, plain.run), _seconds(game, run)) for _ in range(game.steps)]
    return statistics.median(r for _, r in pairs) / statistics.median(e for e, _ in pairs)


def _seconds(game: Contest, run: Callable[[], float]) -> float:
    began_s = game.clock()
    run()
    return game.clock() - began_s


def ways(game: Contest, shares: tuple[float, ...]) -> Iterator[Result]:
    """Every way to train this network, as it is measured."""
    first, plain = measured(game, "plain eager", partial(eager, game))
    yield first
    if plain is None:
        return
    problem = game.posed.problem
    all_bytes = replay(keep_all(problem), problem).peak_bytes
    budgets = {"plan, all memory": game.posed.device.trainable_bytes}
    least_bytes = int(1.05 * floor(problem).ram_bytes)
    for share in shares:
        if share * all_bytes > least_bytes:
            budgets[f"plan, {share:.0%} of keep-all"] = int(share * all_bytes)
        else:
            budgets["plan, 1.05 x floor"] = least_bytes
    for name, budget_bytes in budgets.items():
        yield measured(game, name, partial(planned, game, budget_bytes), plain, budget_bytes)[0]
    pinned = partial(torch.autograd.graph.save_on_cpu, pin_memory=game.here.type == "cuda")
    others: dict[str, tuple[Change, Around]] = {
        "checkpoint every block": (lambda m, _: every_block(m), contextlib.nullcontext),
        "save_on_cpu, pinned": (unchanged, pinned),
    }
    if importlib.util.find_spec("rockmate"):
        least = int(min(shares) * all_bytes)
        others["rockmate"] = (partial(rockmate, least), contextlib.nullcontext)
    else:
        yield Result(name="rockmate", problem="is not installed")
    for name, (change, around) in others.items():
        yield measured(game, name, partial(rival, game, change, around), plain)[0]


def contest(
    step: Step, here: torch.device, device: DeviceProfile, options: argparse.Namespace
) -> Contest:
    """Trace a network where it is to be trained, and measure what its operators cost there."""
    torch.manual_seed(0)
    x, y = step.batch()
    module = step.build().train().to(here)
    optimizer = step.optimizer(module.parameters())
    costing = partial(measured_costs, limit_s=1.0 if options.quick else 60.0)
    posed = pose_step(module, step.loss, optimizer, (x, y), device=device, costing=costing)
    return Contest(
        step=step,
        here=here,
        x=x,
        y=y,
        posed=posed,
        clock=clock_of(here),
        steps=options.steps,
        plan_s=options.time_limit,
    )


def line(result: Result) -> str:
    """A row of the table."""
    if result.problem is not None:
        return f"{result.name:28} {result.problem}"
    budget = "" if result.budget_bytes is None else f"{result.budget_bytes / 1e6:.1f}"
    same = "yes" if not result.differs else f"no: {', '.join(sorted(result.differs)[:3])}"
    return (
        f"{result.name:28} {result.ratio:7.2f} {result.peak_bytes / 1e6:10.1f} {budget:>10}  {same}"
    )


def _device(options: argparse.Namespace) -> tuple[torch.device, DeviceProfile]:
    if options.device == "cuda":
        here = require_gpu()
        return here, profile_gpu(here, name="here", today=TODAY)
    here, pi = torch.device("cpu"), load_device("raspberry-pi-4b")
    return here, with_measured_pages(
        pi, HostStore(Immediate()), here, clock_of(here), TODAY, QUICK_PAGE_BYTES
    )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--quick", action="store_true", help="small networks")
    parser.add_argument("--only", nargs="+", default=[s.name for s in STEPS])
    parser.add_argument("--shares", nargs="+", type=float, default=[0.6, 0.4])
    parser.add_argument("--steps", type=int, default=9, help="timed steps of each way")
    parser.add_argument("--time-limit", type=float, default=60.0, help="seconds for each plan")
    options = parser.parse_args(arguments)
    try:
        here, device = _device(options)
    except FedpoetError as error:
        print(f"error: {error}; to try the benchmark out: --device cpu --quick", file=sys.stderr)
        return error.exit_code
    broken = False
    with deterministic():
        for step in (
            s for s in (QUICK_STEPS if options.quick else STEPS) if s.name in options.only
        ):
            game = contest(step, here, device, options)
            print(f"\n{step.description}; {device.description}")
            print(f"{'way':28} {'x eager':>7} {'peak MB':>10} {'budget MB':>10}  same bits")
            for result in ways(game, tuple(options.shares)):
                print(line(result), flush=True)
                broken |= result.broken
    return int(broken)


@contextlib.contextmanager
def deterministic() -> Iterator[None]:
    """Kernels whose result is the same every time."""
    before = (
        torch.are_deterministic_algorithms_enabled(),
        deterministically.fill_uninitialized_memory,
    )
    torch.use_deterministic_algorithms(True)
    deterministically.fill_uninitialized_memory = False  # it takes time, and nobody reads it
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        deterministically.fill_uninitialized_memory = before[1]


if __name__ == "__main__":
    if any(os.environ.get(name) != value for name, value in ENVIRONMENT.items()):
        # They are read when torch is loaded, or first computes: begin anew with them.
        os.execve(sys.executable, [*sys.orig_argv], os.environ | ENVIRONMENT)  # noqa: S606
    raise SystemExit(main())
