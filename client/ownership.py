"""Take over the memory of a module and its optimizer for the time of training, and give it back."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from scheduler.errors import BadInput

from .allocator import take_scratch
from .layout import Layout
from .memory import Memory
from .optimizer import parameter_optimizers
from .program import Traced


class Ownership:
    """Moves parameters, buffers and optimizer state between their owners and a Memory.

    Raises BadInput when built for another module or optimizer than the one traced.
    """

    def __init__(
        self, traced: Traced, memory: Memory, module: nn.Module, optimizer: torch.optim.Optimizer
    ) -> None:
        self._program, self._memory, self._optimizer = traced.program, memory, optimizer
        self._module, self._graph = module, traced.graph
        self._parameters = dict(module.named_parameters())
        self._owned = self._matched()
        names = [u.name for u in self._program.updates]
        self._program.setting.require(module, optimizer)
        self.optimizers = parameter_optimizers(names, module, optimizer)
        self._plain: dict[str, dict[str, Any]] = {}
        self._taken: list[str] = []

    def take(self) -> None:
        """Take everything over. If the page store is full, give it back and raise."""
        self._owned = self._matched()
        try:
            for k, owner in self._owned.items():
                self._memory.set_owner(k, owner)
                self._memory.install(k, owner.data)
            for k, constant in self._program.constants:
                self._memory.install(k, constant)
            if self._program.scratch is not None:
                take_scratch(self._program.device)
                self._memory.reserve(self._program.scratch)
            for update in self._program.updates:
                self._take_state(update.name, dict(update.state))
        except BaseException:
            self.give_back()
            raise

    def give_back(self) -> None:
        """Bring everything into RAM and hand it to module and optimizer."""
        try:
            self._memory.bring_all()
        finally:
            for update in self._program.updates:
                if update.name in self._taken:
                    self._give_state(update.name, dict(update.state))
            self._taken.clear()
            self._memory.forget()

    def begin_step(self) -> None:
        """Note what of the optimizer's state is not a tensor; all else must be as it was left."""
        self._program.setting.require(self._module, self._optimizer)
        for k, owner in self._owned.items():
            same_type = owner.dtype is self._program.layouts[k].dtype
            if not (same_type and self._memory.is_followed(k, owner)):
                raise BadInput(
                    f"{self._graph.tensors[k].name} was moved or converted between steps; do that "
                    "before training or after it"
                )
        self._plain = {n: dict(o.plain) for n, o in self.optimizers.items() if o.plain}

    def undo_step(self) -> None:
        """Restore what `begin_step` noted."""
        for name, optimizer in self.optimizers.items():
            optimizer.plain = self._plain.get(name, {})

    def _take_state(self, name: str, ids: dict[str, int]) -> None:
        parameter = self._parameters[name]
        state = self._optimizer.state.get(parameter, {})
        tensors = {n: v for n, v in state.items() if isinstance(v, Tensor)}
        for n, tensor in tensors.items():
            if n not in ids or Layout.of(tensor).storage_bytes != self._bytes(ids[n]):
                raise BadInput(
                    f"the optimizer's state {n} of {name} is not as traced: trace with this optimizer"
                )
        for n, k in ids.items():
            self._memory.install(k, tensors.get(n))
        self._optimizer.state.pop(parameter, None)
        self.optimizers[name].plain = {n: v for n, v in state.items() if n not in tensors}
        self._taken.append(name)

    def _give_state(self, name: str, ids: dict[str, int]) -> None:
        tensors = {n: self._memory[k] for n, k in ids.items() if k in self._memory}
        state = {n: t for n, t in tensors.items() if t is not None} | self.optimizers[name].plain
        if state:
            self._optimizer.state[self._parameters[name]] = state

    def _matched(self) -> dict[int, Tensor]:
        """The module's tensors by id, after a look at their names, types and shapes."""
        tensors = {**self._parameters, **dict(self._module.named_buffers())}
        found: dict[int, Tensor] = {}
        for name, k in (*self._program.parameters, *self._program.buffers):
            want = self._program.layouts[k]
            got = Layout.of(tensors[name].data) if name in tensors else None
            if got != want:
                shown = "nothing" if got is None else f"{got.shape} {got.dtype}"
                raise BadInput(
                    f"the module has {shown} for {name}, traced was {want.shape} {want.dtype}: trace "
                    "this module"
                )
            found[k] = tensors[name]
        if len(found) != len(tensors):
            raise BadInput(
                "the module has parameters or buffers that were not traced: trace it again"
            )
        return found

    def _bytes(self, k: int) -> int:
        return self._program.layouts[k].storage_bytes
