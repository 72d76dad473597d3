"""Pictures of one training step: RAM over time against the budget, and what is where when."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from scheduler import Compute, Free, Graph, PageIn, PageOut, Phase, Plan, Problem, keep_all, replay
from scheduler.replay import resident_at_start

from .figure import COLOURS, drawing, figure, svg
from .results import KindPlan
from .text import human_bytes, human_s

ROWS = 34  # tensors a schedule shows; the largest
PHASES = {Phase.FORWARD: "forward", Phase.BACKWARD: "backward", Phase.UPDATE: "update"}

Span = tuple[float, float]  # start and duration in seconds


def ram_plots(plans: Sequence[KindPlan]) -> str:
    """One plot per kind: RAM of its plan and of keep-all, and its budget."""
    with drawing("ram"):
        columns = min(3, len(plans))
        lines = -(-len(plans) // columns)
        made, axes = figure(9.2, 2.7 * lines + 0.35, lines, columns)
        for ax, plan in zip(axes, plans, strict=False):
            _ram(ax, plan)
        for ax in axes[len(plans) :]:
            ax.remove()
        handles, labels = axes[0].get_legend_handles_labels()
        made.legend(handles, labels, loc="outside upper left", ncols=3)
        return svg(made, "ram", "RAM over one training step, per kind of device")


def _ram(ax: Axes, plan: KindPlan) -> None:
    problem = plan.prepared.problem
    for source, colour, label in (
        (keep_all(problem), "plain", "keep all in RAM"),
        (plan.prepared.solution.plan, "forward", "its own plan"),
    ):
        times, ram = _ram_curve(source, problem)
        ax.plot(
            times, ram, color=COLOURS[colour], label=label, drawstyle="steps-pre", linewidth=1.3
        )
    budget = plan.kind.ram_bytes
    ax.axhline(
        budget, color=COLOURS["budget"], linestyle=(0, (4, 3)), linewidth=1.3, label="budget"
    )
    top = 1.2 * max(plan.keep_all_peak_bytes, plan.peak_bytes)
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
    ax.set_title(f"{plan.kind.name}: {human_bytes(plan.peak_bytes)} of {human_bytes(budget)}")
    ax.yaxis.set_major_formatter(
        FuncFormatter(lambda value, _: human_bytes(value) if value else "0")
    )
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: human_s(value) if value else "0"))
    ax.locator_params(axis="x", nbins=4)
    ax.set_xlim(left=0)


def _ram_curve(plan: Plan, problem: Problem) -> tuple[list[float], list[int]]:
    told = replay(plan, problem)
    times, ram = [0.0], [told.start_bytes]
    for frame in told.frames:
        times.append(frame.time_s)
        ram.append(frame.ram_bytes)
    return times, ram


@dataclass(slots=True)
class _Row:
    """One tensor: when it is in RAM, in the page store only, on its way, or computed again."""

    resident: list[Span] = field(default_factory=list)
    stored: list[Span] = field(default_factory=list)
    moving: list[Span] = field(default_factory=list)
    again: list[Span] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Schedule:
    rows: dict[int, _Row]
    operators: list[tuple[Span, str]]  # colour of each run
    end_s: float


def _walk(plan: Plan, problem: Problem) -> _Schedule:
    """Follow the plan with a clock; a tensor that ends up in the store only is shown as stored."""
    graph = problem.graph
    rows = {t.id: _Row() for t in graph.tensors}
    since = dict.fromkeys(resident_at_start(graph, plan.paged_at_start), 0.0)
    stored_since = dict.fromkeys(plan.paged_at_start, 0.0)
    in_store = set(plan.paged_at_start)
    remade: set[int] = set()
    runs: set[int] = set()
    operators: list[tuple[Span, str]] = []
    before = 0.0

    def leaves(tensor: int, now: float) -> None:
        if (start := since.pop(tensor, None)) is not None:
            spans = rows[tensor].again if tensor in remade else rows[tensor].resident
            spans.append((start, now - start))

    for frame in replay(plan, problem).frames:
        now = frame.time_s
        match frame.step:
            case Compute(operator):
                op = graph.operators[operator]
                again = operator in runs
                for k in op.outputs:
                    if k not in since:
                        since[k] = before
                        (remade.add if again else remade.discard)(k)
                in_store.difference_update(op.mutates)
                operators.append(((before, now - before), "again" if again else PHASES[op.phase]))
                runs.add(operator)
            case Free(tensor):
                leaves(tensor, now)
                if tensor in in_store:
                    stored_since[tensor] = now
            case PageOut(tensor):
                in_store.add(tensor)
                rows[tensor].moving.append((before, now - before))
                operators.append(((before, now - before), "paging"))
            case PageIn(tensor):
                if (start := stored_since.pop(tensor, None)) is not None:
                    rows[tensor].stored.append((start, before - start))
                since[tensor] = before
                remade.discard(tensor)
                rows[tensor].moving.append((before, now - before))
                operators.append(((before, now - before), "paging"))
        before = now
    for tensor in list(since):
        leaves(tensor, before)
    for tensor, start in stored_since.items():
        if graph.is_persistent(tensor):
            rows[tensor].stored.append((start, before - start))
    return _Schedule(rows, operators, before)


def schedule_plot(plan: KindPlan) -> str:
    """The plan as a picture: operators on top, below them the largest tensors over time."""
    problem = plan.prepared.problem
    walked = _walk(plan.prepared.solution.plan, problem)
    shown = _largest(problem.graph, walked)
    name = f"schedule-{plan.kind.name}"
    with drawing(name):
        made, (ax,) = figure(9.2, 1.0 + 0.19 * (len(shown) + 2))
        _draw_operators(ax, walked)
        for line, tensor in enumerate(shown):
            _draw_row(ax, line + 2, walked.rows[tensor])
        sizes = [problem.graph.tensors[k] for k in shown]
        ax.set_yticks(
            [0, *range(2, len(shown) + 2)],
            ["operators", *(f"{_short(t.name)}  {human_bytes(t.size_bytes)}" for t in sizes)],
        )
        ax.tick_params(axis="y", labelsize=8, length=0)
        ax.set_ylim(len(shown) + 1.8, -0.8)
        ax.set_xlim(0, walked.end_s)
        ax.grid(visible=False)
        ax.xaxis.set_major_formatter(
            FuncFormatter(lambda value, _: human_s(value) if value else "0")
        )
        ax.spines["left"].set_visible(False)
        return svg(made, name, f"Schedule of one training step on {plan.kind.name}")


def _draw_operators(ax: Axes, walked: _Schedule) -> None:
    for colour in (*PHASES.values(), "again", "paging"):
        spans = [span for span, drawn in walked.operators if drawn == colour]
        ax.broken_barh(spans, (-0.45, 1.1), facecolors=COLOURS[colour], linewidth=0)


def _draw_row(ax: Axes, line: int, row: _Row) -> None:
    ax.axhline(line, color=COLOURS["grid"], linewidth=0.5, zorder=0)
    ax.broken_barh(row.stored, (line - 0.1, 0.2), facecolors=COLOURS["stored"], linewidth=0)
    ax.broken_barh(row.resident, (line - 0.36, 0.72), facecolors=COLOURS["resident"], linewidth=0)
    ax.broken_barh(row.again, (line - 0.36, 0.72), facecolors=COLOURS["again"], linewidth=0)
    ax.broken_barh(row.moving, (line - 0.36, 0.72), facecolors=COLOURS["paging"], linewidth=0)


def _largest(graph: Graph, walked: _Schedule) -> list[int]:
    """The largest tensors, in the order in which they first come into RAM."""

    def first(tensor: int) -> float:
        row = walked.rows[tensor]
        return min((start for start, _ in (*row.resident, *row.again)), default=0.0)

    by_size = sorted(graph.tensors, key=lambda t: (-t.size_bytes, t.id))
    return sorted((t.id for t in by_size[:ROWS]), key=lambda k: (first(k), k))


def _short(name: str, limit: int = 34) -> str:
    return name if len(name) <= limit else f"{name[: limit - 1]}…"
