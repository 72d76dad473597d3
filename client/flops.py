"""Floating-point operations of a node: torch's own formulas, else one per element it makes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils.flop_counter import (
    conv_flop_count,
    flop_registry,
    sdpa_backward_flop_count,
    sdpa_flop_count,
)

aten = torch.ops.aten


def _attention(query: Any, key: Any, value: Any, *rest: Any, **options: Any) -> int:
    del rest, options
    return int(sdpa_flop_count(query.shape, key.shape, value.shape))  # type: ignore[no-untyped-call]


def _attention_backward(
    gradient: Any, query: Any, key: Any, value: Any, *rest: Any, **options: Any
) -> int:
    del rest, options
    return int(
        sdpa_backward_flop_count(  # type: ignore[no-untyped-call]
            gradient.shape, query.shape, key.shape, value.shape
        )
    )


def _convolution_backward(
    gradient: Any, x: Any, weight: Any, *rest: Any, out_val: Any, **options: Any
) -> int:
    """Each gradient costs what the forward pass does; torch's own formula forgets the groups."""
    del out_val, options
    transposed, mask = rest[4], rest[7]
    forward = conv_flop_count(x.shape, weight.shape, gradient.shape, transposed)
    return int(forward * (mask[0] + mask[1]))


def _recurrent(x: Any, *weights: Any, out_val: Any, **options: Any) -> int:
    """Input and recurrent products of every time step; the backward pass costs two of each."""
    del options, out_val
    steps = x.shape[0] * x.shape[1]
    return int(2 * steps * sum(w.numel() for w in weights[:2] if isinstance(w, Tensor)))


def _recurrent_backward(*arguments: Any, **options: Any) -> int:
    return 2 * _recurrent(*arguments, **options)


# Operators of the CPU that torch's registry leaves out, or counts wrongly.
_MORE: dict[Any, Callable[..., int]] = {
    aten._scaled_dot_product_flash_attention_for_cpu: _attention,  # noqa: SLF001
    aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,  # noqa: SLF001
    aten.convolution_backward: _convolution_backward,
    aten.mkldnn_rnn_layer: _recurrent,
    aten.mkldnn_rnn_layer_backward: _recurrent_backward,
}


def _formula(node: fx.Node) -> Callable[..., int] | None:
    packet = getattr(node.target, "overloadpacket", None)
    return _MORE.get(packet) or flop_registry.get(packet)


def has_formula(node: fx.Node) -> bool:
    """Whether the node multiplies matrices, convolves or attends."""
    return _formula(node) is not None


def node_flops(node: fx.Node, values: dict[fx.Node, Any]) -> int:
    """Operations of a node, a multiply-add counted as two, from the fake values of its arguments."""
    value = values[node]
    if formula := _formula(node):
        args = fx.map_arg(node.args, lambda n: values[n])
        kwargs = fx.map_arg(node.kwargs, lambda n: values[n])
        return int(formula(*args, **kwargs, out_val=value))
    outputs = value if isinstance(value, list | tuple) else (value,)
    return sum(v.numel() for v in outputs if isinstance(v, Tensor))
