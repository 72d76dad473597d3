"""The quickest way to call an operator: torch's Python function of its name, where that is the same call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx
from torch.utils._python_dispatch import TorchDispatchMode

# Where torch keeps functions that are made for Python; they read their arguments faster than operators.
_PLACES = (torch._C.TensorBase, torch._C._VariableFunctions, torch._C._nn)  # noqa: SLF001

Call = tuple[Any, tuple[Any, ...], dict[str, Any]]


def binding(node: fx.Node, values: Mapping[fx.Node, Any]) -> Callable[..., Any]:
    """A function that calls the node's operator and nothing else; `values` are the nodes' fake values.

    A function of torch is taken only if it was seen to make the very same call on the fakes, so this
    must run under their mode.
    """
    target: Any = node.target
    args, kwargs = fx.map_arg((node.args, node.kwargs), values.__getitem__)
    # OpOverload's own __call__ does no more than call this.
    direct: Callable[..., Any] = target._op  # noqa: SLF001
    wanted = _calls(direct, args, kwargs)
    for place in _PLACES:
        found: Callable[..., Any] | None = getattr(place, target._opname, None)  # noqa: SLF001
        if found is not None and _same(_calls(found, args, kwargs), wanted):
            return found
    return direct


def _calls(function: Callable[..., Any], args: Any, kwargs: Any) -> list[Call]:
    """The operators that a function calls; none if it cannot take these arguments."""
    noting = _Noting()
    with noting:
        try:
            function(*args, **kwargs)
        except (TypeError, ValueError, RuntimeError):
            return []
    return noting.calls


def _same(calls: list[Call], wanted: list[Call]) -> bool:
    if len(calls) != 1 or len(wanted) != 1:
        return False
    (one, args, kwargs), (other, its_args, its_kwargs) = calls[0], wanted[0]
    return one is other and _equal(args, its_args) and _equal(kwargs, its_kwargs)


def _equal(one: Any, other: Any) -> bool:
    """Whether arguments are the same: tensors by identity, all else by type and value."""
    if isinstance(one, torch.Tensor) or isinstance(other, torch.Tensor):
        return one is other
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_equal, one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_equal(one[k], other[k]) for k in one)
    return type(one) is type(other) and bool(one == other)


class _Noting(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes every operator that is called, and calls it. Fakes ask for their device on the way."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[Call] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not torch.ops.prim.device.default:
            self.calls.append((func, args, kwargs or {}))
        return func(*args, **(kwargs or {}))
