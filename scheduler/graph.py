"""The training step as data: operators in topological order over tensors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from enum import StrEnum
from functools import cached_property
from operator import attrgetter
from typing import Any

from .errors import BadGraph


class Kind(StrEnum):
    """What a tensor is for; PARAMETER, OPTIMIZER_STATE and BUFFER outlive the step."""

    PARAMETER = "parameter"
    OPTIMIZER_STATE = "optimizer_state"
    BUFFER = "buffer"
    INPUT = "input"
    ACTIVATION = "activation"
    GRADIENT = "gradient"


PERSISTENT = frozenset({Kind.PARAMETER, Kind.OPTIMIZER_STATE, Kind.BUFFER})
SOURCES = PERSISTENT | {Kind.INPUT}


class Phase(StrEnum):
    """The part of the training step an operator belongs to."""

    FORWARD = "forward"
    BACKWARD = "backward"
    UPDATE = "update"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """One block of bytes: views of it are not tensors of the graph, so sizes add up.

    A persistent tensor (parameter, optimizer state, buffer) exists before the step and after it. An
    input exists before the step. Every other tensor is the output of exactly one operator.
    """

    id: int
    name: str
    size_bytes: int
    kind: Kind
    pageable: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    """One unit of computation: `inputs` and `outputs` are resident together while it runs.

    `mutates` are inputs that the first run changes in place (a parameter in its update, running
    statistics in batch norm). A rerun of a recomputable operator leaves them as they are.
    `workspace_bytes` is RAM it needs besides inputs and outputs while it runs.
    """

    id: int
    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    mutates: tuple[int, ...] = ()
    flops: int = 0
    workspace_bytes: int = 0
    phase: Phase = Phase.FORWARD
    recomputable: bool = True


@dataclass(frozen=True, kw_only=True)
class Graph:
    """Operators in topological order; `results` are resident when the step ends (the loss).

    Raises BadGraph when built from operators and tensors that do not fit together.
    """

    operators: tuple[Operator, ...]
    tensors: tuple[Tensor, ...]
    results: tuple[int, ...] = ()
    name: str = field(default="graph", compare=False)

    def __post_init__(self) -> None:
        _validate(self)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of what the graph says, names included, in hex."""
        # Column by column: a graph has thousands of rows, and their fields' names would be most of the text.
        return digest(
            {
                "name": self.name,
                "operators": _columns(Operator, self.operators),
                "tensors": _columns(Tensor, self.tensors),
                "results": self.results,
            }
        )

    @cached_property
    def producer(self) -> dict[int, int]:
        """Operator that computes a tensor, for every tensor that is not a source."""
        return {k: op.id for op in self.operators for k in op.outputs}

    @cached_property
    def users(self) -> tuple[tuple[int, ...], ...]:
        """Operators that read each tensor, in topological order."""
        found: list[list[int]] = [[] for _ in self.tensors]
        for op in self.operators:
            for k in op.inputs:
                found[k].append(op.id)
        return tuple(map(tuple, found))

    @cached_property
    def mutators(self) -> tuple[tuple[int, ...], ...]:
        """Operators that change each tensor in place, in topological order."""
        found: list[list[int]] = [[] for _ in self.tensors]
        for op in self.operators:
            for k in op.mutates:
                found[k].append(op.id)
        return tuple(map(tuple, found))

    def is_persistent(self, tensor: int) -> bool:
        """Whether the tensor outlives the step."""
        return self.tensors[tensor].kind in PERSISTENT

    def is_source(self, tensor: int) -> bool:
        """Whether the tensor exists before the step."""
        return self.tensors[tensor].kind in SOURCES

    @cached_property
    def may_live_paged(self) -> tuple[int, ...]:
        """Tensors that may live in the page store between steps: persistent and pageable."""
        return tuple(t.id for t in self.tensors if self.is_persistent(t.id) and t.pageable)

    def need_bytes(self, operator: int) -> int:
        """Bytes resident while the operator runs with nothing else in RAM."""
        op = self.operators[operator]
        own = {*op.inputs, *op.outputs}
        return op.workspace_bytes + sum(self.tensors[k].size_bytes for k in own)

    def can_rerun(self, operator: int, stage: int) -> bool:
        """Whether `operator` may run again before `stage`'s own operator.

        It must be recomputable, older than the stage, and none of its inputs may have been changed
        by another operator since it first ran.
        """
        return operator < stage <= self.rerunnable_until[operator]

    @cached_property
    def rerunnable_until(self) -> tuple[int, ...]:
        """The last stage before which each operator may run again; -1 where it must not run twice."""
        end = len(self.operators)
        return tuple(
            min((m for k in op.inputs for m in self.mutators[k] if m > op.id), default=end)
            if op.recomputable
            else -1
            for op in self.operators
        )


