"""Plots of a run: accuracy by round, and energy by kind of device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.ticker import FuncFormatter, MaxNLocator

from scheduler.view.figure import COLOURS, drawing, figure, svg
from scheduler.view.spending import spending
from scheduler.view.text import human_j

from .results import KindPlan, RoundRecord


def accuracy_plot(rounds: Sequence[RoundRecord]) -> str:
    """Test accuracy by round (where the workload has one), and test loss beside it."""
    nan = float("nan")
    losses = [nan if r.loss is None else r.loss for r in rounds]
    series = [("test loss", losses, "{:.3f}".format)]
    if all(r.accuracy is not None for r in rounds):
        series.insert(0, ("test accuracy", [r.accuracy or 0.0 for r in rounds], "{:.1%}".format))
    with drawing("accuracy"):
        made, axes = figure(9.2, 2.9, columns=len(series))
        for ax, (title, values, text) in zip(axes, series, strict=True):
            numbers = [r.round for r in rounds]
            ax.plot(numbers, values, color=COLOURS["forward"])
            ax.plot(numbers[-1:], values[-1:], "o", color=COLOURS["forward"], markersize=5)
            ax.annotate(
                text(values[-1]),
                (numbers[-1], values[-1]),
                xytext=(8, 0),
                textcoords="offset points",
                va="center",
                weight="bold",
            )
            ax.set_title(title)
            ax.set_xlabel("round")
            ax.set_xlim(0, numbers[-1] * 1.14)
            ticks = MaxNLocator(integer=True, nbins=8).tick_values(0, numbers[-1])
            ax.set_xticks([tick for tick in ticks if tick <= numbers[-1]])
            ax.set_ylim(bottom=0)
            if title == "test accuracy":
                ax.set_ylim(top=1)
                ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0%}"))
        return svg(made, "accuracy", "Test accuracy and loss by round")


@dataclass(frozen=True, slots=True, kw_only=True)
class EnergyShare:
    """Joules of one device of a kind in an average round, by what they went to."""

    kind: str
    compute_j: float
    again_j: float
    paging_j: float
    idle_j: float
    radio_j: float
    wait_j: float

    @property
    def total_j(self) -> float:
        """Joules the round cost; waiting for others is apart."""
        return self.compute_j + self.again_j + self.paging_j + self.idle_j + self.radio_j


def energy_share(plan: KindPlan, rounds: Sequence[RoundRecord]) -> EnergyShare:
    """Split a kind's energy by walking its plan once and scaling it to the steps it ran."""
    kinds = [k for r in rounds for k in r.kinds if k.kind == plan.name]
    count = max(1, sum(k.aggregated for k in kinds))
    steps = sum(k.steps for k in kinds) / count
    spent = spending(plan.plan, plan.problem)
    return EnergyShare(
        kind=plan.name,
        compute_j=spent.compute_j * steps,
        again_j=spent.recompute_j * steps,
        paging_j=spent.paging_j * steps,
        idle_j=spent.idle_j * steps,
        radio_j=sum(k.radio_j for k in kinds) / count,
        wait_j=sum(k.wait_j for k in kinds) / count,
    )


def energy_plot(shares: Sequence[EnergyShare]) -> str:
    """Stacked bars, one per kind."""
    parts = (
        ("computing", "compute_j", "forward"),
        ("computing again", "again_j", "again"),
        ("paging", "paging_j", "paging"),
        ("idle power while training", "idle_j", "idle"),
        ("radio", "radio_j", "radio"),
    )
    with drawing("energy"):
        made, (ax,) = figure(9.2, 1.1 + 0.5 * len(shares))
        names = [s.kind for s in shares]
        left = [0.0] * len(shares)
        for label, field, colour in parts:
            values = [getattr(s, field) for s in shares]
            ax.barh(names, values, left=left, height=0.55, color=COLOURS[colour], label=label)
            left = [a + b for a, b in zip(left, values, strict=True)]
        for position, share in enumerate(shares):
            ax.annotate(
                human_j(share.total_j),
                (share.total_j, position),
                xytext=(6, 0),
                textcoords="offset points",
                va="center",
                weight="bold",
            )
        ax.invert_yaxis()
        ax.grid(visible=True, axis="x")
        ax.grid(visible=False, axis="y")
        ax.set_xlabel("joules per device and round")
        ax.set_xlim(0, max(left) * 1.12 or 1)
        ax.tick_params(axis="y", labelcolor=COLOURS["ink"], labelsize=10)
        made.legend(loc="outside upper left", ncols=len(parts), handlelength=1, columnspacing=1.4)
        return svg(made, "energy", "Energy by kind of device")
