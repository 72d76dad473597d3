"""Make a recorded graph functional without changing a single kernel.

Torch's own functionalization swaps an in-place operator for another one, whose output may lie in
memory differently; kernels then take other code paths and dropout draws in another order, and the
result is no longer bit for bit that of eager training. Here the in-place operator stays and runs on a
copy of the storage with the same layout, from which every later reader reads. `grouping` and `program`
leave the copy out wherever nobody needs the old content.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx

from scheduler.errors import Untraceable

from .layout import Layout, copy_storage
from .places import at

aten = torch.ops.aten

# With running statistics as their fourth and fifth argument, and whether they train as their sixth.
_BATCH_NORMS = {
    aten.native_batch_norm.default,
    aten.cudnn_batch_norm.default,
    aten.miopen_batch_norm.default,
}

# Changes of shape in place, with the view that does the same.
_AS_VIEW: dict[Any, Any] = {
    aten.transpose_.default: aten.transpose.int,
    aten.t_.default: aten.t.default,
    aten.squeeze_.default: aten.squeeze.default,
    aten.squeeze_.dim: aten.squeeze.dim,
    aten.squeeze_.dims: aten.squeeze.dims,
    aten.unsqueeze_.default: aten.unsqueeze.default,
    aten.as_strided_.default: aten.as_strided.default,
    aten.detach_.default: aten.detach.default,
}


def storage_key(value: Tensor) -> int:
    """What tensors that share memory have in common, while they live."""
    return int(value.untyped_storage()._cdata)  # noqa: SLF001


def tensors_in(value: Any) -> Iterator[Tensor]:
    """The tensors of a node's value."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors_in(item)


def statistics(node: fx.Node) -> tuple[fx.Node, ...]:
    """Running statistics that a batch norm in training mode changes, which its schema hides."""
    if node.target in _BATCH_NORMS and node.args[5]:
        return tuple(n for n in node.args[3:5] if isinstance(n, fx.Node))
    return ()


def changed_arguments(node: fx.Node) -> tuple[fx.Node, ...]:
    """Arguments whose content the node changes in place."""
    schema = getattr(node.target, "_schema", None)
    if schema is None or node.target in _AS_VIEW:
        return ()
    found: list[fx.Node] = []
    for position, argument in enumerate(schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = (
                node.args[position] if position < len(node.args) else node.kwargs.get(argument.name)
            )
            if isinstance(value, list | tuple):
                raise Untraceable(
                    f"{at(node)}{node.target} changes a list of tensors; change them one by one"
                )
            if isinstance(value, fx.Node):
                found.append(value)
    return (*found, *statistics(node))


class Functional:
    """The functional form of a recorded graph, given its nodes' fake values.

    A storage that is changed gets a new base node per change: copy_storage of the one before. Views
    are derived from the base that was newest when they were used.
    """

    def __init__(self, recorded: fx.Graph, values: dict[fx.Node, Any]) -> None:
        self.graph = fx.Graph()
        self._values = values
        # By storage: the recorded node that first held it, its newest base, how often it was changed.
        self._owner: dict[int, fx.Node] = {}
        self._base: dict[int, fx.Node] = {}
        self._changes: dict[int, int] = {}
        self._changers: dict[int, fx.Node] = {}
        # Nodes whose value is no single tensor; views by how often their storage was changed.
        self._computed: dict[fx.Node, fx.Node] = {}
        self._views: dict[tuple[fx.Node, int], fx.Node] = {}
        for node in recorded.nodes:
            if node.op != "output":
                self._add(node)

    def current(self, node: fx.Node) -> fx.Node:
        """The new node for a recorded one, with the newest content of its storage."""
        if node in self._computed:
            return self._computed[node]
        key = storage_key(next(tensors_in(self._values[node])))
        if self._owner[key] is node or self._same_output(self._owner[key], node):
            return self._base[key]
        if changed := changed_arguments(node):
            return self.current(changed[0])
        place = node, self._changes[key]
        if place not in self._views:
            one_more = node.op == "get_attr"
            self._views[place] = self._constant_view(node) if one_more else self._copy(node)
        return self._views[place]

    @property
    def changed_sources(self) -> dict[fx.Node, fx.Node]:
        """Recorded placeholders and constants whose content the step changes, and who does so first."""
        owners = ((self._owner[k], change) for k, change in self._changers.items())
        return {owner: change for owner, change in owners if owner.op != "call_function"}

    def _add(self, node: fx.Node) -> None:
        keys = [storage_key(t) for t in tensors_in(self._values[node])]
        changed = changed_arguments(node)
        known = [k in self._owner for k in keys]
        if keys and all(known) and not changed:
            return  # A view: derived where it is used.
        for argument in changed:
            self._renew(node, argument)
        copied = self._copy(node)
        if not isinstance(self._values[node], Tensor):
            layouts: dict[int, Layout] = {}
            outputs = [(storage_key(t), Layout.of(t)) for t in tensors_in(self._values[node])]
            if any(known) or any(layouts.setdefault(k, one) != one for k, one in outputs):
                raise Untraceable(
                    f"{at(node)}outputs of {node.target} share memory; use another operator"
                )
            self._computed[node] = copied
        elif not known[0]:
            self._owner[keys[0]], self._base[keys[0]], self._changes[keys[0]] = node, copied, 0

    def _same_output(self, one: fx.Node, other: fx.Node) -> bool:
        """Whether an operator gave the same tensor out twice, and these are the two."""
        return (
            one.target is operator.getitem is other.target
            and one.args[0] is other.args[0]
            and one.args[0] in self._computed
        )

    def _renew(self, node: fx.Node, argument: fx.Node) -> None:
        key = storage_key(self._values[argument])
        base = self._base[key]
        if argument in statistics(node) and base.op == "placeholder":
            return  # Batch norm changes a module's buffers directly.
        self._base[key] = self.graph.call_function(copy_storage, (base,))
        self._changes[key] += 1
        self._changers.setdefault(key, node)

    def _constant_view(self, node: fx.Node) -> fx.Node:
        """A constant in the memory of an earlier one: the same tensor used again, or a view of it."""
        value, base = self._values[node], self._base[storage_key(self._values[node])]
        if value.dtype != self._values[self._owner[storage_key(value)]].dtype:
            raise Untraceable(
                f"{at(node)}two constant tensors of different types share memory; clone one"
            )
        place = list(value.shape), list(value.stride()), int(value.storage_offset())
        return self.graph.call_function(aten.as_strided.default, (base, *place))

    def _copy(self, node: fx.Node) -> fx.Node:
        copied = self.graph.node_copy(node, self.current)
        copied.target = _AS_VIEW.get(copied.target, copied.target)
        return copied
