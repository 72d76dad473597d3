"""Rewrite nodes that read a tensor without needing its content, so that plans need not keep it."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

aten = torch.ops.aten

# Operators that take only shape and type from their input, with the value they fill in.
_FILLED = {
    aten.zeros_like.default: 0,
    aten.new_zeros.default: 0,
    aten.ones_like.default: 1,
    aten.new_ones.default: 1,
}
# A GPU's batch norm backward, in training mode; the running statistics are for derivatives of it.
_ONLY_TRAINING = (aten.cudnn_batch_norm_backward.default, aten.miopen_batch_norm_backward.default)
_UNFILLED = (aten.empty_like.default, aten.new_empty.default)


def rewrite(graph: fx.Graph, values: dict[fx.Node, Any]) -> None:
    """Change the graph in place; no result changes."""
    for node in list(graph.nodes):
        if node.target is aten.native_batch_norm_backward.default and node.args[7]:
            # In training mode it uses the saved statistics of the batch only.
            node.args = (*node.args[:3], None, None, *node.args[5:])
        elif node.target in _ONLY_TRAINING:
            node.args = (*node.args[:3], None, None, *node.args[5:])
        elif node.target in _FILLED and values[node].is_contiguous():
            _replace(graph, node, aten.full.default, values[node], _FILLED[node.target])
        elif node.target in _UNFILLED:
            value = values[node]
            _replace(graph, node, aten.empty_strided.default, value, list(value.stride()))


def _replace(graph: fx.Graph, node: fx.Node, target: Any, value: Any, argument: Any) -> None:
    args = (list(value.shape), argument)
    with graph.inserting_before(node):
        new = graph.call_function(target, args, {"dtype": value.dtype, "device": value.device})
    new.meta = dict(node.meta)
    node.replace_all_uses_with(new)
    graph.erase_node(node)
