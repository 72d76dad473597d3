"""The one place on the way out: what is not on the closed list below does not leave the device.

An update is the model's arrays after training, with the names, shapes and types the model has, and
declared metrics, each one number. There is no type for anything else. Why not check for raw data
instead: nobody can tell it by looking, but everybody can tell whether a record is on a list.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scheduler.errors import BudgetExceeded, Infeasible, NoPlanInTime, Refused

METRICS = frozenset(
    {
        "num-examples",
        "partition-id",
        "steps",
        "train-loss",
        "ram-budget-bytes",
        "predicted-peak-bytes",
        "measured-peak-bytes",
        "time-s",
        "energy-j",
        "paged-out-bytes",
        "paged-in-bytes",
        "recomputed-runs",
    }
)

Arrays = Mapping[str, NDArray[np.generic]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Dimensions and type of one of the model's arrays."""

    dims: tuple[int, ...]
    dtype: str

    def __str__(self) -> str:
        return f"{self.dtype}{list(self.dims)}"


Manifest = Mapping[str, Shape]
"""The model's arrays by name: the only ones that may leave."""


@dataclass(frozen=True, kw_only=True)
class Update:
    """What a device sends after training; only `seal` makes one."""

    arrays: Arrays
    metrics: Mapping[str, int | float]


def manifest(model: Arrays) -> dict[str, Shape]:
    """The manifest of a model's arrays."""
    return {name: _shape(value) for name, value in model.items()}


def seal(arrays: Mapping[str, object], metrics: Mapping[str, object], allowed: Manifest) -> Update:
    """The update, copied, if all of it is on the list. Raises Refused with what is not."""
    if missing := sorted(allowed.keys() - arrays.keys()):
        raise Refused(f"the update lacks the model's array {missing[0]!r}; updates are sent whole")
    sealed: dict[str, NDArray[np.generic]] = {}
    for name, value in arrays.items():
        sealed[name] = _array(name, value, allowed)
    numbers: dict[str, int | float] = {}
    for name, value in metrics.items():
        numbers[name] = _number(name, value)
    return Update(arrays=sealed, metrics=numbers)


def failure(error: Exception) -> str:
    """What a device may say about why it has no update.

    That a budget is too small is told in sizes and names of operators. The texts of all other errors stay
    in the device's log: they could quote the data, a path on the device, or what tried to leave.
    """
    if isinstance(error, Infeasible | NoPlanInTime | BudgetExceeded):
        return f"{type(error).__name__}: {error}"
    return f"{type(error).__name__} on the device; its log says more"


def _array(name: str, value: object, allowed: Manifest) -> NDArray[np.generic]:
    if name not in allowed:
        raise Refused(
            f"{name!r} is not an array of the model; only the model's arrays may leave the device"
        )
    if not isinstance(value, np.ndarray):
        raise Refused(f"{name!r} is a {type(value).__name__}; only arrays may leave the device")
    if (got := _shape(value)) != allowed[name]:
        raise Refused(f"{name!r} is {got}, but the model's array is {allowed[name]}")
    return np.array(value, order="C", subok=False)


def _number(name: str, value: object) -> int | float:
    if name not in METRICS:
        raise Refused(
            f"{name!r} is not a declared metric; declared are {', '.join(sorted(METRICS))}"
        )
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Refused(f"metric {name!r} is a {type(value).__name__}; a metric is one number")
    return value


def _shape(value: NDArray[np.generic]) -> Shape:
    return Shape(dims=tuple(value.shape), dtype=str(value.dtype))
