"""Other ways to train in less RAM than plain PyTorch takes: what a training step is compared with.

Each way takes a network, its optimizer and its loss, and gives a function that runs one step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

from benchmarks.models import Step
from benchmarks.outcomes import Outcome

TrainStep = Callable[[Tensor, Tensor], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rival:
    """A way to train: `change` makes the network one that does it."""

    name: str
    change: Callable[[nn.Module], nn.Module]


class Checkpointed(nn.Module):
    """A block that keeps its input only and runs again in the backward pass."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Any:
        return checkpoint(self.block, x, use_reentrant=False)


class Segmented(nn.Module):
    """A chain in segments of which only the inputs are kept."""

    def __init__(self, chain: nn.Sequential, segments: int) -> None:
        super().__init__()
        self.chain, self.segments = chain, segments

    def forward(self, x: Tensor) -> Any:
        return checkpoint_sequential(self.chain, self.segments, x, use_reentrant=False)


def rivals(step: Step) -> Iterator[Rival]:
    """Torch's own: no checkpoint, every block, every segment count that makes sense, torch.compile."""
    yield Rival(name="plain eager", change=lambda module: module)
    yield Rival(name="checkpoint every block", change=every_block)
    blocks = len(_chain(step.build()))
    for segments in range(2, blocks):
        yield Rival(name=f"checkpoint {segments} segments", change=partial(_segments, segments))


def train_step(module: nn.Module, optimizer: torch.optim.Optimizer, step: Step) -> TrainStep:
    """One step as everybody writes it."""

    def run(x: Tensor, y: Tensor) -> None:
        optimizer.zero_grad()
        step.loss(module(x), y).backward()
        optimizer.step()

    return run


def compiled(memory_share: float, module: nn.Module) -> nn.Module:
    """torch.compile, told to keep this share of what it would keep of the activations."""
    from torch._functorch import config

    torch.compiler.reset()  # else it may run what it compiled for another share
    made = torch.compile(module)
    config.activation_memory_budget = memory_share
    return made  # type: ignore[return-value]


def _chain(module: nn.Module) -> nn.Sequential:
    """The network itself, or its longest part that is a chain."""
    if isinstance(module, nn.Sequential):
        return module
    return max((m for m in module.modules() if isinstance(m, nn.Sequential)), key=len)


def every_block(module: nn.Module) -> nn.Module:
    chain = _chain(module)
    for n, block in enumerate(chain):
        if len(list(block.modules())) > 1:
            chain[n] = Checkpointed(block)
    return module


def names_within(found: Outcome) -> Outcome:
    """The outcome with the names that parameters had before `every_block` put blocks around them."""

    def plain(named: dict[str, Any]) -> dict[str, Any]:
        return {
            ".".join(p for p in name.split(".") if p != "block"): v for name, v in named.items()
        }

    return replace(found, tensors=plain(found.tensors), state=plain(found.state))


def _segments(segments: int, module: nn.Module) -> nn.Module:
    chain = _chain(module)
    if chain is module:
        return Segmented(chain, segments)
    for parent in module.modules():
        for name, child in parent.named_children():
            if child is chain:
                setattr(parent, name, Segmented(chain, segments))
                return module
    raise AssertionError("a chain is part of the network that it was found in")
