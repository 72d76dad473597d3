"""RAM against budget: of every kind at a glance, of some over a whole step, and in numbers."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from matplotlib.ticker import LogLocator, NullFormatter

from scheduler.view.figure import COLOURS, drawing, figure, svg
from scheduler.view.html import table
from scheduler.view.pictures import BYTES, ram_pictures, schedule_picture
from scheduler.view.text import human_bytes, plural, shortened

from ..reading import Run
from ..results import KindPlan

MOST_ROWS = 24  # of kinds, in the picture of budgets
MOST_CURVES = 6
MOST_SCHEDULES = 2

MARKS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("budget", "budget", {"marker": "|", "ls": "", "markersize": 16, "markeredgewidth": 2.4}),
    ("floor", "again", {"marker": "D", "ls": "", "markersize": 5}),
    ("plan's peak", "forward", {"marker": "o", "ls": "", "markersize": 5.5}),
    ("keep all", "plain", {"marker": "s", "ls": "", "markersize": 9, "fillstyle": "none"}),
)
"""Of the picture of budgets: what, in which colour, and how."""


def budgets_picture(run: Run) -> str:
    """What a step needs and what each kind gives, those with the least room first; also who is left out."""
    kinds = [
        (p.name, p.ram_bytes, p.floor_bytes, p.peak_bytes, p.keep_all_peak_bytes) for p in run.plans
    ]
    kinds += [(x.name, x.ram_bytes, x.floor_bytes or 0, 0, 0) for x in run.left_out]
    shown = sorted(kinds, key=lambda kind: kind[1])[:MOST_ROWS]
    with drawing("budgets"):
        made, (ax,) = figure(9.2, 0.9 + 0.3 * len(shown))
        for at, (label, colour, marker) in enumerate(MARKS, 1):
            known = [(kind[at], row) for row, kind in enumerate(shown) if kind[at]]
            ax.plot(*zip(*known, strict=True), color=COLOURS[colour], label=label, **marker)
        ax.set_yticks(range(len(shown)), [shortened(name, 30) for name, *_ in shown])
        ax.tick_params(axis="y", labelcolor=COLOURS["ink"], labelsize=9, length=0)
        ax.set_ylim(len(shown) - 0.5, -0.5)
        ax.set_xscale("log")
        ax.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0), numticks=9))
        ax.xaxis.set_major_formatter(BYTES)
        ax.xaxis.set_minor_formatter(NullFormatter())
        ax.grid(visible=True, axis="both")
        made.legend(loc="outside upper left", ncols=4)
        return svg(made, "budgets", "Floor, peak and budget of each kind of device")


def curves(plans: Sequence[KindPlan]) -> str:
    """RAM over one step, of different plans, those with the least room first."""
    return ram_pictures(
        [(p.name, p.plan, p.problem) for p in _different(plans)[:MOST_CURVES]],
        "RAM over one training step, per kind of device",
    )


def schedules(plans: Sequence[KindPlan]) -> str:
    """Plans that page or recompute; when none does, the one with the least room."""
    different = _different(plans)
    busy = [p for p in different if p.page_in_bytes or p.page_out_bytes or p.recomputed]
    return "".join(
        f'<h3>{escape(p.name)}</h3><div class="scroll">{_schedule(p, at)}</div>'
        for at, p in enumerate((busy or different[:1])[:MOST_SCHEDULES])
    )


def _different(plans: Sequence[KindPlan]) -> list[KindPlan]:
    """One kind for each group and plan, by room: that with the highest peak for its budget first."""
    by_room = sorted(plans, key=lambda p: p.ram_bytes / max(1, p.peak_bytes))
    first: dict[object, KindPlan] = {}
    for plan in by_room:
        first.setdefault((plan.group, plan.plan.steps), plan)
    return list(first.values())


def _schedule(plan: KindPlan, at: int) -> str:
    label = f"Schedule of one training step on {plan.name}"
    return schedule_picture(plan.plan, plan.problem, f"schedule-{at}", label)


def memory_table(run: Run) -> str:
    """All kinds that can train."""
    peaks: dict[str, int] = {}
    for record in run.rounds:
        for kind in record.kinds:
            peaks[kind.kind] = max(peaks.get(kind.kind, 0), kind.peak_bytes)
    measured = any(peaks.values())

    def row(plan: KindPlan) -> tuple[str, ...]:
        paged = plan.page_out_bytes or plan.page_in_bytes
        extra = plan.energy_j / plan.keep_all_energy_j - 1 if plan.keep_all_energy_j else 0.0
        peak = peaks.get(plan.name)
        return (
            named(plan),
            human_bytes(plan.ram_bytes),
            human_bytes(plan.floor_bytes),
            human_bytes(plan.peak_bytes),
            *([human_bytes(peak) if peak else "never trained"] if measured else []),
            human_bytes(plan.keep_all_peak_bytes),
            f"{human_bytes(plan.page_out_bytes)} / {human_bytes(plan.page_in_bytes)}"
            if paged
            else "nothing",
            str(plan.recomputed or "nothing"),
            f"{extra:+.1%}" if paged or plan.recomputed else "the same",
            f"{plan.status}<small>gap {plan.gap:.2%}</small>",
        )

    head = (
        "kind",
        "budget",
        "floor",
        "plan's peak",
        *(["measured peak"] if measured else []),
        "keep all needs",
        "paged out / in, per step",
        "recomputed, per step",
        "energy against keep all",
        "plan",
    )
    return table(head, map(row, run.plans))


def memory_note(run: Run) -> str:
    """What the pictures leave out."""
    kinds, different = len(run.plans) + len(run.left_out), len(_different(run.plans))
    notes = []
    if kinds > MOST_ROWS:
        notes.append(f"The {MOST_ROWS} of {kinds} kinds with the smallest budgets.")
    if different > MOST_CURVES:
        notes.append(
            f"RAM over a step is drawn for {MOST_CURVES} of {plural(different, 'plan')}: those that "
            "fill their budgets most."
        )
    return " ".join(notes)


def named(plan: KindPlan) -> str:
    """A kind's name above its profile's."""
    return f"{escape(plan.name)}<small>{escape(plan.profile)}</small>"
