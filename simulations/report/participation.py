"""Who took part, who never could, and what became of the messages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from scheduler.view.bars import Part, bars_picture
from scheduler.view.html import table
from scheduler.view.text import human_bytes, plural

from ..census import Count, sentence
from ..fleet import Ints, Mask
from ..reading import Run
from ..results import LeftOut, Outcome
from ..tally import Tally
from .learning import PERCENT
from .lines import Line, able_lines, lines

UPDATES = ((1, 1, 0.3), (2, 3, 0.5), (4, 9, 0.75), (10, None, 1.0))
"""Devices are told by how many of their updates were used: from, to, and how strong the colour is."""

OUTCOMES = (
    ("used", (Outcome.AGGREGATED,), "forward"),
    ("too late", (Outcome.LATE, Outcome.WITHDRAWN), "paging"),
    ("refused or failed", (Outcome.REFUSED, Outcome.FAILED), "again"),
    ("dropped out or went offline", (Outcome.DROPPED_OUT, Outcome.WENT_OFFLINE), "radio"),
    ("battery empty", (Outcome.BATTERY_EMPTY,), "resident"),
    ("under way when the run ended", (Outcome.UNFINISHED,), "grid"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Took:
    """How often devices of a line took part: messages and used updates of each that can train."""

    line: Line
    devices: int
    asked: Ints
    used: Ints

    def parts(self) -> Iterator[float]:
        """Of all devices of the line: cannot train, never asked, none of UPDATES, each of UPDATES."""
        yield self.devices - len(self.asked)
        yield int((self.asked == 0).sum())
        yield int(((self.asked > 0) & (self.used == 0)).sum())
        for low, high, _ in UPDATES:
            yield int(((self.used >= low) & (self.used <= (high or np.inf))).sum())


def took_part(run: Run, tallied: Tally) -> tuple[Took, ...]:
    """All lines of the fleet."""
    kind = run.devices["kind"]

    def of(line: Line) -> Took:
        rows: Mask = np.isin(kind, line.kinds)
        return Took(
            line=line,
            devices=line.devices(run),
            asked=tallied.asked[rows],
            used=tallied.used[rows],
        )

    return tuple(of(line) for line in lines(run))


def participation_note(run: Run, tallied: Tally) -> str:
    """The fleet in sentences."""
    able = run.devices["kind"] >= 0
    used, count = tallied.used[able], int(able.sum())
    workload = str(run.config["workload"]).rpartition("/")[2]
    now = Count(batch_size=run.config["batch_size"], able=count, devices=len(able))
    return (
        f"{sentence((now, *run.smaller), workload)}. Of the {plural(count, 'device')} that can now, "
        f"{_count(tallied.asked[able] > 0)} were asked and {_count(used > 0)} gave an update that a model "
        f"has{_half(used)}. {_unheard(run, tallied)}"
    )


def _half(used: Ints) -> str:
    """How few devices gave half of all updates: the same for all if it is half of those that took part."""
    if not used.sum():
        return ""
    most = np.cumsum(np.sort(used)[::-1])
    few = int(np.searchsorted(most, most[-1] / 2)) + 1
    return f"; half of all updates came from {plural(few, 'device')}"


def _unheard(run: Run, tallied: Tally) -> str:
    partition = run.devices["partition"]
    every, heard = np.unique(partition), np.unique(partition[tallied.used > 0])
    silent = len(every) - len(heard)
    if not silent:
        return f"Every one of the {plural(len(every), 'partition')} of the data reached a model."
    return (
        f"{silent} of the {plural(len(every), 'partition')} of the data reached no model: all their "
        "devices were left out, or no update of theirs was used."
    )


def participation_picture(took: Sequence[Took]) -> str:
    """Each line of the fleet as a whole, by how often its devices took part."""
    shares = [[part / max(1, t.devices) for part in t.parts()] for t in took]
    named = [("cannot train", "again", 1.0), ("never asked", "grid", 1.0)]
    named.append(("asked, no update used", "paging", 1.0))
    named += [(_updates(low, high), "forward", strength) for low, high, strength in UPDATES]
    return bars_picture(
        [t.line.label for t in took],
        [
            Part(label=label, values=[s[k] for s in shares], colour=colour, strength=strength)
            for k, (label, colour, strength) in enumerate(named)
        ],
        name="participation",
        label="How often devices of each kind took part",
        formatter=PERCENT,
        whole=1.0,
        columns=7,
    )


def _updates(low: int, high: int | None) -> str:
    if high is None:
        return f"{low} or more"
    return "1 update" if high == 1 else f"{low} to {high}"


def participation_table(run: Run, took: Sequence[Took]) -> str:
    """The same in numbers, with each line's share of the fleet beside its share of the updates."""
    updates = sum(int(t.used.sum()) for t in took)

    def row(t: Took) -> tuple[str, ...]:
        middle, most = (np.median(t.used), t.used.max()) if len(t.used) else (0, 0)
        return (
            escape(t.line.label),
            f"{t.devices:,}",
            _share(len(t.asked), t.devices),
            _share(int((t.asked > 0).sum()), t.devices),
            _share(int((t.used > 0).sum()), t.devices),
            f"{middle:g} / {most}",
            _share(t.devices, len(run.devices)),
            _share(int(t.used.sum()), updates),
        )

    head = (
        "kind", "devices", "can train", "were asked", "took part",
        "updates per device, median / most", "share of the fleet", "share of the updates",
    )  # fmt: skip
    return table(head, map(row, took))


def left_out_table(run: Run) -> str:
    """Who never could, and why."""
    if not run.left_out:
        return '<p class="note">No device is left out: every kind has a plan.</p>'
    same: dict[str, list[LeftOut]] = {}
    for left in run.left_out:
        same.setdefault(left.reason, []).append(left)
    rows = (
        (
            f"{escape(', '.join(x.name for x in some))}<small>{escape(some[0].profile)}</small>",
            f"{sum(x.devices for x in some):,}",
            human_bytes(some[0].ram_bytes),
            "" if some[0].floor_bytes is None else human_bytes(some[0].floor_bytes),
            escape(reason),
        )
        for reason, some in same.items()
    )
    return table(("left out", "devices", "budget", "floor", "why"), rows, sentences=(4,))


def messages_picture(run: Run, tallied: Tally) -> str:
    """What became of the messages to each line."""
    if not tallied.messages.any():
        return '<p class="note">No device was ever asked.</p>'
    able = able_lines(run)
    counts = np.array([tallied.messages[list(line.kinds)].sum(axis=0) for line in able])
    sums = counts.sum(axis=1)
    parts = [
        Part(
            label=label,
            values=(counts[:, list(which)].sum(axis=1) / np.maximum(1, sums)).tolist(),
            colour=colour,
        )
        for label, which, colour in OUTCOMES
        if counts[:, list(which)].any()
    ]
    return bars_picture(
        [line.label for line in able],
        parts,
        name="messages",
        label="What became of the messages to each kind of device",
        formatter=PERCENT,
        ends=[f"{total:,}" for total in sums],
        whole=1.0,
        columns=7,
    )


def _count(which: Mask) -> str:
    return f"{int(which.sum()):,} ({_share(int(which.sum()), len(which))})"


def _share(part: int, whole: int) -> str:
    """In whole per cent, but neither none nor all unless it is so."""
    if not whole:
        return "none"
    percent = round(100 * part / whole)
    return f"{min(99, max(1, percent)) if 0 < part < whole else percent} %"
