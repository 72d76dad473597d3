"""SVG pictures of plans: RAM over time, the schedule, where energy goes, and what RAM buys."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from ..baselines import keep_all
from ..handling import decisions
from ..plan import Plan
from ..problem import Problem
from ..replay import replay
from .figure import COLOURS, drawing, figure, svg
from .schedule import RUNS, Row, Schedule, most_telling, ram_curve, schedule
from .text import human_bytes, human_s, shortened

ROWS = 34  # tensors that a schedule shows

BYTES = FuncFormatter(lambda value, _: human_bytes(value) if value else "0")
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
    ax.axhline(
        budget, color=COLOURS["budget"], linestyle=(0, (4, 3)), linewidth=1.3, label="budget"
    )
    top = 1.2 * max(plain.peak_bytes, own.peak_bytes)
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
    ax.xaxis.set_major_formatter(SECONDS)
    ax.locator_params(axis="x", nbins=4)
    ax.set_xlim(left=0)


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
        ax.set_xlim(0, walked.end_s)
        ax.grid(visible=False)
        ax.xaxis.set_major_formatter(SECONDS)
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
