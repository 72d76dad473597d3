"""Flower's FedAvg, summed so that it repeats bit for bit, and strategies by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, cast

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord
from flwr.serverapp.strategy import FedAdagrad, FedAdam, FedAvg, FedAvgM, FedYogi, Strategy
from numpy.typing import NDArray

from scheduler.errors import UnknownName


class ExactFedAvg(FedAvg):
    """FedAvg that sums in float64, in the order of the replies, and rounds once at the end.

    Flower's own sums in each array's type. With replies in a fixed order, as `run_rounds` gives them,
    both repeat bit for bit; this one also does not lose digits as the number of nodes grows.
    """

    def aggregate_train(
        self,
        server_round: int,  # noqa: ARG002 - Flower's signature
        replies: Iterable[Message],
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Average of the replies' arrays, weighted by `weighted_by_key`."""
        usable, _ = self._check_and_log_replies(replies, is_train=True)
        if not usable:
            return None, None
        contents = [message.content for message in usable]
        sums: dict[str, NDArray[np.float64]] = {}
        types: dict[str, np.dtype[np.generic]] = {}
        total = 0.0
        for content in contents:
            (metrics,) = content.metric_records.values()
            (arrays,) = content.array_records.values()
            weight = float(cast(float, metrics[self.weighted_by_key]))
            total += weight
            for name, array in arrays.items():
                values = array.numpy()
                types[name] = values.dtype
                term = values.astype(np.float64) * weight
                sums[name] = sums[name] + term if name in sums else term
        mean = {
            name: np.asarray(rounded(value / total, types[name])) for name, value in sums.items()
        }
        record = ArrayRecord({name: Array(value) for name, value in mean.items()})
        return record, self.train_metrics_aggr_fn(contents, self.weighted_by_key)


def rounded(value: NDArray[Any], dtype: np.dtype[np.generic]) -> NDArray[np.generic]:
    """To the array's own type; whole numbers (batch norm's count of batches) and bools to the nearest."""
    return (value if np.issubdtype(dtype, np.inexact) else np.rint(value)).astype(dtype)


def strategies() -> dict[str, Callable[[], Strategy]]:
    """Strategies that have a name; any other strategy of Flower's Message API can be passed itself."""
    return {
        "fedavg": lambda: ExactFedAvg(min_train_nodes=1, min_available_nodes=1),
        "fedavgm": lambda: FedAvgM(min_train_nodes=1, min_available_nodes=1, server_momentum=0.5),
        "fedadam": lambda: FedAdam(min_train_nodes=1, min_available_nodes=1, eta=0.01),
        "fedadagrad": lambda: FedAdagrad(min_train_nodes=1, min_available_nodes=1, eta=0.03),
        "fedyogi": lambda: FedYogi(min_train_nodes=1, min_available_nodes=1, eta=0.01),
    }


def make_strategy(name: str) -> Strategy:
    """A new strategy. Raises UnknownName."""
    known = strategies()
    if name not in known:
        raise UnknownName("strategy", name, tuple(known))
    return known[name]()
