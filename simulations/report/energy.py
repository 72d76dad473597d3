"""Where the joules went, and what a message takes of a battery."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from matplotlib.axes import Axes

from scheduler.view.bars import Part, bars_picture
from scheduler.view.figure import COLOURS, drawing, figure, svg
from scheduler.view.html import table
from scheduler.view.pictures import JOULES
from scheduler.view.spending import spending
from scheduler.view.text import human_j, human_s, shortened

from ..fleet import Floats, Ints
from ..reading import Run
from ..results import KindPlan, KindRound
from ..tally import LEVELS, Tally
from .learning import PERCENT
from .lines import Line, able_lines

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)  # of battery levels


@dataclass(frozen=True, slots=True, kw_only=True)
class EnergyShare:
    """A message to a device of a line, on average: seconds at work, and joules by what they went to.

    `idle_j` is idle power while it trains, the time that it is slower than its plan included.
    """

    label: str
    messages: int
    busy_s: float
    compute_j: float
    again_j: float
    paging_j: float
    idle_j: float
    radio_j: float
    wait_j: float

    @property
    def total_j(self) -> float:
        """Joules the message cost; waiting for others is apart."""
        return self.compute_j + self.again_j + self.paging_j + self.idle_j + self.radio_j


def energy_shares(run: Run) -> tuple[EnergyShare, ...]:
    """All lines: each kind's energy is split by walking its plan once and scaling it to the steps it ran."""
    by_kind: dict[str, list[KindRound]] = {}
    for record in run.rounds:
        for kind in record.kinds:
            by_kind.setdefault(kind.kind, []).append(kind)
    sums = [_sums(plan, by_kind.get(plan.name, [])) for plan in run.plans]
    return tuple(_share(line, sums) for line in able_lines(run))


def _sums(plan: KindPlan, rounds: Sequence[KindRound]) -> Floats:
    """Messages, seconds at work, and joules in the order of EnergyShare."""
    spent, steps = spending(plan.plan, plan.problem), sum(k.steps for k in rounds)
    work = np.array([spent.compute_j, spent.recompute_j, spent.paging_j]) * steps
    return np.array(
        [
            sum(k.rows for k in rounds),
            sum(k.busy_s for k in rounds),
            *work,
            max(0.0, sum(k.train_j for k in rounds) - work.sum()),
            sum(k.radio_j for k in rounds),
            sum(k.wait_j for k in rounds),
        ]
    )


def _share(line: Line, sums: Sequence[Floats]) -> EnergyShare:
    total = np.sum([sums[at] for at in line.kinds], axis=0)
    busy_s, compute, again, paging, idle, radio, wait = (total[1:] / max(1, total[0])).tolist()
    return EnergyShare(
        label=line.label,
        messages=int(total[0]),
        busy_s=busy_s,
        compute_j=compute,
        again_j=again,
        paging_j=paging,
        idle_j=idle,
        radio_j=radio,
        wait_j=wait,
    )


def energy_picture(shares: Sequence[EnergyShare]) -> str:
    """A bar for each line."""
    parts = (
        ("computing", "compute_j", "forward"),
        ("computing again", "again_j", "again"),
        ("paging", "paging_j", "paging"),
        ("idle power while training", "idle_j", "idle"),
        ("radio", "radio_j", "radio"),
    )
    return bars_picture(
        [s.label for s in shares],
        [
            Part(label=label, values=[getattr(s, field) for s in shares], colour=colour)
            for label, field, colour in parts
        ],
        name="energy",
        label="Energy of a message by kind of device",
        formatter=JOULES,
        ends=[human_j(s.total_j) for s in shares],
        axis="joules per message",
    )


def energy_note(tallied: Tally, shares: Sequence[EnergyShare]) -> str:
    """What the bars are, and what was spent for nothing."""
    total_j = float(tallied.energy_j.sum())
    part = tallied.wasted_j / total_j if total_j else 0.0
    most = max(shares, key=lambda s: s.wait_j)
    waits = (
        " Idle power while a device waits for a slot of the link or for the end of the round is not in the "
        f"bars, since it is drawn anyway; it is in the table (most: {human_j(most.wait_j)}, {most.label})."
    )
    return (
        f"{human_j(total_j)} of all devices, {human_j(tallied.wasted_j)} of them ({part:.0%}) for messages "
        "that led to no update in a model. The bars are an average message to one device, whatever became "
        "of it: computing, paging and radio are above idle power." + (waits if most.wait_j else "")
    )


