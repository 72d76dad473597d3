"""From updates to the next model, by any of Flower's strategies, keeping no update where that can be."""

from __future__ import annotations

import copy
from typing import cast

import numpy as np
from flwr.app import Message, MetricRecord, RecordDict
from flwr.app.exception import AppExitException
from flwr.serverapp.strategy import FedAvg, Strategy
from numpy.typing import NDArray

from scheduler.errors import BadUpdate, RunFailed

from .replies import WEIGHT, from_record, metrics_of, position, to_record
from .strategy import of_the_mean, rounded
from .totals import Totals
from .updates import Arrays, check_arrays


class Aggregate:
    """Takes the updates of one round in any order; the model that comes of them does not depend on it.

    A strategy that looks at nothing but the mean gets one reply that is the mean, and updates are added
    up as they come. Others (medians, Krum) get all replies, in order of partition, which are kept until then.
    """

    def __init__(self, strategy: Strategy, reference: Arrays, averaged: frozenset[str]) -> None:
        self._strategy, self._reference, self._averaged = strategy, reference, averaged
        self._streams = of_the_mean(strategy) and cast(FedAvg, strategy).weighted_by_key == WEIGHT
        self._totals = Totals(reference if self._streams else {n: reference[n] for n in averaged})
        self._kept: list[Message] = []

    def add(self, reply: Message, arrays: Arrays, worth: float) -> None:
        """Add an update that has been checked; an example of it weighs `worth`. Raises BadUpdate."""
        weight = metrics_of(reply)[WEIGHT] * worth
        self._totals.add(arrays, weight)
        if not self._streams or not self._kept:
            self._kept.append(_reply(reply, {} if self._streams else self._typed(arrays), weight))

    def model(self, number: int) -> Arrays:
        """The next model, after at least one update. Raises RunFailed when the strategy gives none."""
        weight = self._totals.weight
        means = self._means()
        if self._streams:
            replies = [_reply(self._kept[0], means, weight)]
            means = {name: means[name] for name in self._averaged}
        else:
            replies = _alike(sorted(self._kept, key=position))
        try:
            record, _ = self._strategy.aggregate_train(number, replies)
        except AppExitException as error:
            raise RunFailed(f"round {number}: the strategy could not aggregate: {error}") from error
        if record is None:
            raise RunFailed(f"round {number}: the strategy returned no model")
        try:
            # Strategies compute in their own precision; the model keeps its types.
            arrays = self._typed(from_record(record) | means)
            check_arrays(arrays, self._reference)
        except (BadUpdate, KeyError) as error:
            raise RunFailed(f"round {number}: the aggregate is not a model: {error}") from error
        return arrays

    def _means(self) -> dict[str, NDArray[np.generic]]:
        """Means in the model's own types; the sums, four times as large as most models, are given up."""
        return {
            name: rounded(self._totals.take_mean(name), self._reference[name].dtype)
            for name in self._totals.names
        }

    def _typed(self, arrays: Arrays) -> dict[str, NDArray[np.generic]]:
        return {n: rounded(arrays[n], old.dtype) for n, old in self._reference.items()}


def _reply(reply: Message, arrays: Arrays, weight: float) -> Message:
    """The reply with other arrays and another weight; metrics keep their other names."""
    metrics = MetricRecord()
    metrics.update(metrics_of(reply) | {WEIGHT: weight})
    changed = copy.copy(reply)
    changed.content = RecordDict({"arrays": to_record(arrays), "metrics": metrics})
    return changed


def _alike(replies: list[Message]) -> list[Message]:
    """The updates with the metrics that all of them have.

    Flower's strategies give up the whole round when names differ; no single device shall be able to do that.
    """
    shared = set.intersection(*(set(metrics_of(m)) for m in replies))
    for message in replies:
        (metrics,) = message.content.metric_records.values()
        for name in set(metrics) - shared:
            del metrics[name]
    return replies
