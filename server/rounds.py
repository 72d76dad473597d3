"""The round engine: cohort, training, checks, aggregation, evaluation, over any Flower Grid.

Flower's `Strategy.start()` samples with the global generator, waits for ever, keeps all replies in RAM and
sums them as they arrive. Here the strategy only configures messages for the devices it is given
and aggregates; all the rest is below. Synchronous and buffered rounds differ in when devices are asked.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message
from flwr.serverapp import Grid
from numpy.typing import NDArray

from scheduler.errors import BadUpdate, RunFailed

from .aggregate import Aggregate
from .cohort import Candidates
from .federation import Federation, Pending, Progress, Round, beginning
from .grid import CohortGrid
from .history import Answer
from .replies import (
    WEIGHT,
    Metrics,
    Refusal,
    check_reply,
    content_bytes,
    metrics_of,
    reader,
    to_record,
)
from .strategy import restore, state_of
from .updates import Arrays

MANY = 2**62  # more than any fleet has


def run_rounds(grid: Grid, federation: Federation) -> Arrays:
    """Run all rounds; returns the model after the last one.

    Raises BadUpdate or RunFailed, with the reasons, when more rounds in a row are skipped than the rules
    allow: BadUpdate where updates came and none could be used.
    """
    run = _Run(grid, federation)
    while run.number < federation.num_rounds:
        run.round()
    return run.arrays


@dataclass(slots=True, kw_only=True)
class _Tally:
    """What is counted during a round."""

    number: int
    start_s: float
    draws: int = 0
    asked: list[int] = field(default_factory=list)
    metrics: dict[int, Metrics] = field(default_factory=dict)
    answers: list[Answer] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)
    withdrawn: list[int] = field(default_factory=list)
    bytes_down: int = 0
    bytes_up: int = 0

    def refuse(self, node: int, reason: str, *, sent: bool) -> None:
        self.refused.append(Refusal(node=node, reason=reason, sent=sent))


class _Run:
    """The state of a run: what `Progress` holds, as it changes."""

    def __init__(self, grid: Grid, federation: Federation) -> None:
        self._grid, self._federation, self._rules = grid, federation, federation.rules
        self._reader = reader(federation.initial)
        progress = federation.resume or beginning(federation)
        restore(federation.strategy, progress.strategy)
        self.number, self.arrays = progress.number, progress.arrays
        self._record: ArrayRecord | None = None  # of the arrays, while devices are asked
        self._history, self._skipped = progress.history, progress.skipped
        self._pending = {p.message_id: p for p in progress.pending}
        self._bases, self._drawn = dict(progress.bases), progress.cohort
        if federation.resume is None:
            self._report(_Tally(number=0, start_s=federation.now_s()), None)

    def round(self) -> None:
        """One round, from asking to the new model, or to the reason why there is none."""
        self.number += 1
        federation = self._federation
        tally = _Tally(number=self.number, start_s=federation.now_s())
        aggregate = Aggregate(federation.strategy, federation.initial, federation.averaged)
        self._bases[self.number - 1] = self.arrays
        self._collect(tally, aggregate)
        self._withdraw(tally)
        skipped = self._why_skipped(tally)
        if skipped is None:
            if (
                not tally.draws
            ):  # nobody was asked anew, but strategies note the model when they are told to ask
                self._configure(tuple(tally.metrics))
            self._record = None
            self.arrays = aggregate.model(self.number)
        self._skipped = 0 if skipped is None else self._skipped + 1
        self._history = self._history.after(tally.asked, tally.answers)
        owed = {p.version for p in self._pending.values()} if self._rules.keeps_late else set()
        self._bases = {version: a for version, a in self._bases.items() if version in owed}
        self._report(tally, skipped)
        if skipped is not None and self._skipped > self._rules.most_skipped:
            _fail(tally, skipped)

    def _collect(self, tally: _Tally, aggregate: Aggregate) -> None:
        """Ask devices and take replies until the round has what it wants, or may wait no longer."""
        rules, now_s = self._rules, self._federation.now_s
        if rules.buffer is None:
            self._ask_cohort(tally)
        wanted = rules.buffer or rules.cohort or len(tally.asked)
        until_s = now_s() + (rules.deadline_s or math.inf)
        while True:
            if rules.buffer is not None:
                self._ask(tally, self._for_idle_places(tally))
            self._take(tally, aggregate, wanted)
            owed, missing = self._owed(), wanted - len(tally.metrics)
            if missing <= 0 or not owed or now_s() >= until_s:
                return
            replies = 1 if rules.buffer is not None else min(missing, owed)
            self._federation.wait(until_s - now_s(), replies)

    def _ask_cohort(self, tally: _Tally) -> None:
        """Ask the whole cohort, except those that were asked before the run was stopped."""
        chosen, self._drawn = self._drawn, None
        if chosen is None:
            chosen = tuple(int(node) for node in self._patiently(tally))
            self._federation.on_cohort(self.number, chosen)
        asked = {p.node for p in self._pending.values() if p.version == self.number - 1}
        tally.asked.extend(sorted(asked))
        self._ask(tally, np.array([n for n in chosen if n not in asked], dtype=np.uint64))
        self._record = None  # nobody else is asked in this round

    def _withdraw(self, tally: _Tally) -> None:
        """Where late updates do not count, let devices know that the round has ended, if that can be."""
        withdraw = self._federation.withdraw
        if withdraw is None or self._rules.keeps_late or not self._pending:
            return
        withdraw(tuple(self._pending))
        tally.withdrawn.extend(p.node for p in self._pending.values())
        self._pending.clear()

    def _owed(self) -> int:
        """How many replies may still come that this round would use."""
        now = self.number - 1
        return sum(self._rules.keeps_late or p.version == now for p in self._pending.values())

    def _for_idle_places(self, tally: _Tally) -> NDArray[np.uint64]:
        """Devices to ask so that as many as the rules say are at work; waits only when none is."""
        idle = cast(int, self._rules.cohort) - len(self._pending)
        if idle <= 0:
            return np.zeros(0, dtype=np.uint64)
        return self._choose(tally) if self._pending else self._patiently(tally)

    def _patiently(self, tally: _Tally) -> NDArray[np.uint64]:
        """The devices to ask; waits for enough eligible ones as long as the rules have patience."""
        rules, federation = self._rules, self._federation
        until_s = federation.now_s() + rules.patience_s
        wanted = rules.least_updates
        if rules.buffer is not None:
            wanted = 1
        elif rules.cohort is not None:
            wanted = max(wanted, rules.asked(MANY))
        while True:
            chosen = self._choose(tally)
            left_s = until_s - federation.now_s()
            if len(chosen) >= wanted or left_s <= 0:
                return chosen
            federation.wait(min(left_s, federation.look_every_s), MANY)

    def _choose(self, tally: _Tally) -> NDArray[np.uint64]:
        rules, reports = self._rules, self._federation.reports()
        busy = np.array([p.node for p in self._pending.values()], dtype=np.uint64)
        eligible = reports.where(rules.eligibility.mask(reports) & ~np.isin(reports.node, busy))
        size = rules.asked(len(eligible))
        if rules.buffer is not None:
            size = min(len(eligible), cast(int, rules.cohort) - len(self._pending))
        if size == 0:
            return np.zeros(0, dtype=np.uint64)
        candidates = Candidates(
            reports=eligible,
            history=self._history,
            size=size,
            round=self.number,
            draw=tally.draws,
            seed=self._federation.seed,
        )
        return np.sort(self._federation.sampler(candidates))

    def _ask(self, tally: _Tally, chosen: NDArray[np.uint64]) -> None:
        if not len(chosen):
            return
        messages = self._configure(tuple(int(node) for node in chosen))
        asked_s = self._federation.now_s()
        sizes: dict[int, int] = {}  # strategies put one content into all messages
        for message, message_id in zip(messages, self._grid.push_messages(messages), strict=True):
            node, content = message.metadata.dst_node_id, message.content
            if id(content) not in sizes:
                sizes[id(content)] = content_bytes(content)
            tally.bytes_down += sizes[id(content)]
            tally.asked.append(node)
            if not message_id:  # what a SuperLink returns for a node that it does not know
                tally.refuse(node, "the node is not known any more", sent=False)
                continue
            self._pending[message_id] = Pending(
                message_id=message_id, node=node, version=self.number - 1, asked_s=asked_s
            )
        tally.draws += 1

    def _configure(self, cohort: tuple[int, ...]) -> list[Message]:
        """The strategy's messages to a cohort, in ascending order of node."""
        federation, self._record = self._federation, self._record or to_record(self.arrays)
        messages = list(
            federation.strategy.configure_train(
                self.number,
                self._record,
                ConfigRecord(dict(federation.train_config or {})),
                CohortGrid(self._grid, cohort),
            )
        )
        for message in messages:
            message.metadata.group_id = str(self.number)
        return sorted(messages, key=lambda m: m.metadata.dst_node_id)

    def _take(self, tally: _Tally, aggregate: Aggregate, wanted: int) -> None:
        """Pull replies and add those that can be used.

        Where late updates count, replies are pulled one by one, so that those beyond the wanted ones stay
        with the fabric for the next round.
        """
        ids = list(self._pending)
        for batch in [[i] for i in ids] if self._rules.keeps_late else [ids]:
            if len(tally.metrics) >= wanted:
                return
            for reply in self._grid.pull_messages(batch):
                self._take_one(reply, tally, aggregate, wanted)
                del reply  # before the next is made: they are as large as the model

    def _take_one(self, reply: Message, tally: _Tally, aggregate: Aggregate, wanted: int) -> None:
        node = reply.metadata.src_node_id
        asked = self._pending.get(reply.metadata.reply_to_message_id)
        # A SuperLink itself answers for a node that is gone.
        if asked is None or (asked.node != node and not reply.has_error()):
            tally.refuse(node, "the node was not asked, or has answered already", sent=True)
            return
        del self._pending[asked.message_id]
        if reply.has_error():
            tally.refuse(asked.node, reply.error.reason or f"error {reply.error.code}", sent=False)
            return
        tally.bytes_up += content_bytes(reply.content)
        stale = self.number - 1 - asked.version
        if stale and not self._rules.keeps_late:
            tally.refuse(node, f"came {stale} rounds late", sent=False)
        elif len(tally.metrics) >= wanted:
            tally.refuse(node, f"came after the {wanted} wanted updates", sent=False)
        else:
            try:
                self._add(reply, asked, aggregate)
            except BadUpdate as error:
                tally.refuse(node, str(error), sent=True)
            else:
                self._note(reply, asked, tally)

    def _add(self, reply: Message, asked: Pending, aggregate: Aggregate) -> None:
        arrays: Arrays = check_reply(reply, self._reader)
        base, most = self._bases[asked.version], self._rules.largest_change
        if most is not None and not (change := _distance(arrays, base)) <= most:
            raise BadUpdate(
                f"the update is {change:.4g} away from its model; {most:.4g} is the most"
            )
        if stale := self.number - 1 - asked.version:
            arrays = _moved(arrays, base, self.arrays)
        aggregate.add(reply, arrays, self._rules.worth(stale))

    def _note(self, reply: Message, asked: Pending, tally: _Tally) -> None:
        metrics = metrics_of(reply)
        tally.metrics[asked.node] = metrics
        tally.answers.append(
            Answer(
                node=asked.node,
                round=self.number,
                loss=metrics.get("train-loss", 0.0),
                examples=metrics[WEIGHT],
                duration_s=self._federation.now_s() - asked.asked_s,
                energy_j=metrics.get("energy-j", 0.0),
            )
        )

    def _why_skipped(self, tally: _Tally) -> str | None:
        if len(tally.metrics) >= self._rules.least_updates:
            return None
        if not tally.asked and not tally.metrics:
            return f"of {len(self._federation.reports())} devices online none may be asked"
        return (
            f"{len(tally.metrics)} usable updates came; at least {self._rules.least_updates} must"
        )

    def _report(self, tally: _Tally, skipped: str | None) -> None:
        federation = self._federation
        done = Round(
            number=self.number,
            cohort=tuple(tally.asked),
            metrics=tally.metrics,
            refused=tuple(tally.refused),
            waiting=tuple(sorted([p.node for p in self._pending.values()] + tally.withdrawn)),
            skipped=skipped,
            bytes_down=tally.bytes_down,
            bytes_up=tally.bytes_up,
            evaluation=federation.evaluate(self.number, self.arrays),
            start_s=tally.start_s,
            end_s=federation.now_s(),
        )
        progress = Progress(
            number=self.number,
            arrays=self.arrays,
            strategy=state_of(federation.strategy),
            history=self._history,
            pending=tuple(self._pending.values()),
            bases=dict(self._bases),
            skipped=self._skipped,
        )
        federation.on_round(done, progress)


def _change(array: NDArray[Any], base: NDArray[Any]) -> NDArray[np.float64]:
    return np.asarray(np.subtract(array, base, dtype=np.float64))


def _moved(arrays: Arrays, base: Arrays, newest: Arrays) -> Arrays:
    """The newest model with the change that an update made to an older one."""
    return {n: np.add(newest[n], _change(v, base[n]), dtype=np.float64) for n, v in arrays.items()}


def _distance(arrays: Arrays, base: Arrays) -> float:
    """L2 distance of two models, over all their arrays."""
    return math.sqrt(
        math.fsum(float(np.square(_change(v, base[n])).sum()) for n, v in arrays.items())
    )


def _fail(tally: _Tally, skipped: str) -> None:
    nodes: dict[str, list[str]] = {}
    for refusal in tally.refused:
        nodes.setdefault(refusal.reason, []).append(str(refusal.node))
    told = [f"node {', '.join(n)}: {reason}" for reason, n in nodes.items()]
    reasons = "; ".join(told[:3])
    more = f"; and {len(told) - 3} more reasons" if len(told) > 3 else ""
    kind = BadUpdate if any(r.sent for r in tally.refused) else RunFailed
    raise kind(f"round {tally.number} has no new model: {skipped}. {reasons}{more}")
