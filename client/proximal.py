"""FedProx on the device: an optimizer that is drawn back to where the round began.

FedProx (Li et al., MLSys 2020) adds mu / 2 * |w - w0|^2 to the loss, w0 being the model that the coordinator
sent. The gradient of that is mu * (w - w0), so it is enough to add this to each parameter's gradient. The
starting point is state of the optimizer, and so traced, planned, paged and counted like all of its state.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from scheduler.errors import BadInput

START, MU = "proximal_start", "proximal_mu"


def proximal(optimizer: torch.optim.Optimizer, mu: float) -> torch.optim.Optimizer:
    """A new optimizer like this one, which has made no step, with the proximal term; this one for `mu` 0.

    Raises BadInput for a negative `mu`.
    """
    if not 0 <= mu < float("inf"):
        raise BadInput(f"proximal-mu must be 0 or more, not {mu}")
    if mu == 0:
        return optimizer
    groups = [dict(group) | {MU: mu} for group in optimizer.param_groups]
    made = _kind(type(optimizer))(  # type: ignore[arg-type]
        groups, **_options(type(optimizer), groups[0])
    )
    for group, given in zip(made.param_groups, groups, strict=True):
        group.update(given)
    return made


@functools.cache
def _kind(base: Callable[..., torch.optim.Optimizer]) -> type[torch.optim.Optimizer]:
    """The class `base` with the proximal term; one for each base, so that types can be compared."""

    class Proximal(base):  # type: ignore[valid-type, misc]
        def __init__(
            self, params: Any, *args: Any, proximal_mu: float = 0.0, **kwargs: Any
        ) -> None:
            super().__init__(params, *args, **kwargs)
            for group in self.param_groups:
                group.setdefault(MU, proximal_mu)

        def step(self, *args: Any, **kwargs: Any) -> Any:
            with _drawn_back(self):
                return super().step(*args, **kwargs)

    own = inspect.signature(base)
    mu = inspect.Parameter(MU, inspect.Parameter.KEYWORD_ONLY, default=0.0)
    Proximal.__signature__ = own.replace(parameters=[*own.parameters.values(), mu])
    Proximal.__name__ = Proximal.__qualname__ = f"Proximal{base.__name__}"
    return Proximal


@contextmanager
def _drawn_back(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Gradients with the proximal term.

    Optimizers take a parameter without state for a new one, so the starting points are out of sight
    meanwhile.
    """
    starts: dict[torch.Tensor, torch.Tensor] = {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is None:
                continue
            start = optimizer.state[parameter].pop(START, None)
            if start is None:
                start = parameter.detach().clone()
            starts[parameter] = start
            parameter.grad.add_(parameter.detach() - start, alpha=group[MU])
    try:
        yield
    finally:
        for parameter, start in starts.items():
            optimizer.state[parameter][START] = start


def _options(kind: type[torch.optim.Optimizer], group: dict[str, Any]) -> dict[str, Any]:
    accepted = inspect.signature(kind).parameters
    return {k: v for k, v in group.items() if k in accepted and k != "params"}
