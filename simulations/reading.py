"""A run folder read back, finished or still being written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from protos.arrays import read_arrays
from protos.files import read_plan, read_problem
from scheduler.errors import BadFile, BadMessage
from server.updates import Arrays

from .census import Count
from .folder import CONFIG, DEVICES, JOURNEYS, KINDS, METRICS, MODEL, PLANS
from .results import DEVICE, ROW, KindFacts, KindPlan, LeftOut, RoundRecord

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run: its settings, who took part by which plan, and what happened.

    `journeys` has a row of dtype ROW per message, in the file and not in memory; `devices` a row of dtype
    DEVICE per device of the fleet, whether it took part or not. `smaller` counts who could train at
    smaller batches, where somebody cannot at that of the run.
    """

    config: Mapping[str, Any]
    plans: tuple[KindPlan, ...]
    left_out: tuple[LeftOut, ...]
    smaller: tuple[Count, ...]
    devices: NDArray[np.void]
    rounds: tuple[RoundRecord, ...]
    journeys: NDArray[np.void]


def read_run(folder: Path) -> Run:
    """The run in a folder. Raises BadFile for a file that is missing or damaged."""
    kinds = _json(folder / KINDS)
    facts = [_parsed(KindFacts, kind, folder / KINDS) for kind in kinds.get("kinds", [])]
    return Run(
        config=_json(folder / CONFIG),
        plans=tuple(_kind_plan(known, folder / PLANS) for known in facts),
        left_out=tuple(_parsed(LeftOut, x, folder / KINDS) for x in kinds.get("left_out", [])),
        smaller=tuple(_parsed(Count, x, folder / KINDS) for x in kinds.get("smaller_batches", [])),
        devices=_devices(folder / DEVICES),
        rounds=_rounds(folder / METRICS),
        journeys=_journeys(folder / JOURNEYS),
    )


def read_config(folder: Path) -> dict[str, Any]:
    """The settings of a run. Raises BadFile."""
    return _json(folder / CONFIG)


def read_model(folder: Path) -> Arrays:
    """The model of a finished run. Raises BadFile."""
    try:
        return read_arrays(folder / MODEL)
    except BadMessage as error:
        raise BadFile(f"{folder / MODEL} cannot be read: {error}") from error


def _kind_plan(known: KindFacts, plans: Path) -> KindPlan:
    return KindPlan(
        **{name: getattr(known, name) for name in KindFacts.__slots__},
        plan=read_plan(plans / f"{known.name}.json"),
        problem=read_problem(plans / f"{known.name}.problem.json"),
    )


def _rounds(path: Path) -> tuple[RoundRecord, ...]:
    adapter = TypeAdapter(RoundRecord)
    try:
        with path.open("rb") as lines:
            return tuple(adapter.validate_json(line) for line in lines)
    except (OSError, ValidationError) as error:
        raise BadFile(f"{path} cannot be read: {_first(error)}") from error


def _journeys(path: Path) -> NDArray[np.void]:
    try:
        count = path.stat().st_size // ROW.itemsize
        return np.memmap(path, ROW, "r", shape=(count,)) if count else np.zeros(0, ROW)
    except OSError as error:
        raise BadFile(f"{path} cannot be read: {_first(error)}") from error


def _devices(path: Path) -> NDArray[np.void]:
    try:
        devices = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise BadFile(f"{path} cannot be read: {_first(error)}") from error
    if not isinstance(devices, np.ndarray) or devices.dtype != DEVICE:
        raise BadFile(f"{path} is not the table of a fleet")
    return devices


def _json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadFile(f"{path} cannot be read: {_first(error)}") from error
    if not isinstance(document, dict):
        raise BadFile(f"{path} holds a JSON {type(document).__name__}; an object is needed")
    return document


def _parsed(kind: type[T], value: object, path: Path) -> T:
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        raise BadFile(f"{path} cannot be read: {_first(error)}") from error


def _first(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return " ".join(str(error).split())
