"""Run the optimizer's update of parameters, as one operator of the graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor

from scheduler.errors import BadInput

from .optimizer import ParameterOptimizer
from .program import Update


class Tensors(Protocol):
    """Tensors by id; None stands for state that does not exist yet."""

    def __getitem__(self, k: int, /) -> Tensor | None: ...


def run_update(
    update: Update,
    tensors: Tensors,
    optimizers: Mapping[str, ParameterOptimizer],
) -> dict[int, Tensor]:
    """Change the parameters in place; returns their state tensors by id.

    A state tensor that is None does not exist yet; the optimizer creates it.
    """
    after: dict[int, Tensor] = {}
    for item in update.parameters:
        parameter, source = tensors[item.parameter], tensors[item.source]
        assert parameter is not None  # noqa: S101
        (gradient,) = item.gradient(source)
        if item.copies_gradient:
            gradient = gradient.clone()
        before = {n: t for n, k in item.state if (t := tensors[k]) is not None}
        state = optimizers[item.name].step(parameter, gradient, before)
        if unknown := state.keys() - dict(item.state).keys():
            raise BadInput(
                f"the optimizer made state of {item.name} that it did not make in its first two steps "
                f"({', '.join(sorted(unknown))}): it cannot be planned; use another optimizer"
            )
        after.update({k: state[n] for n, k in item.state if n in state})
    return after
