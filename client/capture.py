"""Record one training step of a module as a functional graph of ATen nodes, holding no data.

make_fx under FakeTensorMode records forward, loss and torch.autograd.grad as eager autograd runs them,
in-place operations included; `functional` then makes the record functional.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch._subclasses import FakeTensor, FakeTensorMode
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    UnsupportedOperatorException,
)
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode

from scheduler.errors import FedpoetError, Untraceable

from .functional import Functional, storage_key
from .layout import Layout, copy_storage
from .rewrite import rewrite

Loss = Callable[[Tensor, Tensor], Tensor]
Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True, kw_only=True)
class Capture:
    """A functional graph of one training step.

    `values` holds the fake value of every node, so that two nodes share a storage exactly when the
    real ones will. `parameters`, `buffers`, `batch` (x, y) and `constants` are the source nodes.
    `final` maps a buffer to the node of its value after the step; `gradients` leaves out parameters
    that get no gradient.
    """

    graph: fx.Graph
    values: dict[fx.Node, Any]
    parameters: dict[str, fx.Node]
    buffers: dict[str, fx.Node]
    batch: tuple[fx.Node, fx.Node]
    constants: dict[fx.Node, Tensor]
    loss: fx.Node
    gradients: dict[str, fx.Node]
    final: dict[str, fx.Node]


def capture(module: nn.Module, loss: Loss, wanted: tuple[str, ...], batch: Batch) -> Capture:
    """Record one training step; `wanted` names the parameters whose gradient is asked for.

    Raises Untraceable. Module, parameters, buffers, gradients and generators stay as they are.
    """
    parameters = dict(module.named_parameters())
    buffers = dict(module.named_buffers())
    _require_own_storages(parameters | buffers)
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    # What an operator gives from this cache shares memory otherwise than what it gives the first time.
    mode.cache_enabled = False
    held = (*parameters.values(), *buffers.values())
    fakes: list[Tensor] = [mode.from_tensor(t.detach()) for t in held]
    fakes += _fake_batch(mode, batch)
    joint = _Joint(_shell(module), loss, tuple(parameters), tuple(buffers), wanted)
    with _explained():
        with _generators_kept(), mode:
            recorded, again = make_fx(joint)(*fakes), make_fx(joint)(*fakes)
        _require_same(recorded, again)
        return _Reader(recorded, mode, fakes, joint).read()


class _Joint:
    """(parameters, buffers, x, y) -> (loss, gradients that exist, buffers), all flat."""

    def __init__(
        self,
        module: nn.Module,
        loss: Loss,
        parameters: tuple[str, ...],
        buffers: tuple[str, ...],
        wanted: tuple[str, ...],
    ) -> None:
        self.module, self.loss = module, loss
        self.parameters, self.buffers, self.wanted = parameters, buffers, wanted
        self.with_gradient: tuple[str, ...] = ()

    def __call__(self, *flat: Tensor) -> tuple[Tensor, ...]:
        state = dict(zip(self.parameters + self.buffers, flat, strict=False))
        for name in self.wanted:
            state[name] = state[name].detach().requires_grad_()
        leaves = [state[name] for name in self.wanted]
        x, y = flat[-2:]
        loss = self.loss(functional_call(self.module, state, (x,)), y)
        _require_scalar_loss(loss)
        gradients: tuple[Tensor | None, ...] = torch.autograd.grad(loss, leaves, allow_unused=True)
        named = {n: g for n, g in zip(self.wanted, gradients, strict=True) if g is not None}
        self.with_gradient = tuple(named)
        return loss, *named.values(), *(state[name] for name in self.buffers)


class _Reader:
    """Makes the record functional and says what its sources and outputs are."""

    def __init__(
        self, recorded: fx.GraphModule, mode: FakeTensorMode, fakes: list[Tensor], joint: _Joint
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
            batch=(places[-2], places[-1]),
            constants=constants,
            loss=loss,
            gradients=gradients,
            final=final,
        )

    def _values(self, graph: fx.Graph) -> dict[fx.Node, Any]:
        run = _Values(fx.GraphModule(self.recorded, graph), garbage_collect_values=False)
        run.mode = self.mode
        with self.mode:
            run.run(*self.fakes)
        return run.env

    def _require_own_constants(self, values: dict[fx.Node, Any]) -> None:
        names = (*self.joint.parameters, *self.joint.buffers, "x", "y")
        places = (n for n in values if n.op == "placeholder")
        named = {storage_key(values[n]): name for n, name in zip(places, names, strict=True)}
        for node, value in values.items():
            if node.op == "get_attr" and (name := named.get(storage_key(value))):
                raise Untraceable(
                    f"the step uses {name} past the module (in the loss, or kept in a list or a plain "
                    "attribute), where it cannot be followed; use it in the forward pass, as the "
                    "module's own attribute"
                )

    def _require_unchanged(self, functional: Functional, buffers: set[str]) -> None:
        names = self.joint.parameters + self.joint.buffers
        named = dict(zip((n for n in self.recorded.graph.nodes), names, strict=False))
        for node in functional.changed_sources:
            if node.op == "get_attr":
                raise Untraceable(
                    "the forward pass changes a tensor that is not registered; use register_buffer"
                )
            if node in named and named[node] not in buffers:
                raise Untraceable(
                    f"the forward pass changes parameter {named[node]} in place; make it a buffer or "
                    "change it outside the model"
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


def _fake_batch(mode: FakeTensorMode, batch: Batch) -> list[Tensor]:
    """The batch with memory of its own, as the executor copies them: no slice, no common tensor."""
    for name, got in zip(("x", "y"), batch, strict=True):
        if getattr(got, "layout", None) is not torch.strided:
            raise Untraceable(f"{name} must be a dense tensor, not {type(got).__name__}")
        if not all(got.stride(d) for d in range(got.dim()) if got.shape[d] > 1):
            raise Untraceable(f"{name} repeats its memory, as expand() does; make it contiguous()")
    with mode:
        return [torch.empty_strided(t.shape, t.stride(), dtype=t.dtype) for t in batch]


def _require_same(one: fx.GraphModule, other: fx.GraphModule) -> None:
    """What the second recording changes depends on something that no graph holds."""
    targets = [n.target for n in one.graph.nodes if n.op == "get_attr"]
    if str(one.graph) != str(other.graph) or not all(
        _same_constant(getattr(one, t), getattr(other, t)) for t in targets
    ):
        raise Untraceable(
            "the step is another one when it is done again: the model or the loss keeps something in "
            "Python between steps; keep it in a registered buffer or, if it is a cache, run the model "
            "once before tracing"
        )


def _same_constant(one: Tensor, other: Tensor) -> bool:
    if one is other or isinstance(one, FakeTensor) or isinstance(other, FakeTensor):
        return one is other
    same = (one.dtype, one.shape, one.stride()) == (other.dtype, other.shape, other.stride())
    return same and _bytes(one) == _bytes(other)


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().flatten().view(torch.uint8).numpy().tobytes()


def _shell(module: nn.Module) -> nn.Module:
    """A copy of the module's Python side around the same tensors: tracing may change its attributes."""
    memo: dict[int, Any] = {id(t): t for t in (*module.parameters(), *module.buffers())}
    try:
        with _ShareTensors():
            return copy.deepcopy(module, memo)
    except Exception as error:
        raise Untraceable(
            f"{type(module).__name__} cannot be copied ({_first_line(error)}); remove from it what "
            "copy.deepcopy refuses"
        ) from error