def energy_table(run: Run, tallied: Tally, shares: Sequence[EnergyShare]) -> str:
    """The same in numbers, with each line's battery."""

    def row(line: Line, s: EnergyShare) -> tuple[str, ...]:
        kinds = list(line.kinds)
        drains = int(tallied.drains[kinds].sum())
        mean = float(tallied.drained[kinds].sum()) / max(1, drains)
        most = float(tallied.most_drained[kinds].max())
        battery = f"{mean:.2%}<small>most {most:.2%}</small>"
        steps = [run.plans[k] for k in kinds]
        return (
            escape(s.label),
            f"{s.messages:,}",
            _range([human_s(p.time_s) for p in steps])
            + f"<small>{_range([human_j(p.energy_j) for p in steps])}</small>",
            human_s(s.busy_s),
            human_j(s.compute_j)
            + (f"<small>again {human_j(s.again_j)}</small>" if s.again_j else ""),
            human_j(s.paging_j),
            human_j(s.idle_j),
            human_j(s.radio_j),
            human_j(s.wait_j),
            battery if drains else "none",
        )

    head = (
        "kind", "messages", "a step", "at work", "computing",
        "paging", "idle", "radio", "waiting", "battery",
    )  # fmt: skip
    return table(head, (row(x, s) for x, s in zip(able_lines(run), shares, strict=True)))


def _range(texts: Sequence[str]) -> str:
    """One text, or the first and the last of kinds told together."""
    return texts[0] if len(set(texts)) == 1 else f"{texts[0]} to {texts[-1]}"


def battery_picture(run: Run, tallied: Tally) -> str:
    """Batteries of each line: how full when asked, and what a message takes. Nothing if all are on mains."""
    lines = [x for x in able_lines(run) if tallied.levels[list(x.kinds), :-1].any()]
    if not lines:
        return '<p class="note">No device that was asked has a battery that was not full.</p>'
    with drawing("battery"):
        made, (level, drain) = figure(9.2, 1.1 + 0.36 * len(lines), columns=2)
        for place, line in enumerate(lines):
            _draw_levels(level, place, tallied.levels[list(line.kinds)].sum(axis=0))
            kinds = list(line.kinds)
            mean = float(tallied.drained[kinds].sum()) / max(1, int(tallied.drains[kinds].sum()))
            most = float(tallied.most_drained[kinds].max())
            drain.barh(place, mean, height=0.5, color=COLOURS["forward"])
            drain.plot([mean, most], [place, place], color=COLOURS["forward"], linewidth=1)
            drain.plot([most], [place], "|", color=COLOURS["forward"], markersize=9)
        level.set_title("battery when asked: 5, 25, 50, 75, 95 %")
        drain.set_title("taken by a message: mean, most")
        level.set_xlim(0, 1)
        level.xaxis.set_major_formatter(PERCENT)
        _scale_drain(drain, float(tallied.most_drained.max()))
        for ax in (level, drain):
            ax.set_ylim(len(lines) - 0.5, -0.5)
            ax.grid(visible=True, axis="x")
            ax.grid(visible=False, axis="y")
            ax.tick_params(axis="y", length=0, labelcolor=COLOURS["ink"])
        level.set_yticks(range(len(lines)), [shortened(x.label, 30) for x in lines])
        drain.set_yticks([])
        return svg(made, "battery", "Battery levels and drain by kind of device")


def _scale_drain(ax: Axes, most: float) -> None:
    if most <= 0:
        ax.text(0.02, 0.5, "nothing: they were charging", transform=ax.transAxes, va="center")
        ax.set_xticks([])
        return
    ax.set_xlim(0, 1.1 * most)
    ax.xaxis.set_major_formatter("{x:.3%}" if most < 0.001 else "{x:.2%}")
    ax.locator_params(axis="x", nbins=4)


def _draw_levels(ax: Axes, place: int, counts: Ints) -> None:
    below = np.cumsum(counts) / counts.sum()
    low, lower, middle, upper, high = (
        float(np.searchsorted(below, q)) / (LEVELS - 1) for q in QUANTILES
    )
    for ends, width in (((low, high), 1.5), ((lower, upper), 8.0)):
        ax.plot(ends, [place, place], color=COLOURS["resident"], lw=width, clip_on=False)
    ax.plot([middle], [place], "o", color=COLOURS["forward"], markersize=6, clip_on=False)
