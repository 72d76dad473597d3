"""Which storages the nodes of a captured graph read, make and change.

A base is the node that first holds a storage. Every other node on that storage is a view: it costs
nothing and is derived again wherever it is needed, so plans deal with bases only.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from scheduler.errors import Untraceable
from scheduler.graph import Phase

from .capture import Capture
from .flops import has_formula, node_flops
from .functional import changed_arguments, statistics, storage_key, tensors_in
from .layout import copy_storage
from .places import PHASE, at

aten = torch.ops.aten

# Tagged like the attention kernels that drop out, but it draws no random numbers on a CPU.
_NEVER_RANDOM = {aten._scaled_dot_product_flash_attention_for_cpu.default}  # noqa: SLF001


@dataclass(frozen=True, kw_only=True, eq=False)
class Node:
    """One node that computes: the bases it reads, makes and changes.

    `copies` are the copy_storage nodes of what it changes in place; each stands for the new content
    and is among `makes`. `writes` are buffers that it changes directly. `heavy` is work worth keeping
    apart from cheap nodes; `random` draws from torch's generator.
    """

    node: fx.Node
    copies: tuple[fx.Node, ...]
    reads: tuple[fx.Node, ...]
    makes: tuple[fx.Node, ...]
    writes: tuple[fx.Node, ...]
    phase: Phase
    flops: int
    heavy: bool
    random: bool


class Dataflow:
    """The compute nodes of a capture in eager order, each write after the last reader of the old value."""

    def __init__(self, captured: Capture) -> None:
        self.captured = captured
        self.base: dict[fx.Node, fx.Node] = {}
        self._find_bases()
        self._erase_dead()
        self.nodes = self._find_nodes()

    def size_bytes(self, base: fx.Node) -> int:
        """Bytes of a base's storage."""
        return int(self.captured.values[base].untyped_storage().nbytes())

    def _find_bases(self) -> None:
        owner: dict[int, fx.Node] = {}
        for node in self.captured.graph.nodes:
            if node.op == "output":
                continue
            value = self.captured.values[node]
            if isinstance(value, Tensor):
                self.base[node] = owner.setdefault(storage_key(value), node)
            elif known := [owner[k] for t in tensors_in(value) if (k := storage_key(t)) in owner]:
                # Views with several outputs (split) have a base; computations have one per output.
                self.base[node] = known[0]

    def _erase_dead(self) -> None:
        graph = self.captured.graph
        needed = self._needed()
        next(iter(reversed(graph.nodes))).args = ((),)
        for node in reversed(list(graph.nodes)):
            if node.op in ("call_function", "get_attr") and node not in needed:
                graph.erase_node(node)
                self.captured.constants.pop(node, None)

    def _needed(self) -> set[fx.Node]:
        changers: dict[fx.Node, list[fx.Node]] = {}
        roots = [self.captured.loss, *self.captured.gradients.values(), *self._written().values()]
        for node in self.captured.graph.nodes:
            # A draw whose result nobody reads still moves the generator on.
            if _is_random(node) or statistics(node):
                roots.append(node)
            for argument in changed_arguments(node):
                changers.setdefault(self.base[argument], []).append(node)
        needed: set[fx.Node] = set()
        while roots:
            node = roots.pop()
            if node not in needed:
                needed.add(node)
                roots.extend((*node.all_input_nodes, *changers.get(node, ())))
        return needed

    def _written(self) -> dict[str, fx.Node]:
        """New values of the buffers that get one, other than by batch norm."""
        captured = self.captured
        return {n: v for n, v in captured.final.items() if self.base[v] is not captured.buffers[n]}

    def _find_nodes(self) -> tuple[Node, ...]:
        written = self._written()
        order = list(self.captured.graph.nodes)
        nodes = [self._describe(node) for node in order if self._computes(node)]
        for name, value in written.items():
            self._insert_write(nodes, name, value)
        return tuple(nodes)

    def _computes(self, node: fx.Node) -> bool:
        if node.op != "call_function" or node.target in (operator.getitem, copy_storage):
            return False
        return self.base.get(node, node) is node or bool(changed_arguments(node))

    def _describe(self, node: fx.Node) -> Node:
        changed = tuple(self.base[n] for n in changed_arguments(node))
        copies = tuple(n for n in changed if n.target is copy_storage)
        if self.base.get(node) is node:
            made: tuple[fx.Node, ...] = (node,)
        else:
            made = tuple(u for u in node.users if u.target is operator.getitem)
        inputs = [*(n.args[0] for n in copies), *node.all_input_nodes]
        reads = dict.fromkeys(self.base[n] for n in inputs)  # type: ignore[index]
        return Node(
            node=node,
            copies=copies,
            reads=tuple(b for b in reads if b not in copies),
            makes=copies + made,
            writes=tuple(n for n in changed if n not in copies),
            phase=node.meta[PHASE],
            flops=node_flops(node, self.captured.values),
            heavy=has_formula(node),
            random=_is_random(node),
        )

    def _insert_write(self, nodes: list[Node], name: str, value: fx.Node) -> None:
        buffer = self.captured.buffers[name]
        self._require_writable(name, value)
        source = self.base[value]
        last = max(i for i, n in enumerate(nodes) if buffer in n.reads or source in n.makes)
        graph = self.captured.graph
        with graph.inserting_before(next(iter(reversed(graph.nodes)))):
            node = graph.call_function(aten.copy_.default, (buffer, value))
        self.base[node] = buffer
        write = Node(
            node=node,
            copies=(),
            reads=(buffer, source),
            makes=(),
            writes=(buffer,),
            phase=nodes[last].phase,
            flops=int(self.captured.values[buffer].numel()),
            heavy=False,
            random=False,
        )
        nodes.insert(last + 1, write)

    def _require_writable(self, name: str, value: fx.Node) -> None:
        old, new = self.captured.values[self.captured.buffers[name]], self.captured.values[value]
        if (old.shape, old.dtype) != (new.shape, new.dtype):
            raise Untraceable(
                f"{at(value)}buffer {name} of shape {tuple(old.shape)} and {old.dtype} becomes "
                f"{tuple(new.shape)} and {new.dtype} in the forward pass; keep its shape and type"
            )
        if self.base[value].op != "call_function":
            raise Untraceable(
                f"{at(value)}the forward pass assigns another buffer or an input to buffer {name}; "
                "use clone()"
            )


def _is_random(node: fx.Node) -> bool:
    tags = getattr(node.target, "tags", ())
    if torch.Tag.nondeterministic_seeded not in tags or node.target in _NEVER_RANDOM:
        return False
    return _argument(node, "dropout_p") != 0.0


def _argument(node: fx.Node, name: str) -> object:
    """What an operator is given by that name, or its default; None if it has no such argument."""
    for position, argument in enumerate(node.target._schema.arguments):  # type: ignore[union-attr]  # noqa: SLF001
        if argument.name == name:
            given = node.args[position] if position < len(node.args) else None
            return node.kwargs.get(name, argument.default_value) if given is None else given
    return None
