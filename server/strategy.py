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
"""A strategy's memory between rounds: `attribute/container/index/name` to an array."""


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


def train_config_of(strategy: Strategy) -> dict[str, float]:
    """What the strategy will ask of devices in each round, known before the first."""
    return {"proximal-mu": strategy.proximal_mu} if isinstance(strategy, FedProx) else {}


def of_the_mean(strategy: Strategy) -> bool:
    """Whether the strategy needs only the mean of the updates, so that none has to be kept."""
    return type(strategy) in _OF_THE_MEAN


def state_of(strategy: Strategy) -> dict[str, NDArray[np.generic]]:
    """What the strategy remembers from round to round: its attributes that hold arrays."""
    state: dict[str, NDArray[np.generic]] = {}
    for name, value in vars(strategy).items():
        kind, items = _items(value)
        for index, (key, array) in enumerate(items):
            state[_SEPARATOR.join((name, kind, f"{index:08d}", key))] = array
    return state


def restore(strategy: Strategy, state: State) -> None:
    """Give a new strategy the memory of another of its kind. Raises BadFile for what it cannot have."""
    parts: dict[tuple[str, str], list[tuple[str, NDArray[np.generic]]]] = {}
    for path in sorted(state):  # Flower's strategies go by the order of arrays
        name, kind, _, key = path.split(_SEPARATOR, 3)
        parts.setdefault((name, kind), []).append((key, np.array(state[path])))
    for (name, kind), items in parts.items():
        if not hasattr(strategy, name):
            raise BadFile(f"the state is not one of a {type(strategy).__name__}: it has {name!r}")
        setattr(strategy, name, _MADE_OF[kind](items))


def _items(value: object) -> tuple[str, list[tuple[str, NDArray[np.generic]]]]:
    """The arrays of an attribute with their names, and what holds them; none for any other attribute."""
    if isinstance(value, ArrayRecord):
        return "record", [(key, array.numpy()) for key, array in value.items()]
    if isinstance(value, list) and _arrays(value):
        return "list", [("", array) for array in value]
    if isinstance(value, dict) and _arrays(value.values()):
        return "dict", list(value.items())
    return "none", []


_MADE_OF: dict[str, Callable[[list[tuple[str, NDArray[np.generic]]]], object]] = {
    "record": lambda items: ArrayRecord({key: Array(np.asarray(a)) for key, a in items}),
    "list": lambda items: [array for _, array in items],
    "dict": dict,
}


def _arrays(values: Any) -> bool:
    return all(isinstance(value, np.ndarray | np.generic) for value in values)


def rounded(value: NDArray[Any], dtype: np.dtype[np.generic]) -> NDArray[np.generic]:
    """To the array's own type; whole numbers (batch norm's count of batches) and bools to the nearest."""
    return (value if np.issubdtype(dtype, np.inexact) else np.rint(value)).astype(dtype, copy=False)
