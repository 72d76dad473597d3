"""A federation's run as data: what it needs, what each round was, and what it needs to go on after one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from flwr.serverapp.strategy import Strategy

from .cohort import Sampler, uniform
from .history import History, no_history
from .replies import Metrics, Refusal
from .reports import Reports
from .rules import Rules
from .strategy import State
from .updates import Arrays


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """What happened in one round. Bytes are those of arrays and numbers in the messages' content.

    `cohort` are the devices asked in it, `metrics` those of the updates aggregated in it.
    `waiting` devices had not answered when it ended. `skipped` says why the model stayed as it was.
    `evaluation` is of the new model; round 0 is the evaluation of the initial one.
    """

    number: int
    cohort: tuple[int, ...]
    metrics: Mapping[int, Metrics]
    refused: tuple[Refusal, ...]
    waiting: tuple[int, ...]
    skipped: str | None
    bytes_down: int
    bytes_up: int
    evaluation: Metrics
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Pending:
    """A message without a reply. `version` is the number of the round before the one it was sent in."""

    message_id: str
    node: int
    version: int
    asked_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """All that a run needs to go on after round `number`.

    `bases` are the models, by version, that pending replies began with; `skipped` counts rounds in a
    row. `cohort` is that of the next round, where it had been drawn before the run was stopped.
    """

    number: int
    arrays: Arrays
    strategy: State
    history: History
    pending: tuple[Pending, ...]
    bases: Mapping[int, Arrays]
    skipped: int
    cohort: tuple[int, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class Federation:
    """All that a run needs besides the Grid.

    `initial` are the model's arrays; what comes back must match them. Those named in `averaged` (batch
    norm's statistics) are averaged whatever the strategy: a server's optimizer would step them like
    parameters, a variance below zero. `evaluate` maps (round, arrays) to numbers. `strategy` is any of
    Flower's Message API. `train_config` goes to every device.

    The fabric behind the Grid gives `now_s`, its clock, real or virtual; `wait(seconds, replies)`, which lets
    time pass until so many replies may have arrived, at most so long (infinity: as long as it takes); and
    `reports`, which asks what is online. `sampler` chooses among those, with randomness from `seed` and the
    round's number. `on_round` gets each round and what is needed to go on from there: given back as `resume`,
    with a Grid that still has the messages under way, the run goes on. `on_cohort` gets the cohort of a
    synchronous round before anybody is asked. `withdraw` tells devices that their updates are not wanted
    any more; without it a device stays asked until it answers. While too few devices are eligible, the
    run looks again every `look_every_s`.
    """

    initial: Arrays
    strategy: Strategy
    num_rounds: int
    evaluate: Callable[[int, Arrays], Metrics]
    now_s: Callable[[], float]
    wait: Callable[[float, int], None]
    reports: Callable[[], Reports]
    averaged: frozenset[str] = frozenset()
    rules: Rules = field(default_factory=Rules)
    sampler: Sampler = uniform
    seed: int = 0
    train_config: Mapping[str, bool | int | float | str] | None = None
    withdraw: Callable[[Sequence[str]], None] | None = None
    on_cohort: Callable[[int, tuple[int, ...]], None] = lambda *_: None
    on_round: Callable[[Round, Progress], None] = lambda *_: None
    resume: Progress | None = None
    look_every_s: float = 60.0


def beginning(federation: Federation) -> Progress:
    """Where a run that was never stopped goes on from."""
    return Progress(
        number=0,
        arrays=federation.initial,
        strategy={},
        history=no_history(),
        pending=(),
        bases={},
        skipped=0,
    )
