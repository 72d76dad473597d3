"""Time of a training step by its plan, as a ratio to plain eager in the same run.

    python benchmarks/train.py

Two nets, one thread: a convolutional one, in which compute decides, and a wide perceptron, in which
moving parameters does. Plans: keep-all (what slack RAM gives) and page-all (the most that paging can
cost). The medians of alternating blocks of steps, so that both see the same machine.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from client.interpreter import Interpreter
from client.page_store import PageStore
from client.prepare import pose_step
from scheduler import Plan, Problem, keep_all, load_device, page_all

BLOCKS, STEPS = 7, 5


def convolutional() -> tuple[nn.Module, Tensor]:
    widths = ((3, 32), (32, 64), (64, 64))
    layers: list[nn.Module] = []
    for channels, width in widths:
        layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)]
    return nn.Sequential(*layers), torch.randn(32, 3, 32, 32)


def perceptron() -> tuple[nn.Module, Tensor]:
    layers = [nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(1024, 10)), torch.randn(32, 1024)


def seconds(step: Callable[[], object]) -> float:
    began = time.perf_counter()
    for _ in range(STEPS):
        step()
    return (time.perf_counter() - began) / STEPS


def ratio(
    make: Callable[[], tuple[nn.Module, Tensor]], baseline: Callable[[Problem], Plan]
) -> float:
    torch.manual_seed(0)
    loss = nn.functional.cross_entropy
    (plain, x), (planned, _) = make(), make()
    y = torch.randint(0, 10, (len(x),))
    eager = torch.optim.SGD(plain.parameters(), lr=0.01, momentum=0.9)
    optimizer = torch.optim.SGD(planned.parameters(), lr=0.01, momentum=0.9)
    device = load_device("phone-pixel-6")
    posed = pose_step(planned, loss, optimizer, (x, y), device=device)
    plan = replace(baseline(posed.problem), budget=posed.problem.budget)

    def eager_step() -> None:
        eager.zero_grad()
        loss(plain(x), y).backward()
        eager.step()

    with (
        tempfile.TemporaryDirectory() as folder,
        PageStore(Path(folder) / "pages") as store,
        Interpreter(posed.traced, posed.problem, plan, store, planned, optimizer) as step,
    ):
        for _ in range(3):  # the first two steps are measured, which takes time
            eager_step()
            step(x, y)
        pairs = [(seconds(eager_step), seconds(lambda: step(x, y))) for _ in range(BLOCKS)]
    return statistics.median(mine for _, mine in pairs) / statistics.median(e for e, _ in pairs)


def main() -> None:
    torch.set_num_threads(1)
    for make in (convolutional, perceptron):
        for baseline in (keep_all, page_all):
            print(f"{make.__name__:14} {baseline.__name__:9} {ratio(make, baseline):5.2f} x eager")


if __name__ == "__main__":
    main()
