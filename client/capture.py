"""Record one training step of a module as a functional graph of ATen nodes, holding no data.

make_fx under FakeTensorMode records forward, loss and torch.autograd.grad as eager autograd runs them,
in-place operations included; `functional` then makes the record functional.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._ops import HigherOrderOperator
from torch._subclasses import FakeTensor, FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from scheduler.errors import Untraceable

from .batch import Batch, tensors_in
from .functional import Functional, storage_key
from .guards import explained, generators_kept
from .joint import Joint, Loss
from .layout import Layout, copy_storage
from .places import at
from .rewrite import rewrite

__all__ = ["Capture", "Loss", "capture"]


@dataclass(frozen=True, kw_only=True)
class Capture:
    """A functional graph of one training step.

    `values` holds the fake value of every node, so that two nodes share a storage exactly when the
    real ones will. `parameters`, `buffers`, `batch` (by name) and `constants` are the source nodes.
    `final` maps a buffer to the node of its value after the step; `gradients` leaves out parameters
    that get no gradient. Nodes are marked with their phase and place (`places`). `mode` is that of the
    fake values.
    """

    graph: fx.Graph
    values: dict[fx.Node, Any]
    parameters: dict[str, fx.Node]
    buffers: dict[str, fx.Node]
    batch: dict[str, fx.Node]
    constants: dict[fx.Node, Tensor]
    loss: fx.Node
    gradients: dict[str, fx.Node]
    final: dict[str, fx.Node]
    mode: FakeTensorMode


def capture(
    module: nn.Module, loss: Loss, wanted: tuple[str, ...], batch: Batch, chunks: int = 1
) -> Capture:
    """Record one training step; `wanted` names the parameters whose gradient is asked for.

    With `chunks`, the batch goes through forward and backward pass in so many parts, as torch.chunk
    cuts it. Raises Untraceable, and BadInput for what is no batch. Module, parameters, buffers,
    gradients and generators stay as they are.
    """
    parameters = dict(module.named_parameters())
    buffers = dict(module.named_buffers())
    device = device_of(parameters | buffers)
    _require_own_storages(parameters | buffers)
    if torch.is_autocast_enabled(device.type):
        raise Untraceable("torch.autocast is on around the step; put it into the model's forward")
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    # What an operator gives from this cache shares memory otherwise than what it gives the first time.
    mode.cache_enabled = False
    held = (*parameters.values(), *buffers.values())
    fakes: list[Tensor] = [mode.from_tensor(t.detach()) for t in held]
    fakes += _fake_batch(mode, batch, device)
    joint = Joint(module, loss, wanted, batch, chunks)

    def record() -> fx.GraphModule:
        with mode:
            return make_fx(joint)(*fakes)

    with explained(joint.places):
        with generators_kept(joint.places, record):
            recorded, again = record(), record()
        _require_plain(recorded)
        _require_same(recorded, again)
        return _Reader(recorded, mode, fakes, joint).read()


class _Reader:
    """Makes the record functional and says what its sources and outputs are."""

    def __init__(
        self, recorded: fx.GraphModule, mode: FakeTensorMode, fakes: list[Tensor], joint: Joint
    ) -> None:
        self.recorded, self.mode, self.fakes, self.joint = recorded, mode, fakes, joint

    def read(self) -> Capture:
        joint = self.joint
        values = self._values(self.recorded.graph)
        self._require_own_constants(values)
        functional = Functional(self.recorded.graph, values)
        graph = functional.graph
        outputs = next(iter(reversed(self.recorded.graph.nodes))).args[0]
        loss, *rest = [functional.current(n) for n in outputs]
        gradients = dict(zip(joint.with_gradient, rest, strict=False))
        final = dict(zip(joint.buffers, rest[len(gradients) :], strict=True))
        graph.output((loss, *rest))
        rewrite(graph, self._values(graph))
        places = [n for n in graph.nodes if n.op == "placeholder"]
        named = dict(zip(joint.parameters + joint.buffers, places, strict=False))
        constants = {n: getattr(self.recorded, n.target) for n in graph.nodes if n.op == "get_attr"}
        self._require_unchanged(functional, set(joint.buffers))
        return Capture(
            graph=graph,
            values=self._values(graph),
            parameters={n: named[n] for n in joint.parameters},
            buffers={n: named[n] for n in joint.buffers},
            batch=dict(zip(joint.inputs, places[-len(joint.inputs) :], strict=True)),
            constants=constants,
            loss=loss,
            gradients=gradients,
            final=final,
            mode=self.mode,
        )

    def _values(self, graph: fx.Graph) -> dict[fx.Node, Any]:
        run = _Values(fx.GraphModule(self.recorded, graph), garbage_collect_values=False)
        run.mode = self.mode
        with self.mode:
            run.run(*self.fakes)
        return run.env

    def _require_own_constants(self, values: dict[fx.Node, Any]) -> None:
        names = (*self.joint.parameters, *self.joint.buffers, *self.joint.inputs)
        places = (n for n in values if n.op == "placeholder")
        named = {storage_key(values[n]): name for n, name in zip(places, names, strict=True)}
        for node, value in values.items():
            if node.op == "get_attr" and (name := named.get(storage_key(value))):
                raise Untraceable(
                    f"{at(node)}the step uses {name} past the module (in the loss, or kept in a list or "
                    "a plain attribute), where it cannot be followed; use it in the forward pass, as "
                    "the module's own attribute"
                )

    def _require_unchanged(self, functional: Functional, buffers: set[str]) -> None:
        names = self.joint.parameters + self.joint.buffers
        named = dict(zip((n for n in self.recorded.graph.nodes), names, strict=False))
        for node, change in functional.changed_sources.items():
            if node.op == "get_attr":
                raise Untraceable(
                    f"{at(change)}the forward pass changes a tensor that is not registered; use "
                    "register_buffer"
                )
            if node in named and named[node] not in buffers:
                raise Untraceable(
                    f"{at(change)}the forward pass changes parameter {named[node]} in place; make it "
                    "a buffer or change it outside the model"
                )


class _Values(fx.Interpreter):
    """Runs a graph on fake tensors and keeps every value."""

    mode: FakeTensorMode

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        return self.mode.from_tensor(super().get_attr(target, args, kwargs))

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        if target is copy_storage:
            return Layout.of(args[0]).new_fake()
        return super().call_function(target, args, kwargs)


def _fake_batch(mode: FakeTensorMode, batch: Batch, device: torch.device) -> list[Tensor]:
    """The batch with memory of its own on the device, as the executor copies it: no slice, nothing common."""
    tensors = tensors_in(batch)
    for name, got in tensors.items():
        if not all(got.stride(d) for d in range(got.dim()) if got.shape[d] > 1):
            raise Untraceable(f"{name} repeats its memory, as expand() does; make it contiguous()")
    with mode:
        return [
            torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device=device)
            for t in tensors.values()
        ]


def _require_same(one: fx.GraphModule, other: fx.GraphModule) -> None:
    """What the second recording changes depends on something that no graph holds."""
    for mine, its in itertools.zip_longest(one.graph.nodes, other.graph.nodes):
        if mine is None or its is None or not _same_node(one, mine, other, its):
            raise Untraceable(
                f"{at(its or mine)}the step is another one when it is done again: the model or the "
                "loss keeps something in Python between steps; keep it in a registered buffer or, if "
                "it is a cache, run the model once before tracing"
            )


def _same_node(one: fx.GraphModule, mine: fx.Node, other: fx.GraphModule, its: fx.Node) -> bool:
    if any(
        str(getattr(mine, a)) != str(getattr(its, a)) for a in ("op", "target", "args", "kwargs")
    ):
        return False
    name = str(mine.target)
    return mine.op != "get_attr" or _same_constant(getattr(one, name), getattr(other, name))


def _require_plain(recorded: fx.GraphModule) -> None:
    """Refuse operators that run code of their own, and constants that are no tensors."""
    for node in recorded.graph.nodes:
        if isinstance(node.target, HigherOrderOperator):
            raise Untraceable(
                f"{at(node)}torch.{node.target} runs code inside an operator, which cannot be planned; "
                "use plain operators such as torch.where"
            )
    for node in recorded.graph.nodes:
        if node.op == "get_attr":
            kind = type(getattr(recorded, node.target))
            if not issubclass(kind, Tensor):
                raise Untraceable(
                    f"{at(node)}the step uses a {kind.__name__} of its own, which cannot be followed; "
                    "for random numbers, draw from torch's generator"
                )


def _same_constant(one: Tensor, other: Tensor) -> bool:
    if one is other or isinstance(one, FakeTensor) or isinstance(other, FakeTensor):
        return one is other
    same = (one.dtype, one.shape, one.stride()) == (other.dtype, other.shape, other.stride())
    return same and _bytes(one) == _bytes(other)


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().flatten().view(torch.uint8).cpu().numpy().tobytes()


def device_of(tensors: Mapping[str, Tensor]) -> torch.device:
    """The device where all of these are, the CPU if there are none. Raises Untraceable."""
    devices = {tensor.device: name for name, tensor in tensors.items()}
    for device, name in devices.items():
        if device.type not in ("cpu", "cuda"):
            raise Untraceable(f"{name} is on {device}; move the model to the CPU or a CUDA device")
    if len(devices) > 1:
        where = " and ".join(f"{name} on {device}" for device, name in devices.items())
        raise Untraceable(f"the model has {where}; move it to one device")
    return next(iter(devices), torch.device("cpu"))


def _require_own_storages(tensors: dict[str, Tensor]) -> None:
    owner: dict[int, str] = {}
    for name, tensor in tensors.items():
        if tensor.layout is not torch.strided:
            raise Untraceable(f"{name} must be a dense tensor, not {tensor.layout}")
        pointer = tensor.untyped_storage().data_ptr()
        if pointer and owner.setdefault(pointer, name) != name:
            raise Untraceable(f"{name} and {owner[pointer]} share memory; clone one of them")
