"""An open interpreter with its page store, and who else may want the model meanwhile."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .page_store import unused_path
from .prepare import Prepared
from .trainer import opened


class Session:
    """An open interpreter with its page store; gives back when somebody else needs the model."""

    def __init__(
        self,
        prepared: Prepared,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        folder: Path | None,
    ) -> None:
        self._prepared, self._optimizer = prepared, optimizer
        with contextlib.ExitStack() as stack:
            self.interpreter = stack.enter_context(
                opened(prepared, model, optimizer, unused_path(folder))
            )
            self._opened: contextlib.ExitStack | None = stack.pop_all()
        self._hooks = _hooked(model, optimizer, self._give_back)

    def runs(self, prepared: Prepared) -> bool:
        """Whether this is open for that plan."""
        return self._opened is not None and self._prepared is prepared

    def close(self) -> None:
        """Give the memory back, for good."""
        for hook in self._hooks:
            hook.remove()
        self._give_back()

    def _give_back(self, *_: object) -> None:
        # Called from hooks, whose list must not change while torch goes through it.
        opened, self._opened = self._opened, None
        if opened is not None:
            opened.close()
            _order_state(self._optimizer)


def _hooked(
    model: nn.Module, optimizer: torch.optim.Optimizer, before: Callable[..., None]
) -> list[Any]:
    """Let `before` run before a part of the model runs, or it or the optimizer is saved or loaded."""
    hooks: list[Any] = [
        optimizer.register_state_dict_pre_hook(before),
        optimizer.register_load_state_dict_pre_hook(before),
    ]
    module: Any  # torch leaves some of these methods untyped
    for module in model.modules():
        hooks.append(module.register_forward_pre_hook(before))
        hooks.append(module.register_state_dict_pre_hook(before))
        hooks.append(module.register_load_state_dict_pre_hook(before))
    return hooks


def _order_state(optimizer: torch.optim.Optimizer) -> None:
    """State in the order of the parameters, as plain steps leave it: saved files are then the same."""
    state = optimizer.state
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter in state:
                state[parameter] = state.pop(parameter)