def digest(value: object) -> str:
    """SHA-256 in hex of the canonical JSON form of a value; a dataclass counts as its fields."""
    text = json.dumps(
        value, sort_keys=True, separators=(",", ":"), allow_nan=False, default=_fields_of
    )
    return hashlib.sha256(text.encode()).hexdigest()


def _columns(kind: type[Operator | Tensor], rows: Sequence[object]) -> dict[str, list[object]]:
    return {f.name: list(map(attrgetter(f.name), rows)) for f in fields(kind)}


def _fields_of(value: Any) -> dict[str, object]:
    """Like `asdict`, without its deep copies, which took most of the time of a digest."""
    return {name: getattr(value, name) for name in value.__dataclass_fields__}


def _validate(graph: Graph) -> None:
    for label, items in (("operator", graph.operators), ("tensor", graph.tensors)):
        _require_numbered(label, items)
    if not graph.operators:
        raise BadGraph("a graph needs at least one operator")
    for tensor in graph.tensors:
        if tensor.size_bytes < 0:
            raise BadGraph(
                f"tensor {tensor.name!r} has {tensor.size_bytes} bytes; sizes are 0 or more"
            )
    available = {t.id for t in graph.tensors if t.kind in SOURCES}
    for op in graph.operators:
        _validate_operator(op, available, len(graph.tensors))
        available.update(op.outputs)
    orphans = [t.name for t in graph.tensors if t.id not in available]
    if orphans:
        raise BadGraph(f"no operator computes {', '.join(map(repr, orphans[:5]))}")
    if unknown := [k for k in graph.results if k not in available]:
        raise BadGraph(f"results name tensors {unknown}, which the graph does not have")
    if len(set(graph.results)) != len(graph.results):
        raise BadGraph("a tensor is listed twice in results")


def _require_numbered(label: str, items: Iterable[Tensor | Operator]) -> None:
    for position, item in enumerate(items):
        if item.id != position:
            raise BadGraph(
                f"{label} {item.name!r} has id {item.id} at position {position}; ids count from 0"
            )


def _validate_operator(op: Operator, available: set[int], tensors: int) -> None:
    where = f"operator {op.id} ({op.name})"
    for k in (*op.inputs, *op.outputs):
        if not 0 <= k < tensors:
            raise BadGraph(f"{where} names tensor {k}; the graph has {tensors}")
    for label, ids in (("inputs", op.inputs), ("outputs", op.outputs), ("mutates", op.mutates)):
        if len(set(ids)) != len(ids):
            raise BadGraph(f"{where} lists a tensor twice in {label}")
    if missing := set(op.inputs) - available:
        raise BadGraph(f"{where} reads {sorted(missing)} before any operator computed it")
    if again := set(op.outputs) & available:
        raise BadGraph(f"{where} computes {sorted(again)}, which exists already")
    if strange := set(op.mutates) - set(op.inputs):
        raise BadGraph(f"{where} mutates {sorted(strange)}, which is not among its inputs")
    if op.workspace_bytes < 0 or op.flops < 0:
        raise BadGraph(f"{where} has negative workspace_bytes or flops")
