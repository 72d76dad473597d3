"""Commands for one device: plan, check, train, devices. Heavy imports are inside the commands."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scheduler.errors import BadInput
from scheduler.units import parse_bytes

if TYPE_CHECKING:
    from scheduler import Plan, Problem, Replay, Solution

ProblemOption = Annotated[Path | None, typer.Option(help="Problem file in JSON (docs/formats.md).")]
WorkloadOption = Annotated[
    str | None, typer.Option(help="watch, digits, or your own: path.py:name.")
]
DeviceOption = Annotated[
    str | None, typer.Option(help="Device profile: a name (fedpoet devices) or a .toml file.")
]
RamOption = Annotated[
    str | None, typer.Option(help="RAM budget, all inclusive: 737719, 200KB, 256KiB.")
]
BatchOption = Annotated[int | None, typer.Option(min=1, help="Examples per training step.")]
DeadlineOption = Annotated[
    float | None,
    typer.Option(min=0.0, help="Deadline as a multiple of the time of computing everything once."),
]
LimitOption = Annotated[float, typer.Option(min=0.1, help="Seconds the solver may take.")]


def register(app: typer.Typer) -> None:
    """Add these commands to the `fedpoet` command."""
    for command in (plan, check, train, devices):
        app.command()(command)


def plan(
    problem: ProblemOption = None,
    workload: WorkloadOption = None,
    device: DeviceOption = None,
    ram: RamOption = None,
    batch_size: BatchOption = None,
    deadline_factor: DeadlineOption = None,
    time_limit: LimitOption = 60.0,
    out: Annotated[
        Path | None, typer.Option(help="Where to write the plan: NAME.json, or NAME.pb for binary.")
    ] = None,
    save_problem: Annotated[
        Path | None, typer.Option(help="Where to write the problem that was solved, as JSON.")
    ] = None,
) -> None:
    """Plan a training step: of a problem file, or of a workload on a device."""
    from protos.files import require_target, write_plan, write_problem
    from scheduler import solve

    for target in filter(None, (out, save_problem)):
        require_target(target)
    with _working("tracing and planning" if workload else "planning"):
        given = _problem(problem, workload, device, batch_size)
        posed = _with_budget(given, ram, deadline_factor)
        solution = solve(posed, time_limit_s=time_limit)
    if save_problem is not None:
        write_problem(posed, save_problem)
    if out is not None:
        write_plan(solution.plan, out)
    _show(solution, posed)


def check(
    plan: Annotated[Path, typer.Argument(help="Plan file, .json or .pb.")],
    problem: Annotated[Path, typer.Option(help="Problem file the plan is for.")],
) -> None:
    """Verify a plan file against its problem, rule by rule, without the solver."""
    from protos.files import read_plan, read_problem
    from scheduler import check as check_plan
    from scheduler import replay

    given = read_plan(plan)
    # The budget that counts is the one the plan promises to keep.
    posed = replace(read_problem(problem), budget=given.budget)
    check_plan(given, posed)
    typer.echo("valid: every rule holds")
    _show_use(replay(given, posed), given, posed)


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
) -> None:
    """Train a workload on this machine by its plan, within a RAM budget."""
    import torch
    from safetensors.numpy import save

    from protos.files import require_target, write_atomically
    from scheduler import load_device

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
        )
    if out is not None:
        write_atomically(out, save(get_arrays(outcome.model)))
    report = outcome.report
    _show(outcome.prepared.solution, outcome.prepared.problem)
    _print_rows(
        (
            ("loss", f"{report.mean_loss:.4f} on average, {report.last_loss:.4f} in the last step"),
            *((f"test {name}", f"{value:.4f}") for name, value in outcome.scores.items()),
            ("RAM budget", f"{report.ram_budget_bytes:,} bytes"),
            ("predicted peak", f"{report.predicted_peak_bytes:,} bytes"),
            ("measured peak", f"{report.measured_peak_bytes:,} bytes"),
        )
    )


@contextmanager
def _working(what: str) -> Iterator[None]:
    """Something that moves while there is nothing to count."""
    from rich.console import Console

    console = Console(stderr=True)
    if console.is_terminal:
        with console.status(f"{what} ..."):
            yield
    else:
        yield


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


def devices() -> None:
    """List the device profiles that ship with fedpoet."""
    from scheduler import device_names, load_device

    for name in device_names():
        profile = load_device(name)
        typer.echo(
            f"{name:18} {profile.trainable_bytes:>14,} bytes of RAM for training  {profile.description}"
        )


def _problem(
    problem: Path | None, workload: str | None, device: str | None, batch_size: int | None
) -> Problem:
    if (problem is None) == (workload is None):
        raise BadInput("give either --problem FILE, or --workload NAME with --device NAME")
    if problem is not None:
        if device is not None or batch_size is not None:
            raise BadInput("--device and --batch-size go with --workload; a problem file has both")
        from protos.files import read_problem

        return read_problem(problem)
    if device is None:
        raise BadInput("--workload needs --device NAME (see fedpoet devices)")
    from scheduler import load_device

    from .trainer import pose
    from .workload import load_workload, with_training

    chosen = with_training(load_workload(str(workload)), batch_size=batch_size, local_epochs=None)
    return pose(chosen, load_device(device)).problem


def _with_budget(problem: Problem, ram: str | None, deadline_factor: float | None) -> Problem:
    budget = problem.budget
    if ram is not None:
        budget = replace(budget, ram_bytes=parse_bytes(ram))
    if deadline_factor is not None:
        budget = replace(budget, time_s=problem.compute_once.time_s * deadline_factor)
    return replace(problem, budget=budget)


def _show(solution: Solution, problem: Problem) -> None:
    from scheduler import keep_all, replay

    plain = replay(keep_all(problem), problem)
    plain_j = plain.energy_j
    above = solution.cost.energy_j / plain_j - 1 if plain_j else 0.0
    rows = (
        ("status", f"{solution.status} ({solution.backend}, {solution.wall_s:.2f} s)"),
        (
            "energy",
            f"{solution.cost.energy_j:.6g} J, {above:+.4%} against keep-all ({plain_j:.6g} J)",
        ),
        ("bound", f"{solution.lower_bound_j:.6g} J: no plan takes less"),
        ("gap", f"{solution.gap:.4%}"),
        ("keep-all peak", f"{plain.peak_bytes:,} bytes"),
    )
    _print_rows(rows)
    _show_use(replay(solution.plan, problem), solution.plan, problem)


def _show_use(used: Replay, plan: Plan, problem: Problem) -> None:
    budget = plan.budget
    limit = "no deadline" if budget.time_s is None else f"deadline {budget.time_s:.6g} s"
    once_s = problem.compute_once.time_s
    _print_rows(
        (
            ("peak", f"{used.peak_bytes:,} bytes of {budget.ram_bytes:,}"),
            ("time", f"{used.time_s:.6g} s, computing once takes {once_s:.6g} s; {limit}"),
            ("paged out", f"{used.page_out_bytes:,} bytes"),
            ("paged in", f"{used.page_in_bytes:,} bytes"),
            ("recomputed", f"{len(used.recomputed)} operator runs"),
        )
    )


def _print_rows(rows: tuple[tuple[str, str], ...]) -> None:
    for label, text in rows:
        typer.echo(f"{label:14} {text}")
