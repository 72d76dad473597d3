"""A coordinator's run: the round engine between a fabric and the journal, from the start or from a stop."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

from flwr.serverapp import Grid

from scheduler.errors import FedpoetError
from server.cohort import make_sampler
from server.federation import Federation, Pending, Progress, Round
from server.replies import Metrics
from server.reports import Reports
from server.rounds import run_rounds
from server.rules import Rules
from server.strategy import make_strategy
from server.updates import Arrays

from .journal import Entry, Journal
from .values import finite
from .watch import Watch

LOOK_EVERY_S = 0.5  # for devices that have come

log = logging.getLogger("fedpoet.coordinator")


@dataclass(frozen=True, kw_only=True)
class Fabric:
    """A Grid, and what a coordinator needs of what is behind it.

    `asked` lists the messages that are kept there, also from before a stop, until `forget` drops them.
    """

    grid: Grid
    wait: Callable[[float, int], None]
    reports: Callable[[], Reports]
    asked: Callable[[], Sequence[Pending]] = tuple
    forget: Callable[[Collection[str]], None] = lambda _: None
    withdraw: Callable[[Sequence[str]], None] | None = None


@dataclass(frozen=True, kw_only=True)
class Model:
    """What a coordinator knows of what is trained: no code of it."""

    workload: str
    digest: bytes
    initial: Arrays
    averaged: frozenset[str]
    evaluate: Callable[[int, Arrays], Metrics]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How a run goes. `rounds` and `keep_models` may be others when it goes on; the rest may not."""

    rounds: int
    strategy: str = "fedavg"
    sampler: str = "uniform"
    seed: int = 0
    rules: Rules = field(default_factory=Rules)
    train_config: Mapping[str, bool | int | float | str] = field(default_factory=dict)
    keep_models: int = 10

    def fixed(self, model: Model) -> dict[str, bool | int | float | str | None]:
        """What must be the same when the run goes on."""
        rules = asdict(self.rules)
        eligibility = rules.pop("eligibility")
        return {
            "workload": model.workload,
            "workload-digest": model.digest.hex(),
            "strategy": self.strategy,
            "sampler": self.sampler,
            "seed": self.seed,
            **{f"rules.{name}": value for name, value in rules.items()},
            **{f"eligibility.{name}": value for name, value in eligibility.items()},
            **{f"train.{name}": value for name, value in self.train_config.items()},
        }


def coordinate(
    settings: Settings,
    model: Model,
    fabric: Fabric,
    journal: Journal,
    watch: Watch,
    now_s: Callable[[], float],
    on_entry: Callable[[Entry], None] = lambda _: None,
) -> Arrays:
    """Run the rounds that are missing; `now_s` is a clock that goes on through stops. Returns the model.

    `on_entry` is told of each round once it is in the journal.

    Raises BadInput when the journal is of another run, and what `run_rounds` raises.
    """
    journal.start(settings.fixed(model))
    resume = journal.resume()
    last = journal.last_id()

    def on_cohort(number: int, cohort: tuple[int, ...]) -> None:
        journal.note_cohort(number, cohort)
        watch.asking(number, len(cohort))
        log.info("asking", extra={"facts": {"round": number, "devices": len(cohort)}})

    def on_round(done: Round, progress: Progress) -> None:
        nonlocal last
        journal.note_round(done, progress)
        under_way = {p.message_id for p in progress.pending}
        fabric.forget([a.message_id for a in fabric.asked() if a.message_id not in under_way])
        (entry,) = journal.entries(last)
        last = entry.id
        journal.keep_models(settings.keep_models)
        watch.noted(entry)
        on_entry(entry)
        log.info("round", extra={"facts": _facts(done)})

    try:
        arrays = run_rounds(
            fabric.grid,
            Federation(
                initial=model.initial,
                strategy=make_strategy(settings.strategy),
                num_rounds=settings.rounds,
                evaluate=model.evaluate,
                now_s=now_s,
                wait=fabric.wait,
                reports=fabric.reports,
                averaged=model.averaged,
                rules=settings.rules,
                sampler=make_sampler(settings.sampler),
                seed=settings.seed,
                train_config=settings.train_config,
                withdraw=fabric.withdraw,
                on_cohort=on_cohort,
                on_round=on_round,
                look_every_s=LOOK_EVERY_S,
                resume=resume and _with_kept(resume, fabric.asked()),
            ),
        )
    except FedpoetError as error:
        watch.ended(str(error))
        raise
    watch.ended("all rounds are done")
    return arrays


def _with_kept(progress: Progress, kept: Sequence[Pending]) -> Progress:
    """The progress with the messages that the fabric has kept: the journal knows none of the open round's."""
    fresh = [p for p in kept if p.version == progress.number or p.version in progress.bases]
    return replace(progress, pending=tuple(fresh))


def _facts(done: Round) -> dict[str, object]:
    """A round for the log: numbers about it, none of them from the data."""
    facts = {
        "round": done.number,
        "asked": len(done.cohort),
        "updates": len(done.metrics),
        "refused": len(done.refused),
        "waiting": len(done.waiting),
        "skipped": done.skipped,
        "bytes_down": done.bytes_down,
        "bytes_up": done.bytes_up,
        "seconds": done.end_s - done.start_s,
        "scores": dict(done.evaluation),
    }
    return dict(finite(facts))
