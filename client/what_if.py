"""What else could be trained in less RAM: other batches, sequences, frozen layers, optimizers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import torch
from torch import nn

from scheduler import DeviceProfile
from scheduler.errors import BadInput, Untraceable
from scheduler.least_ram import Change

from .prepare import pose
from .workload import Examples, Workload


def changes(workload: Workload, device: DeviceProfile) -> Iterator[Change]:
    """Each change of the workload, traced for real on a device; or why it does not apply."""
    yield from (
        _change("batch halved", device, lambda: [_batch_halved(workload)]),
        _change("sequence halved", device, lambda: _sequence_halved(workload)),
        _change("first half frozen", device, lambda: [_frozen(workload, _first_half)]),
        _change(
            "all but the last layer frozen", device, lambda: [_frozen(workload, _all_but_last)]
        ),
        _change("SGD without momentum", device, lambda: [_plain_sgd(workload)]),
    )


def _change(name: str, device: DeviceProfile, make: Callable[[], list[Workload]]) -> Change:
    """The first of the workloads that can be posed."""
    failed = ""
    try:
        for workload in make():
            try:
                return Change(name=name, posed=pose(workload, device).problem)
            except (BadInput, Untraceable) as error:
                failed = failed or f"cannot be traced: {error}"
    except _DoesNotApply as why:
        return Change(name=name, posed=f"does not apply: {why}")
    return Change(name=name, posed=failed)


class _DoesNotApply(Exception):
    """The change means nothing for this workload; says why."""


def _batch_halved(workload: Workload) -> Workload:
    if workload.batch_size < 2:
        raise _DoesNotApply("a batch has one example already")
    return replace(workload, batch_size=workload.batch_size // 2)


def _sequence_halved(workload: Workload) -> list[Workload]:
    """One workload for each axis that may be the sequence, the likeliest first."""
    x = workload.training_examples(0).x
    shape = tuple(x.shape[1:])
    words = not x.is_floating_point()
    if words and len(shape) == 1:
        axes = [1]
    elif len(shape) == 2:
        # [n, time, channels] or [n, channels, time]: sequences are mostly longer than they are wide.
        axes = sorted((1, 2), key=lambda axis: -shape[axis - 1])
    else:
        said = " x ".join(map(str, ("n", *shape)))
        raise _DoesNotApply(f"an input of shape {said} has no sequence axis")
    axes = [axis for axis in axes if shape[axis - 1] > 1]
    if not axes:
        raise _DoesNotApply("a sequence has one element already")
    return [_cut(workload, axis) for axis in axes]


def _cut(workload: Workload, axis: int) -> Workload:
    """Inputs cut to half along an axis, and targets that have one entry per element too."""

    def cut(examples: Examples) -> Examples:
        length = examples.x.shape[axis]
        half = slice(0, length // 2)
        x = examples.x.movedim(axis, 1)[:, half].movedim(1, axis).contiguous()
        y = examples.y
        if y.dim() > 1 and y.shape[1] == length:
            y = y[:, half].contiguous()
        return Examples(x=x, y=y)

    return replace(workload, data=lambda partition: cut(workload.data(partition)))


def _first_half(layers: list[nn.Module]) -> list[nn.Module]:
    return layers[: len(layers) // 2]


def _all_but_last(layers: list[nn.Module]) -> list[nn.Module]:
    return layers[:-1]


def _frozen(workload: Workload, choose: Callable[[list[nn.Module]], list[nn.Module]]) -> Workload:
    """Layers are modules with parameters of their own, in the order in which the model lists them."""

    def layers(module: nn.Module) -> list[nn.Module]:
        return [m for m in module.modules() if next(m.parameters(recurse=False), None) is not None]

    def model() -> nn.Module:
        made = workload.model()
        for layer in choose(layers(made)):
            for parameter in layer.parameters(recurse=False):
                parameter.requires_grad_(False)
        return made

    def optimizer(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return workload.optimizer([p for p in parameters if p.requires_grad])

    with torch.random.fork_rng(devices=[]):
        count = len(layers(workload.model()))
    if count < 2:
        raise _DoesNotApply(f"the model has {count} layer with parameters")
    return replace(workload, model=model, optimizer=optimizer)


def _plain_sgd(workload: Workload) -> Workload:
    with torch.random.fork_rng(devices=[]):
        now = workload.optimizer(workload.model().parameters())
    (group, *_) = now.param_groups
    if isinstance(now, torch.optim.SGD) and not any(g["momentum"] for g in now.param_groups):
        raise _DoesNotApply("the optimizer is that already")

    def optimizer(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr=float(group["lr"]))

    return replace(workload, optimizer=optimizer)
