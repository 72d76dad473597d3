"""Commands for one device: those of the scheduler for workloads too, and train."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scheduler import cli
from scheduler.cli import CacheOption, DeadlineOption, LimitOption, RamOption, show_solution
from scheduler.errors import BadInput
from scheduler.front import Front, Given, ProblemOption, from_file
from scheduler.units import parse_bytes

if TYPE_CHECKING:
    from scheduler import Plan

WorkloadOption = Annotated[
    str | None, typer.Option(help="watch, digits, or your own: path.py:name.")
]
DeviceOption = Annotated[
    str | None, typer.Option(help="Device profile: a name (fedpoet devices) or a .toml file.")
]
BatchOption = Annotated[int | None, typer.Option(min=1, help="Examples per training step.")]


def register(app: typer.Typer) -> None:
    """Add these commands to the `fedpoet` command."""
    cli.register(app, Front(given=_given, read_plan=_read_plan, write_plan=_write_plan))
    app.command()(train)


def train(
    workload: Annotated[str, typer.Option(help="watch, digits, or your own: path.py:name.")],
    ram: RamOption = None,
    device: Annotated[
        str, typer.Option(help="Device profile that time and energy are charged to.")
    ] = "raspberry-pi-4b",
    partition: Annotated[int, typer.Option(min=0, help="Whose data to train on.")] = 0,
    epochs: Annotated[int, typer.Option(min=1, help="Times to go through the data.")] = 5,
    batch_size: BatchOption = None,
    deadline_factor: DeadlineOption = None,
    time_limit: LimitOption = 60.0,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same numbers.")] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Where to write the trained model (safetensors).")
    ] = None,
    no_cache: CacheOption = False,
) -> None:
    """Train a workload on this machine by its plan, within a RAM budget."""
    import torch
    from safetensors.numpy import save

    from scheduler import load_device
    from scheduler.cache import PlanCache, default_cache_folder
    from scheduler.files import require_target, write_atomically
    from scheduler.view.rows import lines

    from .local import train_locally
    from .state import get_arrays
    from .workload import load_workload, with_training

    if out is not None:
        require_target(out)

    torch.set_num_threads(1)  # the order of summation, and so the last digit, depends on it
    chosen = with_training(load_workload(workload), batch_size=batch_size, local_epochs=epochs)
    with _bar("training") as advance:
        outcome = train_locally(
            chosen,
            load_device(device),
            partition=partition,
            ram_bytes=None if ram is None else parse_bytes(ram),
            deadline_factor=deadline_factor,
            time_limit_s=time_limit,
            seed=seed,
            on_step=advance,
            cache=None if no_cache else PlanCache(folder=default_cache_folder()),
        )
    if out is not None:
        write_atomically(out, save(get_arrays(outcome.model)))
    report = outcome.report
    show_solution(outcome.prepared.solution, outcome.prepared.problem)
    typer.echo(
        lines(
            (
                (
                    "loss",
                    f"{report.mean_loss:.4f} on average, {report.last_loss:.4f} in the last step",
                ),
                *((f"test {name}", f"{value:.4f}") for name, value in outcome.scores.items()),
                ("RAM budget", f"{report.ram_budget_bytes:,} bytes"),
                ("predicted peak", f"{report.predicted_peak_bytes:,} bytes"),
                ("measured peak", f"{report.measured_peak_bytes:,} bytes"),
            )
        )
    )


@contextmanager
def _bar(label: str) -> Iterator[Callable[[int, int, float], None]]:
    """A progress bar; the callback takes steps done, steps in all and the loss."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.4f}"),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as progress:
        task = progress.add_task(f"planning, then {label}", total=None, loss=float("nan"))

        def advance(done: int, total: int, loss: float) -> None:
            progress.update(task, description=label, completed=done, total=total, loss=loss)

        yield advance


def _given(
    problem: ProblemOption = None,
    workload: WorkloadOption = None,
    device: DeviceOption = None,
    batch_size: BatchOption = None,
) -> Given:
    """A problem file, or a workload on a device."""
    if (problem is None) == (workload is None):
        raise BadInput("give either --problem FILE, or --workload NAME with --device NAME")
    if workload is None:
        if device is not None or batch_size is not None:
            raise BadInput("--device and --batch-size go with --workload; a problem file has both")
        return from_file(problem)
    if device is None:
        raise BadInput("--workload needs --device NAME (see fedpoet devices)")
    from scheduler import load_device

    from .prepare import pose
    from .what_if import changes
    from .workload import load_workload, with_training

    chosen = with_training(load_workload(workload), batch_size=batch_size, local_epochs=None)
    profile = load_device(device)
    posed = pose(chosen, profile).problem
    return Given(problem=posed, changes=lambda: changes(chosen, profile))


def _read_plan(path: Path) -> Plan:
    from protos.files import read_plan

    return read_plan(path)


def _write_plan(plan: Plan, path: Path) -> None:
    from protos.files import write_plan

    write_plan(plan, path)
