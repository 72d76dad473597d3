"""A sweep in the terminal: what runs now, then a table with a row per point."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.status import Status
from rich.table import Table

from .compare import FIGURES, MOST_RUNS, comparison_html
from .config import SimulationConfig
from .federate import Machine, Watcher
from .folder import MODEL, draft_of
from .reading import Run, read_run
from .run import resume, simulate
from .sweep import (
    Axis,
    Point,
    Reached,
    points,
    read_sweep,
    run_points,
    shortened_axes,
    write_sweep,
    write_table,
)

SHOWN = (
    "test accuracy",
    "test loss",
    "virtual time",
    "energy",
    "updates used",
    "can train",
)
PAGE = "compare.html"


def begin_sweep(
    console: Console,
    base: SimulationConfig,
    axes: Sequence[Axis],
    folder: Path,
    machine: Machine,
) -> None:
    """Run all points into a new folder. Raises BadInput for a point that cannot be, before the first."""
    made = points(base, axes)
    write_sweep(folder, base, axes)
    _run(console, made, axes, folder, machine)


def resume_sweep(console: Console, folder: Path, machine: Machine) -> None:
    """Go on with the points of a sweep that are missing."""
    base, axes = read_sweep(folder)
    _run(console, points(base, axes), axes, folder, machine)


def _run(
    console: Console, made: Sequence[Point], axes: Sequence[Axis], folder: Path, machine: Machine
) -> None:
    found: list[Reached] = []
    runs: dict[str, Run] = {}
    with console.status("") as status:

        def run(point: Point) -> Run:
            said = f"run {len(found) + 1} of {len(made)}: {point.name}"
            done = runs[point.name] = _one(point, folder / point.name, said, status, machine)
            return done

        for one in run_points(made, run):
            found.append(one)
            write_table(folder, axes, found)
    if 2 <= len(runs) <= MOST_RUNS:
        (folder / PAGE).write_text(comparison_html(runs), encoding="utf-8")
    console.print(sweep_table(axes, found))
    for line in why_not(found):
        console.print(line, style="yellow", soft_wrap=True, highlight=False, markup=False)
    console.print(f"\nwrote {folder}", soft_wrap=True, highlight=False)


def _one(point: Point, folder: Path, said: str, status: Status, machine: Machine) -> Run:
    """Run a point, or what is missing of it."""
    if (folder / MODEL).exists():
        return read_run(folder)
    status.update(f"{said}, planning")
    watcher = Watcher(on_round=lambda record: status.update(f"{said}, round {record.round}"))
    if draft_of(folder).exists():
        return resume(folder, watcher, machine)
    return simulate(point.config, folder, watcher, machine=machine)


def sweep_table(axes: Sequence[Axis], found: Sequence[Reached]) -> Table:
    """A row per point; why there is no run where there is none."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name in shortened_axes(axes):
        table.add_column(name, style="cyan", justify="right", overflow="fold")
    for name in SHOWN:
        table.add_column(name, justify="right")
    figures = dict(FIGURES)
    for one in found:
        values = [str(value) for value in one.point.values]
        if one.summary is None:
            table.add_row(*values, "no run")
        else:
            table.add_row(*values, *(figures[name](one.summary) for name in SHOWN))
    return table


def why_not(found: Sequence[Reached]) -> list[str]:
    """A line per reason for which there is no run."""
    reasons: dict[str, list[str]] = {}
    for one in found:
        if one.failed:
            reasons.setdefault(one.failed, []).append(one.point.name)
    return [f"no run at {'; '.join(names)}: {reason}" for reason, names in reasons.items()]
