"""Time of a training step by its plan and by other ways to save RAM, as ratios to plain eager.

    python -m benchmarks.train [--only resnet18] [--compile]

For each network, in one run: plain eager; the plan at slack RAM and at 40 % of what keeping everything
takes; torch.utils.checkpoint with every block and with every count of segments; plans at the peaks that
the best of those reach; and the least RAM that a plan can do with. Peaks are all tensors that torch
holds: parameters, gradients, optimizer state, batch, activations, workspace. Plans are made with the
costs of this very machine, measured first. Every way takes turns with eager, a step each, so that both
see the same machine; times are medians.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.models import LARGE_MASKS, Step, step_of, transformer_stack
from benchmarks.rivals import Rival, compiled, rivals, train_step
from client.allocator import AllocatorTrace
from client.costs import measured_costs
from client.interpreter import Interpreter
from client.meter import NoMeter
from client.page_store import PageStore
from client.prepare import Posed, pose_step
from client.profile import profile_machine
from scheduler import Budget, DeviceProfile, Plan, Problem, floor, keep_all, replay, solve

# Batches with which activations, not parameters, take most of the RAM.
STEPS = (
    step_of("resnet18", 32),
    step_of("vgg16", 64),
    step_of("mobilenetv2", 32),
    step_of("unet", 4, **LARGE_MASKS),
    step_of("gru", 64),
    step_of("bert4", 32),
    step_of("bert12", 8),
    transformer_stack(3),
)
DEFAULT = ("resnet18", "bert4")
WARM_UP = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One way to train: its peak, and its time as a ratio to plain eager."""

    name: str
    peak_bytes: int
    ratio: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Contest:
    """A network that all ways train, with a batch, its planning problem, and how many steps to time."""

    step: Step
    x: Tensor
    y: Tensor
    posed: Posed
    steps: int
    plan_s: float

    @property
    def keep_all_bytes(self) -> int:
        """The peak of keeping everything, by the accountant."""
        problem = self.posed.problem
        return replay(keep_all(problem), problem).peak_bytes


def contest(step: Step, device: DeviceProfile, options: argparse.Namespace) -> Contest:
    """Trace a network at its batch size and measure what its operators cost here."""
    torch.manual_seed(0)
    x, y = step.batch()
    module = step.build().train()
    optimizer = step.optimizer(module.parameters())
    posed = pose_step(module, step.loss, optimizer, (x, y), device=device, costing=measured_costs)
    return Contest(step=step, x=x, y=y, posed=posed, steps=options.steps, plan_s=options.time_limit)


def by_rival(game: Contest, rival: Rival) -> Measured:
    """Peak and time of another way to train; the whole training runs under the instrument for the peak."""
    step, x, y = game.step, game.x, game.y
    with AllocatorTrace() as trace:
        run = _fresh(step, rival)
        own_x, own_y = x.clone(), y.clone()
        for _ in range(2):
            run(own_x, own_y)
        del run, own_x, own_y
    run = _fresh(step, rival)
    ratio = _ratio(game, partial(run, x, y))
    return Measured(name=rival.name, peak_bytes=trace.usage.peak_bytes, ratio=ratio)


def by_plan(game: Contest, name: str, ram_bytes: int | None) -> Measured:
    """Peak and time of a plan within this RAM; None is slack, where everything is kept."""
    problem = _within(game.posed.problem, 10**12 if ram_bytes is None else ram_bytes)
    plan = _plan(problem, None if ram_bytes is None else game.plan_s)
    torch.manual_seed(0)
    module = game.step.build().train()
    optimizer = game.step.optimizer(module.parameters())
    with (
        tempfile.TemporaryDirectory() as folder,
        PageStore(Path(folder) / "pages") as store,
        Interpreter(game.posed.traced, problem, plan, store, module, optimizer) as step,
    ):
        ratio = _ratio(game, lambda: step(game.x, game.y))
        return Measured(name=name, peak_bytes=step.measured_peak_bytes, ratio=ratio)


def _within(problem: Problem, ram_bytes: int) -> Problem:
    return replace(problem, budget=Budget(ram_bytes=ram_bytes))


def _plan(problem: Problem, time_limit_s: float | None) -> Plan:
    if time_limit_s is None:
        return replace(keep_all(problem), budget=problem.budget)
    return solve(problem, time_limit_s=time_limit_s, gap=0.01).plan


def _fresh(step: Step, rival: Rival) -> Callable[[Tensor, Tensor], None]:
    torch.manual_seed(0)
    module = rival.change(step.build().train())
    return train_step(module, step.optimizer(module.parameters()), step)


def _ratio(game: Contest, run: Callable[[], object]) -> float:
    eager = partial(_fresh(game.step, Rival(name="", change=lambda m: m)), game.x, game.y)
    for _ in range(WARM_UP):  # the first steps of a plan are measured, which takes time
        eager()
        run()
    pairs = [(_seconds(eager), _seconds(run)) for _ in range(game.steps)]
    return statistics.median(r for _, r in pairs) / statistics.median(e for e, _ in pairs)


def _seconds(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def ways(game: Contest, with_compile: bool) -> Iterator[Measured]:
    """Every way to train this network, as it is measured."""
    everything = game.keep_all_bytes
    yield by_plan(game, "plan, slack", None)
    yield by_plan(game, "plan, 40 % of keep-all", int(0.4 * everything))
    others: list[Measured] = []
    for rival in rivals(game.step):
        others.append(by_rival(game, rival))
        yield others[-1]
    checkpointed = others[1:]
    frugal = min(checkpointed, key=lambda m: m.peak_bytes)
    quick = min(checkpointed, key=lambda m: m.ratio)
    for best in dict.fromkeys((checkpointed[0], frugal, quick)):
        yield by_plan(game, f"plan, peak of {best.name}", best.peak_bytes)
    least = int(1.05 * floor(game.posed.problem).ram_bytes)
    yield by_plan(game, "plan, 1.05 x floor", least)
    for share in (0.5, 0.2) if with_compile else ():
        rival = Rival(name=f"torch.compile, {share:.0%} kept", change=partial(compiled, share))
        yield by_rival(game, rival)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=DEFAULT, choices=[s.name for s in STEPS])
    parser.add_argument("--steps", type=int, default=9, help="timed steps of each way")
    parser.add_argument("--time-limit", type=float, default=30.0, help="seconds for each plan")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--compile", action="store_true", help="torch.compile too: minutes each")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        meter = NoMeter(reason="only time is compared")
        device = profile_machine(
            name="here", store_folder=Path(folder), today="the day of this run", meter=meter
        )
    for step in (s for s in STEPS if s.name in options.only):
        game = contest(step, device, options)
        everything = game.keep_all_bytes
        print(f"\n{step.description}; {options.threads} thread(s)")
        print(f"{'way':34} {'peak MB':>8} {'of keep-all':>11} {'x eager':>8}")
        with contextlib.suppress(KeyboardInterrupt):
            for made in ways(game, options.compile):
                share = made.peak_bytes / everything
                print(
                    f"{made.name:34} {made.peak_bytes / 1e6:8.1f} {share:11.0%} {made.ratio:8.2f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
