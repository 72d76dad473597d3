"""The round engine: cohort, training, checks, aggregation, evaluation, over any Flower Grid.

Flower's `Strategy.start()` samples with the global generator, waits for ever, and sums replies as they
arrive. Here the strategy only configures a round for the cohort it is given and aggregates the replies,
in a fixed order; all the rest is below.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import cast

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.app.exception import AppExitException
from flwr.common.serde import recorddict_to_proto
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from numpy.typing import NDArray

from scheduler.errors import BadUpdate, RunFailed

from .cohort import Quorum, Sampler, everyone
from .grid import CohortGrid
from .strategy import ExactFedAvg, rounded
from .updates import Arrays, check_arrays, check_weight

WEIGHT = "num-examples"
ORDER = "partition-id"

Metrics = Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A node whose update was not aggregated, and why. `sent` tells a bad update from none at all."""

    node: int
    reason: str
    sent: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """What happened in one round. Bytes are of the messages' serialized content.

    `evaluation` is of the new model; round 0 is the evaluation of the initial one.
    """

    number: int
    cohort: tuple[int, ...]
    metrics: Mapping[int, Metrics]  # of the nodes whose update was aggregated
    refused: tuple[Refusal, ...]
    bytes_down: int
    bytes_up: int
    evaluation: Metrics
    start_s: float
    end_s: float


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The model after the last round, and every round from 0."""

    arrays: Arrays
    rounds: tuple[Round, ...]


@dataclass(frozen=True, kw_only=True)
class Federation:
    """All that a run needs besides the Grid.

    `initial` are the model's arrays; what comes back must match them. Those named in `averaged` (batch
    norm's statistics) are averaged whatever the strategy: a server's optimizer would step them like
    parameters, a variance below zero. `evaluate` maps (round, arrays)
    to numbers. `strategy` is any of Flower's Message API. `timeout_s` bounds a round; None waits for
    all replies. `quorum` is waited for before the first round. `now_s` is the run's clock, real or
    virtual. `train_config` goes to every node.
    """

    initial: Arrays
    strategy: Strategy
    num_rounds: int
    evaluate: Callable[[int, Arrays], Metrics]
    now_s: Callable[[], float]
    averaged: frozenset[str] = frozenset()
    sampler: Sampler = everyone
    on_round: Callable[[Round], None] = lambda _: None
    timeout_s: float | None = None
    quorum: Quorum | None = None
    train_config: Mapping[str, bool | int | float | str] | None = None


def run_rounds(grid: Grid, federation: Federation) -> Outcome:
    """Run all rounds.

    Raises BadUpdate when a round has updates and none can be aggregated, RunFailed when it has none or
    too few nodes come online.
    """
    if federation.quorum is not None:
        _wait_for_nodes(grid, federation.quorum, federation.now_s)
    arrays = federation.initial
    now = federation.now_s()
    rounds = [_first(federation, now)]
    federation.on_round(rounds[0])
    for number in range(1, federation.num_rounds + 1):
        arrays, done = _run_round(grid, federation, number, arrays)
        rounds.append(done)
        federation.on_round(done)
    return Outcome(arrays=arrays, rounds=tuple(rounds))


def _wait_for_nodes(grid: Grid, quorum: Quorum, now_s: Callable[[], float]) -> None:
    until = now_s() + quorum.timeout_s
    while (online := len(list(grid.get_node_ids()))) < quorum.nodes:
        if now_s() >= until:
            raise RunFailed(
                f"{online} of {quorum.nodes} nodes were online after {quorum.timeout_s:.0f} s; "
                "start more, or wait for fewer"
            )
        quorum.pause_s(quorum.look_every_s)


def _first(federation: Federation, now: float) -> Round:
    return Round(
        number=0,
        cohort=(),
        metrics={},
        refused=(),
        bytes_down=0,
        bytes_up=0,
        evaluation=federation.evaluate(0, federation.initial),
        start_s=now,
        end_s=now,
    )


def _run_round(
    grid: Grid, federation: Federation, number: int, arrays: Arrays
) -> tuple[Arrays, Round]:
    start_s = federation.now_s()
    cohort = federation.sampler(sorted(grid.get_node_ids()))
    messages = _configure(grid, federation, number, arrays, cohort)
    bytes_down = sum(content_bytes(m) for m in messages)
    replies = sorted(grid.send_and_receive(messages, timeout=federation.timeout_s), key=_position)
    bytes_up = sum(content_bytes(m) for m in replies)
    usable, refused = _sort_out(cohort, replies, federation)
    if not usable:
        _fail(number, refused)
    new = _aggregate(federation, number, usable)
    return new, Round(
        number=number,
        cohort=cohort,
        metrics={m.metadata.src_node_id: _metrics(m) for m in usable},
        refused=refused,
        bytes_down=bytes_down,
        bytes_up=bytes_up,
        evaluation=federation.evaluate(number, new),
        start_s=start_s,
        end_s=federation.now_s(),
    )


def _configure(
    grid: Grid, federation: Federation, number: int, arrays: Arrays, cohort: tuple[int, ...]
) -> list[Message]:
    messages = federation.strategy.configure_train(
        number,
        to_record(arrays),
        ConfigRecord(dict(federation.train_config or {})),
        CohortGrid(grid, cohort),
    )
    return sorted(messages, key=lambda m: m.metadata.dst_node_id)


def _sort_out(
    cohort: tuple[int, ...], replies: list[Message], federation: Federation
) -> tuple[list[Message], tuple[Refusal, ...]]:
    """Replies that may be aggregated, in order, and the rest of the cohort with the reason."""
    usable: list[Message] = []
    refused: list[Refusal] = []
    awaited = set(cohort)
    for reply in replies:
        node = reply.metadata.src_node_id
        if reply.has_error():
            reason = reply.error.reason or f"error {reply.error.code}"
            refused.append(Refusal(node=node, reason=reason, sent=False))
            continue
        try:
            if node not in awaited:
                raise BadUpdate("the node was not asked, or has answered already")
            awaited.remove(node)
            _check(reply, federation.initial)
        except BadUpdate as error:
            refused.append(Refusal(node=node, reason=str(error), sent=True))
        else:
            usable.append(reply)
    silent = set(cohort) - {m.metadata.src_node_id for m in replies}
    refused += [Refusal(node=n, reason="sent no reply in time", sent=False) for n in sorted(silent)]
    return usable, tuple(refused)


def _check(reply: Message, reference: Arrays) -> None:
    records = [type(record).__name__ for record in reply.content.values()]
    if sorted(records) != ["ArrayRecord", "MetricRecord"]:
        raise BadUpdate(
            f"the update holds {records}; it must hold one ArrayRecord and one MetricRecord"
        )
    (record,) = reply.content.array_records.values()
    try:
        arrays = from_record(record)
    except Exception as error:  # whatever damaged bytes lead to, a MemoryError included
        raise BadUpdate(f"the update cannot be read: {error}") from error
    check_arrays(arrays, reference)
    (metrics,) = reply.content.metric_records.values()
    check_weight(metrics, WEIGHT)


def _aggregate(federation: Federation, number: int, usable: list[Message]) -> Arrays:
    try:
        record, _ = federation.strategy.aggregate_train(number, _alike(usable))
    except AppExitException as error:
        raise RunFailed(f"round {number}: the strategy could not aggregate: {error}") from error
    if record is None:
        raise RunFailed(f"round {number}: the strategy returned no model")
    aggregated = from_record(record)
    if federation.averaged:
        mean, _ = ExactFedAvg(weighted_by_key=WEIGHT).aggregate_train(number, _alike(usable))
        of_mean = from_record(cast(ArrayRecord, mean))
        aggregated |= {name: of_mean[name] for name in federation.averaged}
    try:
        # Strategies compute in their own precision; the model keeps its types.
        arrays = {n: rounded(aggregated[n], old.dtype) for n, old in federation.initial.items()}
        check_arrays(arrays, federation.initial)
    except BadUpdate as error:
        raise RunFailed(f"round {number}: the aggregate is not a model: {error}") from error
    return arrays


def _alike(usable: list[Message]) -> list[Message]:
    """The updates with the metrics that all of them have, under one name.

    Flower's strategies give up the whole round when names differ; no single node shall be able to do that.
    """
    shared = set.intersection(*(set(_metrics(m)) for m in usable))
    found: list[Message] = []
    for message in usable:
        (record,) = message.content.array_records.values()
        metrics = MetricRecord()
        metrics.update({name: v for name, v in _metrics(message).items() if name in shared})
        found.append(copy.copy(message))
        found[-1].content = RecordDict({"arrays": record, "metrics": metrics})
    return found


def _fail(number: int, refused: tuple[Refusal, ...]) -> None:
    nodes: dict[str, list[str]] = {}
    for refusal in refused:
        nodes.setdefault(refusal.reason, []).append(str(refusal.node))
    told = [f"node {', '.join(n)}: {reason}" for reason, n in nodes.items()]
    reasons = "; ".join(told[:3])
    more = f"; and {len(told) - 3} more reasons" if len(told) > 3 else ""
    kind = BadUpdate if any(r.sent for r in refused) else RunFailed
    raise kind(f"round {number} has no update to aggregate. {reasons}{more}")


def _position(reply: Message) -> tuple[float, int]:
    """By partition, which is the same on every fabric, then by node id, which Flower draws at random."""
    order = _metrics(reply).get(ORDER, -1.0) if reply.has_content() else -1.0
    return (order if math.isfinite(order) else -1.0), reply.metadata.src_node_id


def _metrics(reply: Message) -> dict[str, float]:
    records: Iterable[MetricRecord] = reply.content.metric_records.values()
    return {k: v for record in records for k, v in record.items() if isinstance(v, int | float)}


def content_bytes(message: Message) -> int:
    """Size of the message's content on the wire; 0 for an error."""
    return int(recorddict_to_proto(message.content).ByteSize()) if message.has_content() else 0


def to_record(arrays: Arrays) -> ArrayRecord:
    """Arrays as Flower sends them."""
    return ArrayRecord({name: Array(np.asarray(value)) for name, value in arrays.items()})


def from_record(record: ArrayRecord) -> dict[str, NDArray[np.generic]]:
    """Arrays as numpy has them. Raises ValueError, TypeError and others when bytes are not arrays."""
    arrays = {name: array.numpy() for name, array in record.items()}
    for name, value in arrays.items():
        if not isinstance(value, np.ndarray):  # numpy also reads archives
            raise TypeError(f"{name!r} is a {type(value).__name__}, not an array")
    return arrays
