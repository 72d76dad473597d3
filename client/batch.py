"""What a training step is given: x for the model and y for the loss, in one tensor each or in several."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from scheduler.errors import BadInput

# A tensor, or tuples, lists and dictionaries of them.
Part: TypeAlias = "Tensor | Sequence[Part] | Mapping[str, Part]"
Batch: TypeAlias = tuple[Part, Part]


def tensors_in(batch: Any) -> dict[str, Tensor]:
    """The tensors of a batch by their names, such as x, x[0] or x['mask'], in the batch's order.

    Raises BadInput for what is no pair (x, y), and for anything in it that is no dense tensor.
    """
    if not (isinstance(batch, tuple | list) and len(batch) == 2):
        raise BadInput("a batch is a pair (x, y), each a tensor, or a tuple or dict of tensors")
    found = {
        name: leaf for part, at in zip(batch, "xy", strict=True) for name, leaf in _leaves(part, at)
    }
    if not found:
        raise BadInput("the batch holds no tensor; give at least one, in x or in y")
    for name, tensor in found.items():
        if not isinstance(tensor, Tensor) or tensor.layout is not torch.strided:
            raise BadInput(
                f"{name} must be a dense tensor, not {type(tensor).__name__}: set in the model or the "
                "loss what is no tensor, and give () for a y that the loss does not need"
            )
    return found


def filled(batch: Batch, tensors: Mapping[str, Tensor]) -> Batch:
    """A batch built like this one, of other tensors, which go by the names of `tensors_in`."""
    x, y = batch
    return _filled(x, "x", tensors), _filled(y, "y", tensors)


def arguments(x: Part) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What the model is called with: one tensor, a tuple's items in their order, or a dict's by name."""
    if isinstance(x, Mapping):
        return (), dict(x)
    return (tuple(x), {}) if isinstance(x, tuple | list) else ((x,), {})


def _leaves(part: Any, name: str) -> Iterator[tuple[str, Any]]:
    for key, inner in _items(part):
        yield from _leaves(inner, f"{name}[{key!r}]")
    if not isinstance(part, Mapping | tuple | list):
        yield name, part


def _filled(part: Any, name: str, tensors: Mapping[str, Tensor]) -> Any:
    if not isinstance(part, Mapping | tuple | list):
        return tensors[name]
    made = {key: _filled(inner, f"{name}[{key!r}]", tensors) for key, inner in _items(part)}
    if isinstance(part, Mapping):
        return made
    return list(made.values()) if isinstance(part, list) else tuple(made.values())


def _items(part: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(part, Mapping):
        yield from part.items()
    elif isinstance(part, tuple | list):
        yield from enumerate(part)
