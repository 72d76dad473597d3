"""SVG pictures of plans: RAM over time, the schedule, where energy goes, and what RAM buys."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import FuncFormatter, MaxNLocator, MultipleLocator

from ..baselines import keep_all
from ..handling import decisions
from ..plan import Plan, Solution
from ..problem import Problem
from ..replay import replay
from ..sweep import Point
from .bars import Part, bars_picture
from .figure import COLOURS, drawing, figure, svg
from .schedule import RUNS, Row, Schedule, most_telling, ram_curve, schedule
from .spending import Spending
from .text import human_bytes, human_j, human_s, shortened

ROWS = 34  # tensors that a schedule shows

MINUTES = tuple(60 * n for n in (1, 2, 5, 10, 15, 20, 30, 60, 120, 240, 360, 720, 1440))
"""Seconds between ticks of a long time axis."""

BYTES = FuncFormatter(lambda value, _: human_bytes(value) if value else "0")
JOULES = FuncFormatter(lambda value, _: human_j(value) if value else "0")
SECONDS = FuncFormatter(lambda value, _: human_s(value) if value else "0")


def draw_ram(ax: Axes, plan: Plan, problem: Problem, title: str) -> None:
    """RAM of a plan and of keep-all over time, and the budget."""
    own, plain = replay(plan, problem), replay(keep_all(problem), problem)
    for used, colour, label in (
        (plain, "plain", "keep all in RAM"),
        (own, "forward", "this plan"),
    ):
        times, ram = ram_curve(used)
        ax.plot(
            times, ram, color=COLOURS[colour], label=label, drawstyle="steps-pre", linewidth=1.3
        )
    budget = plan.budget.ram_bytes
    _draw_budget(ax.axhline, budget)
    top = 1.2 * max(plain.peak_bytes, own.peak_bytes, 1)
    ax.set_ylim(0, max(top, 1.12 * budget) if budget < 2 * top else top)
    if budget >= 2 * top:
        ax.text(
            0.99,
            0.97,
            f"budget {human_bytes(budget)}, far above",
            transform=ax.transAxes,
            ha="right",
            va="top",
            color=COLOURS["budget"],
            fontsize=9,
        )
    ax.set_title(f"{title}: {human_bytes(own.peak_bytes)} of {human_bytes(budget)}")
    ax.yaxis.set_major_formatter(BYTES)
    ax.set_xlim(0, 1.02 * max(own.time_s, plain.time_s) or 1)
    count_time(ax.xaxis, 4)


def count_time(axis: Axis, ticks: int) -> None:
    """Ticks of whole minutes or hours where the axis is long enough."""
    axis.set_major_formatter(SECONDS)
    end_s = axis.get_view_interval()[1]
    steps = [step for step in MINUTES if end_s / step <= ticks]
    if end_s >= 2 * MINUTES[0] and steps:
        axis.set_major_locator(MultipleLocator(steps[0]))
    else:
        axis.set_major_locator(MaxNLocator(nbins=ticks))


def ram_pictures(plans: Sequence[tuple[str, Plan, Problem]], label: str, columns: int = 3) -> str:
    """A picture of RAM over time for each plan, with its title, in rows of `columns`."""
    columns = min(columns, len(plans))
    lines = -(-len(plans) // columns)
    with drawing("ram"):
        made, axes = figure(9.2, 2.7 * lines + 0.35, lines, columns)
        for ax, (title, plan, problem) in zip(axes, plans, strict=False):
            draw_ram(ax, plan, problem, title)
        for ax in axes[len(plans) :]:
            ax.remove()
        handles, labels = axes[0].get_legend_handles_labels()
        made.legend(handles, labels, loc="outside upper left", ncols=3)
        return svg(made, "ram", label)


def schedule_picture(plan: Plan, problem: Problem, name: str, label: str) -> str:
    """The plan as a picture: operators on top, below them tensors over time."""
    walked = schedule(plan, problem)
    chosen = most_telling(decisions(plan, problem), problem.graph, ROWS)
    shown = sorted(chosen, key=lambda k: (walked.rows[k].first_s, k))
    with drawing(name):
        made, (ax,) = figure(9.2, 1.0 + 0.19 * (len(shown) + 3))
        _draw_runs(ax, walked)
        for line, tensor in enumerate(shown):
            _draw_row(ax, line + 3, walked.rows[tensor])
        tensors = [problem.graph.tensors[k] for k in shown]
        names = [f"{shortened(t.name)}  {human_bytes(t.size_bytes)}" for t in tensors]
        ax.set_yticks([0, 1, *range(3, len(shown) + 3)], ["operators", "page store", *names])
        ax.tick_params(axis="y", labelsize=8, length=0)
        ax.set_ylim(len(shown) + 2.8, -0.8)
        ax.set_xlim(0, walked.end_s or 1)
        ax.grid(visible=False)
        count_time(ax.xaxis, 8)
        ax.spines["left"].set_visible(False)
        return svg(made, name, label)


def _draw_runs(ax: Axes, walked: Schedule) -> None:
    for colour in RUNS:
        spans = [span for span, drawn in walked.runs if drawn == colour]
        ax.broken_barh(spans, (-0.45, 1.1), facecolors=COLOURS[colour], linewidth=0)
    ax.broken_barh(walked.moves, (0.75, 0.5), facecolors=COLOURS["paging"], linewidth=0)


def _draw_row(ax: Axes, line: int, row: Row) -> None:
    ax.axhline(line, color=COLOURS["grid"], linewidth=0.5, zorder=0)
    ax.broken_barh(row.stored, (line - 0.1, 0.2), facecolors=COLOURS["stored"], linewidth=0)
    ax.broken_barh(row.resident, (line - 0.36, 0.72), facecolors=COLOURS["resident"], linewidth=0)
    ax.broken_barh(row.again, (line - 0.36, 0.72), facecolors=COLOURS["again"], linewidth=0)
    ax.broken_barh(row.moving, (line - 0.36, 0.72), facecolors=COLOURS["paging"], linewidth=0)


def energy_picture(rows: Sequence[tuple[str, Spending]], label: str) -> str:
    """A bar for each row, split by what the joules go to."""
    parts = (
        Part(label="computing", values=[s.compute_j for _, s in rows], colour="forward"),
        Part(label="computing again", values=[s.recompute_j for _, s in rows], colour="again"),
        Part(label="paging", values=[s.paging_j for _, s in rows], colour="paging"),
        Part(label="idle power", values=[s.idle_j for _, s in rows], colour="idle"),
    )
    return bars_picture(
        [name for name, _ in rows],
        parts,
        name="energy",
        label=label,
        formatter=JOULES,
        ends=[human_j(sum(p.values[k] for p in parts)) for k in range(len(rows))],
    )


def frontier_picture(points: Sequence[Point], problem: Problem) -> str:
    """Energy and time of the best plan found against its budget."""
    solved = [(p.ram_bytes, p.found) for p in points if isinstance(p.found, Solution)]
    budgets = [ram_bytes for ram_bytes, _ in solved]
    energies, bounds, times = (
        [s.cost.energy_j for _, s in solved],
        [s.lower_bound_j for _, s in solved],
        [s.cost.time_s for _, s in solved],
    )
    plain = replay(keep_all(problem), problem)
    with drawing("frontier"):
        made, (energy, time) = figure(9.2, 3.1, columns=2)
        energy.fill_between(
            budgets, bounds, energies, color=COLOURS["stored"], linewidth=0, label="not proven"
        )
        _draw_frontier(energy, budgets, energies, plain.energy_j)
        _draw_frontier(time, budgets, times, plain.time_s)
        for ax, title, formatter in (
            (energy, "energy of a step", JOULES),
            (time, "time of a step", SECONDS),
        ):
            _mark_refused(ax, points, budgets)
            _draw_budget(ax.axvline, problem.budget.ram_bytes)
            ax.set_title(title)
            ax.set_xlabel("RAM budget")
            ax.xaxis.set_major_formatter(BYTES)
            ax.yaxis.set_major_formatter(formatter)
            ax.locator_params(axis="x", nbins=5)
        handles, labels = energy.get_legend_handles_labels()
        made.legend(handles, labels, loc="outside upper left", ncols=len(labels))
        return svg(made, "frontier", "Energy and time of the best plan against the RAM budget")


def _draw_frontier(ax: Axes, budgets: Sequence[int], values: Sequence[float], plain: float) -> None:
    ax.axhline(plain, color=COLOURS["plain"], linewidth=1.3, label="keep all in RAM")
    ax.plot(budgets, values, "o-", color=COLOURS["forward"], markersize=4, label="best plan")
    ax.set_ylim(0, 1.12 * max((*values, plain)) or 1)


def _draw_budget(line: Callable[..., object], ram_bytes: int) -> None:
    """The dashed line of a budget, along or across."""
    line(
        ram_bytes,
        color=COLOURS["budget"],
        linestyle=(0, (4, 3)),
        linewidth=1.3,
        label="budget",
    )


def _mark_refused(ax: Axes, points: Sequence[Point], budgets: Sequence[int]) -> None:
    refused = [p.ram_bytes for p in points if p.ram_bytes not in budgets]
    if refused:
        ax.plot(
            refused, [0] * len(refused), "x", color=COLOURS["muted"], clip_on=False, label="no plan"
        )
