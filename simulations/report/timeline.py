"""How long rounds took, which were skipped, and some of them message by message."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from html import escape

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator
from numpy.typing import NDArray

from scheduler.view.figure import COLOURS, drawing, figure, svg
from scheduler.view.html import key, table
from scheduler.view.pictures import SECONDS, count_time
from scheduler.view.text import human_bytes, human_s, plural

from ..reading import Run
from ..results import Outcome, RoundRecord
from .learning import MOST_POINTS, thinned

MOST_MESSAGES = 24  # of a round's time line
MOST_TABLED = 200  # rounds
MOST_REASONS = 20
HEADROOM = 1.08
UNEVEN = 30  # times the median: so long is the longest round that others can be seen beside
DECADES = (1e-6, 1e-5, 1e-4, 0.001, 0.01, 0.1, 1.0, 10.0, 60.0, 600.0, 3600.0, 36e3, 864e3, 864e4)
BEYOND = 1.6  # a time line ends at so many times the round, though a message may still be under way

PHASES = (
    ("wait_down_s", "paging", "waits for the link"),
    ("down_s", "again", "receives"),
    ("train_s", "forward", "trains"),
    ("wait_up_s", "paging", ""),
    ("up_s", "update", "sends"),
    ("wait_s", "grid", "waits for the round's end"),
)
KEY = tuple((colour, label) for _, colour, label in PHASES if label)


def rounds_picture(rounds: Sequence[RoundRecord]) -> str:
    """Seconds of each round, and how many messages led to an update; skipped rounds are marked."""
    trained = rounds[1:]
    shown = [trained[k] for k in thinned(len(trained), MOST_POINTS)]
    numbers, seconds = [r.round for r in shown], [r.end_s - r.start_s for r in shown]
    with drawing("rounds"):
        made, (length, updates) = figure(9.2, 2.5, columns=2)
        style = "-" if len(shown) > 60 else "o-"
        length.plot(
            numbers, seconds, style, color=COLOURS["forward"],
            markersize=3,
        )  # fmt: skip
        asked, used = [r.asked for r in shown], [r.aggregated for r in shown]
        updates.plot(numbers, asked, style, color=COLOURS["plain"], markersize=3, label="asked")
        updates.plot(
            numbers, used, style, color=COLOURS["forward"], markersize=3, label="updates used"
        )
        updates.set_title("devices")
        made.legend(loc="outside upper right", ncols=2)
        for ax in (length, updates):
            _draw_skipped(ax, [r.round for r in shown if r.skipped is not None])
            ax.set_xlabel("round")
            ax.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        updates.set_ylim(0, HEADROOM * max(1, *asked, *used))
        _scale(length, seconds)
        return svg(made, "rounds", "How long rounds took, and how many updates they used")


def _draw_skipped(ax: Axes, numbers: Sequence[int]) -> None:
    """Crosses at the foot of the axes. None at all where there are none: the layout cannot place them."""
    if numbers:
        foot = ax.get_xaxis_transform()
        colour, zeros = COLOURS["budget"], [0] * len(numbers)
        ax.plot(numbers, zeros, "x", color=colour, clip_on=False, zorder=5, transform=foot)


def _scale(ax: Axes, seconds: Sequence[float]) -> None:
    """Logarithmic where one round would flatten all others."""
    if min(seconds) > 0 and max(seconds) > UNEVEN * sorted(seconds)[len(seconds) // 2]:
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(FixedLocator(DECADES))
        ax.yaxis.set_major_formatter(SECONDS)
        ax.yaxis.set_minor_locator(NullLocator())
        ax.set_title("how long rounds took (logarithmic)")
    else:
        ax.set_ylim(0, HEADROOM * max(seconds) or 1)
        count_time(ax.yaxis, 5)
        ax.set_title("how long rounds took")


def skipped_table(rounds: Sequence[RoundRecord]) -> str:
    """Rounds without a new model, by reason."""
    reasons = Counter(r.skipped for r in rounds if r.skipped is not None)
    if not reasons:
        return '<p class="note">No round was skipped.</p>'
    first = {reason: next(r.round for r in rounds if r.skipped == reason) for reason in reasons}
    rows = [
        (str(count), str(first[reason]), escape(reason))
        for reason, count in reasons.most_common(MOST_REASONS)
    ]
    more = len(reasons) - MOST_REASONS
    rest = f'<p class="note">And {plural(more, "reason")} more.</p>' if more > 0 else ""
    return table(("rounds skipped", "first", "why"), rows, sentences=(2,)) + rest


def time_lines(run: Run) -> str:
    """The slowest, the median and the first round in which devices were asked, where they differ."""
    trained = [r for r in run.rounds[1:] if r.asked]
    if not trained:
        return '<p class="note">No device was ever asked.</p>'
    by_length = sorted(trained, key=lambda r: (r.end_s - r.start_s, r.round))
    chosen: dict[str, tuple[str, RoundRecord]] = {}
    for said, record in (
        ("the slowest", by_length[-1]),
        ("the median", by_length[len(by_length) // 2]),
        ("the first", trained[0]),
    ):
        chosen.setdefault(human_s(record.end_s - record.start_s), (said, record))
    lines = (_time_line(run, said, record) for said, record in chosen.values())
    return key(KEY) + "".join(lines)


def _time_line(run: Run, said: str, record: RoundRecord) -> str:
    rows = run.journeys[run.journeys["asked_in"] == record.round]
    took = np.where(np.isfinite(rows["end_s"]), rows["end_s"], np.inf) - rows["sent_s"]
    rows = rows[np.lexsort((rows["node"], took))]
    shown = rows[thinned(len(rows), MOST_MESSAGES)]
    begin_s = float(rows["sent_s"].min()) if len(rows) else record.start_s
    heading = f"Round {record.round}, {said}: {human_s(record.end_s - record.start_s)}"
    note = f"{plural(len(rows), 'message')}, {record.aggregated} updates used."
    if begin_s > record.start_s:
        note += f" Before, it waited {human_s(begin_s - record.start_s)} for devices."
    if len(shown) < len(rows):
        note += f" Shown are {len(shown)}, evenly from the fastest to the slowest."
    picture = _gantt(run, shown, f"round-{record.round}", heading, begin_s, record.end_s)
    return f'<h3>{heading}</h3><p class="note">{note}</p><div class="scroll">{picture}</div>'


def _gantt(
    run: Run, rows: NDArray[np.void], name: str, label: str, begin_s: float, end_s: float
) -> str:
    length_s, last_s = end_s - begin_s, max((row["end_s"] for row in rows), default=end_s)
    with drawing(name):
        made, (ax,) = figure(9.2, 0.7 + 0.2 * len(rows))
        for place, row in enumerate(rows):
            _draw_message(ax, place, row, begin_s)
        ax.set_xlim(0, min(max(last_s - begin_s, length_s) * 1.02, length_s * BEYOND) or 1)
        ax.axvline(length_s, color=COLOURS["budget"], linestyle=(0, (4, 3)), linewidth=1.3)
        ax.set_yticks(range(len(rows)), [_said(run, row) for row in rows])
        ax.tick_params(axis="y", labelsize=8, length=0)
        ax.set_ylim(len(rows) - 0.4, -0.6)
        ax.grid(visible=False, axis="y")
        ax.grid(visible=True, axis="x")
        count_time(ax.xaxis, 8)
        return svg(made, name, label)


def _draw_message(ax: Axes, place: int, row: np.void, begin_s: float) -> None:
    at = float(row["sent_s"]) - begin_s
    for field, colour, _ in PHASES:
        seconds = float(row[field])
        if field == "wait_s":
            at = float(row["end_s"]) - begin_s
        if seconds > 0:
            ax.broken_barh(
                [(at, seconds)], (place - 0.36, 0.72), facecolors=COLOURS[colour], linewidth=0
            )
        at += seconds
    if row["outcome"] not in (Outcome.AGGREGATED, Outcome.UNFINISHED):
        ax.plot(
            [float(row["end_s"]) - begin_s], [place], "x", color=COLOURS["budget"], markersize=6,
            markeredgewidth=2,
        )  # fmt: skip


def _said(run: Run, row: np.void) -> str:
    """The device, and what became of its message unless its update was used."""
    kind = run.plans[int(row["kind"])].group
    outcome = Outcome(int(row["outcome"]))
    said = "" if outcome is Outcome.AGGREGATED else f", {outcome}"
    return f"{kind} {int(row['node'])}{said}"


def rounds_table(rounds: Sequence[RoundRecord]) -> str:
    """A line per round, or per so many of them."""
    rows = [
        (
            str(r.round),
            "no number" if r.loss is None else f"{r.loss:.4f}",
            "" if r.accuracy is None else f"{r.accuracy:.2%}",
            human_bytes(r.bytes_down),
            human_bytes(r.bytes_up),
            human_s(r.end_s - r.start_s),
            f"{r.aggregated} of {r.asked}",
            escape("; ".join(f"{x.count} × {x.reason}" for x in r.refused)) or "0",
        )
        for r in (rounds[k] for k in thinned(len(rounds), MOST_TABLED))
    ]
    head = ("round", "loss", "accuracy", "down", "up", "virtual time", "updates", "refused")
    return table(head, rows)


def rounds_summary(rounds: Sequence[RoundRecord]) -> str:
    """What the table shows."""
    count = len(rounds) - 1
    if len(rounds) <= MOST_TABLED:
        return f"All {plural(count, 'round')}, with what was sent"
    return f"{MOST_TABLED} of {plural(count, 'round')}, with what was sent; metrics.jsonl has all"
