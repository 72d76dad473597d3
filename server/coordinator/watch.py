"""What people may see of a running coordinator: numbers about rounds and devices, never data or arrays."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .journal import Entry


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundLine:
    """One round in numbers. `peak_bytes` and `energy_j` are as the devices report them, over its updates."""

    number: int
    scores: tuple[tuple[str, float], ...]
    asked: int
    updates: int
    refused: int
    waiting: int
    skipped: str | None
    rolled_back: bool
    seconds: float
    bytes_down: int
    bytes_up: int
    peak_bytes: int
    energy_j: float


@dataclass(frozen=True, slots=True, kw_only=True)
class KindLine:
    """Devices of one kind: enrolled, online, and allowed by their owners to train now."""

    kind: str
    enrolled: int
    online: int
    ready: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The state of a run at one moment. `open_round` is being worked on since `open_since_s`."""

    name: str
    of_rounds: int
    open_round: int
    asked: int
    now_s: float
    open_since_s: float
    rounds: tuple[RoundLine, ...]
    kinds: tuple[KindLine, ...]
    refusals: tuple[tuple[str, int], ...]
    ended: str | None

    @property
    def last(self) -> RoundLine | None:
        """The newest round that counts."""
        return next((r for r in reversed(self.rounds) if not r.rolled_back), None)


class Watch:
    """Is told by the round engine what happens, and tells any thread that asks. `kinds` looks at devices."""

    def __init__(
        self,
        name: str,
        of_rounds: int,
        entries: Sequence[Entry],
        now_s: Callable[[], float],
        kinds: Callable[[], tuple[KindLine, ...]] = tuple,
    ) -> None:
        self._name, self._of_rounds, self._now_s, self._kinds = name, of_rounds, now_s, kinds
        self._lock = threading.Lock()
        self._rounds = [round_line(entry) for entry in entries]
        self._refusals: Counter[str] = Counter()
        for entry in entries:
            self._count(entry.record)
        numbers = [r.number for r in self._rounds if not r.rolled_back]
        self._open, self._asked, self._since_s = max(numbers, default=-1) + 1, 0, now_s()
        self._ended: str | None = None

    def asking(self, number: int, asked: int) -> None:
        """Round `number` asks so many devices."""
        with self._lock:
            self._open, self._asked = number, asked

    def noted(self, entry: Entry) -> None:
        """A round has ended and is in the journal."""
        with self._lock:
            self._rounds.append(round_line(entry))
            self._count(entry.record)
            self._open, self._asked, self._since_s = entry.number + 1, 0, self._now_s()

    def ended(self, how: str) -> None:
        """The run is over."""
        with self._lock:
            self._ended = how

    def snapshot(self) -> Snapshot:
        """What there is to see now."""
        kinds = self._kinds()
        with self._lock:
            return Snapshot(
                name=self._name,
                of_rounds=self._of_rounds,
                open_round=self._open,
                asked=self._asked,
                now_s=self._now_s(),
                open_since_s=self._since_s,
                rounds=tuple(self._rounds),
                kinds=kinds,
                refusals=tuple(self._refusals.most_common()),
                ended=self._ended,
            )

    def _count(self, record: Mapping[str, Any]) -> None:
        self._refusals.update(_kind_of(refusal["reason"]) for refusal in record["refused"])


def round_line(entry: Entry) -> RoundLine:
    """A journaled round in numbers."""
    record = entry.record
    metrics = list(record["metrics"].values())
    return RoundLine(
        number=entry.number,
        scores=_ordered(record["evaluation"]),
        asked=len(record["cohort"]),
        updates=len(metrics),
        refused=len(record["refused"]),
        waiting=len(record["waiting"]),
        skipped=record["skipped"],
        rolled_back=entry.rolled_back,
        seconds=record["end_s"] - record["start_s"],
        bytes_down=record["bytes_down"],
        bytes_up=record["bytes_up"],
        peak_bytes=int(max((m.get("measured-peak-bytes", 0) for m in metrics), default=0)),
        energy_j=float(sum(m.get("energy-j", 0.0) for m in metrics)),
    )


def _ordered(evaluation: Mapping[str, float]) -> tuple[tuple[str, float], ...]:
    """Accuracy first, then loss, then what else there is."""
    known = [name for name in ("accuracy", "loss") if name in evaluation]
    return tuple((n, evaluation[n]) for n in (*known, *sorted(evaluation.keys() - set(known))))


def _kind_of(reason: str) -> str:
    """A refusal's reason without the numbers of the single case, so that it can be counted."""
    head = reason.split(":", 1)[0].split(";", 1)[0]
    return " ".join("N" if any(c.isdigit() for c in word) else word for word in head.split())[:80]
