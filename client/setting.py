"""What a trace takes for granted of a module and its optimizer, besides names and shapes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from scheduler.errors import BadInput, Untraceable

from .optimizer import Group


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """The optimizer's class, the modules in training mode, and the options of every trained parameter.

    Options are the names of those switched on (not 0, None or False), the learning rate aside:
    others make the optimizer keep other state and take other memory.
    """

    optimizer: str
    training: frozenset[str]
    options: dict[str, frozenset[str]]

    @classmethod
    def of(cls, module: nn.Module, optimizer: torch.optim.Optimizer) -> Setting:
        """The setting now. Raises Untraceable for what training by a plan would not do."""
        known = optimizer.defaults.keys() - {"lr"}
        return cls(
            optimizer=type(optimizer).__qualname__,
            training=frozenset(n for n, m in module.named_modules() if m.training),
            options={
                n: frozenset(k for k in known if _is_on(g.get(k)))
                for n, g in trained(module, optimizer).items()
            },
        )

    def require(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Raise BadInput if the setting is another one by now. Options may be switched off."""
        try:
            now = Setting.of(module, optimizer)
        except Untraceable as error:
            raise BadInput(str(error)) from error
        if now.optimizer != self.optimizer:
            raise BadInput(
                f"the optimizer is {now.optimizer}, traced was {self.optimizer}: plan again"
            )
        for name in now.training ^ self.training:
            mode = "training" if name in self.training else "evaluation"
            raise BadInput(
                f"{name or 'the module'} was traced in {mode} mode: set that mode or plan again"
            )
        for name in now.options.keys() ^ self.options.keys():
            how = "was traced as trained" if name in self.options else "was not traced as trained"
            raise BadInput(
                f"{name} {how}: set requires_grad and the optimizer's parameters back or plan again"
            )
        for name, options in now.options.items():
            for option in options - self.options[name]:
                raise BadInput(
                    f"{option} was off for {name} in the trace: switch it off or plan again"
                )


def trained(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Group]:
    """The optimizer's group of every parameter that is trained. Raises Untraceable."""
    if any(getattr(optimizer, f"_optimizer_step_{when}_hooks") for when in ("pre", "post")):
        raise Untraceable("the optimizer has a hook on its step; remove it")
    names = {p: n for n, p in module.named_parameters()}
    found: dict[str, Group] = {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter not in names:
                raise Untraceable(
                    "the optimizer holds a parameter that is not the module's; build it from "
                    "module.parameters()"
                )
            hooks = ("_backward_hooks", "_post_accumulate_grad_hooks")
            if any(getattr(parameter, h) for h in hooks):
                raise Untraceable(f"{names[parameter]} has a gradient hook; remove it")
            if parameter.requires_grad:
                found[names[parameter]] = group
    if not found:
        raise Untraceable("the optimizer trains no parameter of the module")
    return {n: found[n] for n in names.values() if n in found}


def _is_on(option: object) -> bool:
    return isinstance(option, bool | int | float) and bool(option)
