"""A graph of kernels as one Python function that calls them directly, with nothing looked up on the way."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx

aten = torch.ops.aten

Function = Callable[..., tuple[Tensor, ...]]


def flat(graph: fx.Graph, calls: Mapping[fx.Node, Callable[..., Any]]) -> Function:
    """The function of a graph of operators without modules; it drops every tensor after its last use.

    `calls` says what to call for a node, if not its target. What needs no tensor to be made (a 1 that
    gradients begin with) is made once, if nobody changes it.
    """
    _shorten(graph)
    names: dict[fx.Node, str] = {}
    space: dict[str, Any] = {}
    inputs: list[str] = []
    lines: list[str] = []
    last = {used: node for node in graph.nodes for used in node.all_input_nodes}

    def text(value: Any) -> str:
        if isinstance(value, fx.Node):
            return names[value]
        if isinstance(value, list | tuple):
            return f"[{', '.join(map(text, value))}]"
        name = f"c{len(space)}"
        space[name] = value
        return name

    for k, node in enumerate(graph.nodes):
        names[node] = f"v{k}"
        if node.op == "placeholder":
            inputs.append(names[node])
        elif node.op == "output":
            lines.append(f"return ({''.join(f'{text(n)}, ' for n in node.args[0])})")
        elif node.target is operator.getitem:
            lines.append(f"v{k} = {text(node.args[0])}[{node.args[1]}]")
        elif _is_constant(node):
            space[names[node]] = node.target(*node.args, **node.kwargs)
        else:
            call = text(calls.get(node, node.target))
            given = [text(a) for a in node.args]
            given += [f"{key}={text(a)}" for key, a in node.kwargs.items()]
            lines.append(f"v{k} = {call}({', '.join(given)})")
        done = [names[n] for n in node.all_input_nodes if last[n] is node and not _is_constant(n)]
        if done and node.op != "output":
            lines.append(f"del {', '.join(done)}")
    source = "\n    ".join([f"def run({', '.join(inputs)}):", *lines])
    exec(compile(source, "<a recorded step>", "exec"), space)  # noqa: S102 - made above, of numbers and names
    run: Function = space["run"]
    return run


def _shorten(graph: fx.Graph) -> None:
    """Leave out a transposition of a transposition: it is the tensor itself, laid out as it is."""
    for node in list(graph.nodes):
        twice = node.target is aten.t.default and node.args[0].target is aten.t.default
        if twice:
            node.replace_all_uses_with(node.args[0].args[0])
            graph.erase_node(node)
    graph.eliminate_dead_code(lambda node: node.target is not aten.t.default)


def _is_constant(node: fx.Node) -> bool:
    """Whether it is the same tensor in every step, which only pure operators read."""
    return node.target is aten.full.default and all(
        isinstance(user.target, torch._ops.OpOverload)  # noqa: SLF001
        and not user.target._schema.is_mutable  # noqa: SLF001
        and not any(result.alias_info for result in user.target._schema.returns)  # noqa: SLF001
        for user in node.users
    )
