"""The training step as one function of its tensors, which `capture` records."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.overrides import TorchFunctionMode

from scheduler.errors import Untraceable
from scheduler.graph import Phase

from .batch import Batch, arguments, filled, tensors_in
from .guards import first_line
from .places import Marks, Places, named

# From the model's output and y to a 0-d tensor.
Loss = Callable[[Any, Any], Tensor]


class Joint:
    """(parameters, buffers, tensors of the batch) -> (loss, gradients that exist, buffers), all flat.

    `batch` shows how x and y are made of its tensors. These are cut into `chunks` as torch.chunk does;
    each goes through forward and backward pass in turn, gradients are added in that order, as autograd
    adds them to .grad, and so are losses.
    """

    def __init__(
        self,
        module: nn.Module,
        loss: Loss,
        wanted: tuple[str, ...],
        batch: Batch,
        chunks: int = 1,
    ) -> None:
        self.parameters = tuple(n for n, _ in module.named_parameters())
        self.buffers = tuple(n for n, _ in module.named_buffers())
        self.module, self.loss = _shell(module), loss
        self.wanted, self.chunks = wanted, chunks
        self.batch, self.inputs = batch, tuple(tensors_in(batch))
        self.places = Places(self.module, Joint.__call__.__code__)
        self.with_gradient: tuple[str, ...] = ()

    def __call__(self, *flat: Tensor) -> tuple[Tensor, ...]:
        """One step; whatever is recorded meanwhile is marked with its phase and place."""
        state = dict(zip(self.parameters + self.buffers, flat, strict=False))
        for name in self.wanted:
            state[name] = state[name].detach().requires_grad_()
        leaves = [state[name] for name in self.wanted]
        total: Tensor | None = None
        sums: dict[str, Tensor] = {}
        with Marks(self.places) as marks, _autocast_cache():
            for x, y in self._cut(flat[-len(self.inputs) :]):
                marks.phase = Phase.FORWARD
                loss = self.loss(functional_call(self.module, state, *arguments(x)), y)
                _require_scalar(loss)
                marks.phase = Phase.BACKWARD
                gradients = torch.autograd.grad(loss, leaves, allow_unused=True)
                for name, gradient in zip(self.wanted, gradients, strict=True):
                    if gradient is not None:
                        _require_dense(name, gradient)
                        sums[name] = sums[name] + gradient if name in sums else gradient
                total = loss if total is None else total.detach() + loss.detach()
        assert total is not None  # noqa: S101
        self.with_gradient = tuple(n for n in self.wanted if n in sums)
        return (
            total,
            *(sums[n] for n in self.with_gradient),
            *(state[name] for name in self.buffers),
        )

    def _cut(self, tensors: tuple[Tensor, ...]) -> Iterator[Batch]:
        parts: Iterable[tuple[Tensor, ...]] = (tensors,)
        if self.chunks > 1:
            self._require_rows(tensors)
            parts = zip(*(t.chunk(self.chunks) for t in tensors), strict=True)
        for part in parts:
            yield filled(self.batch, dict(zip(self.inputs, part, strict=True)))

    def _require_rows(self, tensors: tuple[Tensor, ...]) -> None:
        rows = {t.shape[0] if t.dim() else None for t in tensors}
        if len(rows) > 1 or None in rows:
            named = zip(self.inputs, tensors, strict=True)
            shapes = " and ".join(f"{name} of shape {tuple(t.shape)}" for name, t in named)
            raise Untraceable(f"{shapes} cannot be cut into micro-batches: give them as many rows")


@contextlib.contextmanager
def _autocast_cache() -> Iterator[None]:
    """Let torch.autocast keep the casts of parameters, as in eager training; make_fx forbids it.

    A parameter that is used twice is then cast once, and its gradient rounded once.
    """
    before = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(True)
    try:
        yield
    finally:
        torch.clear_autocast_cache()
        torch.set_autocast_cache_enabled(before)


def _shell(module: nn.Module) -> nn.Module:
    """A copy of the module's Python side around the same tensors: tracing may change its attributes."""
    memo: dict[int, Any] = {id(t): t for t in (*module.parameters(), *module.buffers())}
    with _ShareTensors():
        try:
            return copy.deepcopy(module, memo)
        except Exception as error:
            raise Untraceable(
                f"{_uncopied(module)} cannot be copied ({first_line(error)}); remove from it what "
                "copy.deepcopy refuses"
            ) from error


def _uncopied(module: nn.Module) -> str:
    """Which part of a module, the innermost, cannot be copied."""
    tensors = {id(t): t for t in (*module.parameters(), *module.buffers())}
    for name, part in reversed(list(module.named_modules())):
        try:
            copy.deepcopy(part, dict[int, Any](tensors))
        except Exception:  # noqa: BLE001
            return named(name, part)
    return named("", module)


class _ShareTensors(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        if func is torch.Tensor.__deepcopy__:
            return args[0]
        return func(*args, **(kwargs or {}))


def _require_dense(name: str, gradient: Tensor) -> None:
    if gradient.layout is not torch.strided:
        raise Untraceable(
            f"{name} gets a sparse gradient, which cannot be planned; build its layer with sparse=False"
        )


def _require_scalar(loss: object) -> None:
    if not isinstance(loss, Tensor) or loss.dim() != 0:
        got = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise Untraceable(f"the loss must be a 0-d tensor, not {got}; reduce it, e.g. with mean()")
    if not loss.requires_grad:
        raise Untraceable("the loss does not depend on any parameter that the optimizer trains")
