"""Energy, gap and seconds of planning.

    python benchmarks/plan.py --time-limit 60 INSTANCE.json:737719 OTHER.json:55% ...

Each argument is a problem file and a RAM budget, in bytes or as a share of what keep-all needs; the
deadline is 1.5 times the time of computing everything once. Without arguments: a ResNet-18 for CIFAR,
batch 8, SGD with momentum, everything counted, on the Raspberry Pi profile.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from client.trainer import pose_step
from protos.files import read_problem
from scheduler import Budget, Problem, keep_all, load_device, replay, solve
from scheduler.greedy import greedy


class Block(nn.Module):
    """Two 3 x 3 convolutions around a skip connection."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
        self.first_norm = nn.BatchNorm2d(width)
        self.second = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.second_norm = nn.BatchNorm2d(width)
        self.skip: nn.Module = nn.Identity()
        if stride > 1 or channels != width:
            shortcut = nn.Conv2d(channels, width, 1, stride, bias=False)
            self.skip = nn.Sequential(shortcut, nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.first_norm(self.first(x)))
        return torch.relu(self.second_norm(self.second(y)) + self.skip(x))


def resnet18() -> nn.Module:
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
    channels = 64
    for width in (64, 128, 256, 512):
        layers += [Block(channels, width, 1 if width == 64 else 2), Block(width, width, 1)]
        channels = width
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10)]
    return nn.Sequential(*layers)


def traced() -> Iterator[tuple[str, Problem]]:
    torch.manual_seed(0)
    model = resnet18()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    batch = (torch.randn(8, 3, 32, 32), torch.randint(0, 10, (8,)))
    device = load_device("raspberry-pi-4b")
    posed = pose_step(model, nn.functional.cross_entropy, optimizer, batch, device=device)
    for share in ("80%", "60%", "50%"):
        yield f"resnet18 traced {share}", with_ram(posed.problem, share)


def with_ram(problem: Problem, ram: str) -> Problem:
    peak_bytes = replay(keep_all(problem), problem).peak_bytes
    ram_bytes = round(peak_bytes * float(ram[:-1]) / 100) if ram.endswith("%") else int(ram)
    time_s = 1.5 * problem.compute_once.time_s
    store_bytes = problem.budget.page_store_bytes
    return replace(
        problem, budget=Budget(ram_bytes=ram_bytes, time_s=time_s, page_store_bytes=store_bytes)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("problems", nargs="*", metavar="FILE:RAM")
    parser.add_argument("--time-limit", type=float, default=60.0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    given = [p.rsplit(":", 1) for p in options.problems]
    problems = [(Path(f).stem, with_ram(read_problem(Path(f)), ram)) for f, ram in given]
    print(
        "problem                    operators        RAM  greedy   energy    bound     gap      s"
    )
    for name, problem in problems or traced():
        once_j = problem.compute_once.energy_j
        quick = greedy(problem)
        greedy_text = f"{replay(quick, problem).energy_j / once_j:.4f}" if quick else "-"
        found = solve(problem, time_limit_s=options.time_limit)
        print(
            f"{name:26} {len(problem.graph.operators):9} {problem.budget.ram_bytes:10} {greedy_text:>7} "
            f"{found.cost.energy_j / once_j:8.5f} {found.lower_bound_j / once_j:8.5f} "
            f"{found.gap:7.3%} {found.wall_s:6.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
