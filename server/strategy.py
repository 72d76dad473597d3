"""Flower's strategies by name, what the round engine must know of them, and their state as arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord
from flwr.serverapp.strategy import (
    FedAdagrad,
    FedAdam,
    FedAvg,
    FedAvgM,
    FedMedian,
    FedProx,
    FedTrimmedAvg,
    FedYogi,
    Krum,
    MultiKrum,
    Strategy,
)
from numpy.typing import NDArray

from scheduler.errors import BadFile, UnknownName

# They look at the updates' weighted mean and at nothing else. A subclass may look at more.
_OF_THE_MEAN = (FedAvg, FedProx, FedAvgM, FedAdam, FedAdagrad, FedYogi)

_SEPARATOR = "/"

State = Mapping[str, NDArray[np.generic]]
"""A strategy's memory between rounds: `attribute`, `attribute/index` or `attribute/name` to an array."""


def strategies() -> dict[str, Callable[[], Strategy]]:
    """Strategies that have a name; any other strategy of Flower's Message API can be passed itself."""
    least: dict[str, Any] = {"min_train_nodes": 1, "min_available_nodes": 1}
    return {
        "fedavg": lambda: FedAvg(**least),
        "fedprox": lambda: FedProx(**least, proximal_mu=0.01),
        "fedavgm": lambda: FedAvgM(**least, server_momentum=0.5),
        "fedadam": lambda: FedAdam(**least, eta=0.01),
        "fedadagrad": lambda: FedAdagrad(**least, eta=0.03),
        "fedyogi": lambda: FedYogi(**least, eta=0.01),
        "median": lambda: FedMedian(**least),
        "trimmed-mean": lambda: FedTrimmedAvg(**least, beta=0.2),
        "krum": lambda: Krum(**least, num_malicious_nodes=1),
        "multi-krum": lambda: MultiKrum(**least, num_malicious_nodes=1, num_nodes_to_select=2),
    }


def make_strategy(name: str) -> Strategy:
    """A new strategy. Raises UnknownName."""
    known = strategies()
    if name not in known:
        raise UnknownName("strategy", name, tuple(known))
    return known[name]()


def of_the_mean(strategy: Strategy) -> bool:
    """Whether the strategy needs only the mean of the updates, so that none has to be kept."""
    return type(strategy) in _OF_THE_MEAN


def state_of(strategy: Strategy) -> dict[str, NDArray[np.generic]]:
    """What the strategy remembers from round to round: its attributes that hold arrays."""
    state: dict[str, NDArray[np.generic]] = {}
    for name, value in vars(strategy).items():
        if isinstance(value, ArrayRecord):
            value = {key: array.numpy() for key, array in value.items()}
            name = f"{name}{_SEPARATOR}record"
        if isinstance(value, list) and value and _arrays(value):
            value = {f"{index:08d}": array for index, array in enumerate(value)}
            name = f"{name}{_SEPARATOR}list"
        if isinstance(value, dict) and value and _arrays(value.values()):
            state |= {f"{name}{_SEPARATOR}{key}": array for key, array in value.items()}
    return state


def restore(strategy: Strategy, state: State) -> None:
    """Give a new strategy the memory of another of its kind. Raises BadFile for what it cannot have."""
    parts: dict[str, dict[str, NDArray[np.generic]]] = {}
    for path, array in state.items():
        name, _, key = path.partition(_SEPARATOR)
        parts.setdefault(name, {})[key] = array
    for name, arrays in parts.items():
        if not hasattr(strategy, name):
            raise BadFile(f"the state is not one of a {type(strategy).__name__}: it has {name!r}")
        setattr(strategy, name, _value(arrays))


def _value(arrays: dict[str, NDArray[np.generic]]) -> object:
    kinds = {key.partition(_SEPARATOR)[0] for key in arrays}
    if kinds == {"list"}:
        return [np.array(arrays[key]) for key in sorted(arrays)]
    if kinds == {"record"}:
        return ArrayRecord(
            {key.partition(_SEPARATOR)[2]: Array(np.asarray(a)) for key, a in arrays.items()}
        )
    return {key: np.array(array) for key, array in arrays.items()}


def _arrays(values: Any) -> bool:
    return all(isinstance(value, np.ndarray | np.generic) for value in values)


def rounded(value: NDArray[Any], dtype: np.dtype[np.generic]) -> NDArray[np.generic]:
    """To the array's own type; whole numbers (batch norm's count of batches) and bools to the nearest."""
    return (value if np.issubdtype(dtype, np.inexact) else np.rint(value)).astype(dtype)