class _ShareTensors(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        if func is torch.Tensor.__deepcopy__:
            return args[0]
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def _generators_kept() -> Iterator[None]:
    """Keep every generator as it was, and refuse a model that does more than draw from torch's.

    On fake tensors nothing is drawn from torch's generator, so a change of its state would be lost.
    """

    def refuse(*_: object) -> None:
        raise Untraceable(
            "the forward pass sets the state of torch's generator, as activation checkpointing does; "
            "remove it: the plan recomputes by itself"
        )

    python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002
    names = ("set_rng_state", "manual_seed", "seed")
    try:
        with contextlib.ExitStack() as patches:
            for owner in (torch, torch.random):
                for name in names:
                    patches.enter_context(mock.patch.object(owner, name, refuse))
            yield
        if random.getstate() != python_state:
            raise Untraceable("the forward pass draws from Python's random; draw from torch")
        if str(np.random.get_state()) != str(numpy_state):  # noqa: NPY002
            raise Untraceable("the forward pass draws from numpy.random; draw from torch")
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)  # noqa: NPY002


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    """Turn whatever tracing raises into one clear line, and keep torch from logging the rest."""
    torch_log = logging.getLogger("torch")
    level = torch_log.level
    torch_log.setLevel(logging.CRITICAL)
    try:
        yield
    except FedpoetError:
        raise
    except DataDependentOutputException as error:
        raise Untraceable(
            f"the model turns a tensor's value into a Python number ({error}): control flow that "
            "depends on data cannot be planned; use torch.where or fixed shapes"
        ) from error
    except DynamicOutputShapeException as error:
        raise Untraceable(
            f"the shape of the output of {error} depends on data; use masks of a fixed shape"
        ) from error
    except UnsupportedOperatorException as error:
        raise Untraceable(f"{error} cannot run without data; use another operator") from error
    except Exception as error:
        line = _first_line(error)
        if "numpy" in line.lower():
            line += "; use torch functions instead of numpy in the forward pass"
        raise Untraceable(
            f"the training step cannot be traced: {type(error).__name__}: {line}"
        ) from error
    finally:
        torch_log.setLevel(level)


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else "no message"


def _require_scalar_loss(loss: object) -> None:
    if not isinstance(loss, Tensor) or loss.dim() != 0:
        got = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise Untraceable(f"the loss must be a 0-d tensor, not {got}; reduce it, e.g. with mean()")
    if not loss.requires_grad:
        raise Untraceable("the loss does not depend on any parameter that the optimizer trains")


def _require_own_storages(tensors: dict[str, Tensor]) -> None:
    owner: dict[int, str] = {}
    for name, tensor in tensors.items():
        if tensor.device.type != "cpu" or tensor.layout is not torch.strided:
            raise Untraceable(
                f"{name} must be a dense tensor on the CPU, not {tensor.layout} on {tensor.device}"
            )
        pointer = tensor.untyped_storage().data_ptr()
        if pointer and owner.setdefault(pointer, name) != name:
            raise Untraceable(f"{name} and {owner[pointer]} share memory; clone one of them")
