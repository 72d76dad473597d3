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
    str | None, typer.Option(help="A name (docs/workloads.md), hf:NAME, or your own: path.py:name.")
]
DeviceOption = Annotated[
    str | None, typer.Option(help="Device profile: a name (fedpoet devices) or a .toml file.")
]
BatchOption = Annotated[int | None, typer.Option(min=1, help="Examples per training step.")]
MeasuredOption = Annotated[
    bool,
    typer.Option(
        "--measured", help="Charge every operator what it takes on this machine, measured now."
    ),
]


def register(app: typer.Typer) -> None:
    """Add these commands to the `fedpoet` command."""
    cli.register(app, Front(given=_given, read_plan=_read_plan, write_plan=_write_plan))
    app.command()(train)
    app.command()(profile)


def train(
    workload: Annotated[
        str, typer.Option(help="A name (docs/workloads.md), hf:NAME, or your own: path.py:name.")
    ],
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
    measured: MeasuredOption = False,
    mapped: Annotated[
        Path | None,
        typer.Option(
            help="Start from this safetensors file, for a model larger than the RAM; --out is then the "
            "folder that model and optimizer state are saved to, and that has the page store meanwhile."
        ),
    ] = None,
) -> None:
    """Train a workload on this machine by its plan, within a RAM budget."""
    import torch
    from safetensors.numpy import save

    from scheduler import load_device
    from scheduler.cache import PlanCache, default_cache_folder
    from scheduler.files import require_target, write_atomically
    from scheduler.view.rows import lines

    from .costs import measured_costs, profile_costs
    from .figures import energy_text, expected_rows, peak_text
    from .local import Files, train_locally
    from .meter import find_meter
    from .state import get_arrays
    from .workload import load_workload, with_training

    files = None
    if mapped is not None:
        if out is None or not out.is_dir():
            raise BadInput("--mapped needs --out FOLDER, one that exists")
        files = Files(start=mapped, trained=out)
    elif out is not None:
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
            costing=measured_costs if measured else profile_costs,
            meter=find_meter(),
            files=files,
        )
    if out is not None and files is None:
        write_atomically(out, save(get_arrays(outcome.model)))
    report = outcome.report
    solution, problem = outcome.prepared.solution, outcome.prepared.problem
    more = expected_rows(solution.plan, problem) if measured else ()
    show_solution(solution, problem, more=more)
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
                ("measured peak", peak_text(report)),
                ("energy", energy_text(report)),
            )
        )
    )


def profile(
    out: Annotated[Path, typer.Option(help="Where to write the device profile (.toml).")],
    store: Annotated[
        Path | None, typer.Option(help="Folder to page to; the system's temporary one unless told.")
    ] = None,
    workload: Annotated[
        str | None, typer.Option(help="Measure the operators of this workload's step, too.")
    ] = None,
    batch_size: BatchOption = None,
    costs: Annotated[
        Path | None,
        typer.Option(
            help="Where to write that step with its measured costs, as a problem in JSON."
        ),
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads of torch; train uses 1.")] = 1,
    gpu: Annotated[
        bool, typer.Option("--gpu", help="Measure the GPU, which pages to this machine's RAM.")
    ] = False,
) -> None:
    """Measure this machine: RAM, page store, compute rate, power, and a workload's operators."""
    import tempfile
    import time
    from functools import partial

    import torch

    from scheduler.device import dump_device
    from scheduler.files import require_target, write_atomically, write_problem

    from .costs import measured_costs
    from .figures import cost_lines, profile_lines
    from .gpu_profile import profile_gpu, require_gpu
    from .meter import find_meter
    from .prepare import pose
    from .profile import profile_machine
    from .workload import load_workload, with_training

    if out.suffix != ".toml":
        raise BadInput(f"{out}: the name of a device profile must end in .toml")
    if (costs is not None or batch_size is not None) and workload is None:
        raise BadInput("--costs and --batch-size need --workload NAME")
    if gpu and (workload is not None or store is not None):
        raise BadInput(
            "--gpu pages to RAM and measures no workload: leave out --store and --workload"
        )
    for target in filter(None, (out, costs)):
        require_target(target)
    torch.set_num_threads(threads)
    here, today = require_gpu() if gpu else None, time.strftime("%Y-%m-%d")
    with cli.working("measuring this machine"):
        if here is not None:
            device = profile_gpu(here, name=out.stem, today=today)
        else:
            device = profile_machine(
                name=out.stem,
                store_folder=Path(tempfile.gettempdir()) if store is None else store,
                today=today,
                meter=find_meter(),
            )
    write_atomically(out, dump_device(device).encode())
    typer.echo(profile_lines(device))
    if workload is None:
        return
    chosen = with_training(load_workload(workload), batch_size=batch_size, local_epochs=None)
    with _bar("measuring operators", loss=False) as advance:

        def measured(done: int, total: int) -> None:
            advance(done, total, 0.0)

        problem = pose(
            chosen, device, costing=partial(measured_costs, on_operator=measured)
        ).problem
    if costs is not None:
        write_problem(problem, costs)
    typer.echo(f"\n{cost_lines(problem)}")


@contextmanager
def _bar(label: str, *, loss: bool = True) -> Iterator[Callable[[int, int, float], None]]:
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
        *([TextColumn("loss {task.fields[loss]:.4f}")] if loss else []),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as progress:
        first = f"planning, then {label}" if loss else f"tracing, then {label}"
        task = progress.add_task(first, total=None, loss=float("nan"))

        def advance(done: int, total: int, loss: float) -> None:
            progress.update(task, description=label, completed=done, total=total, loss=loss)

        yield advance


def _given(
    problem: ProblemOption = None,
    workload: WorkloadOption = None,
    device: DeviceOption = None,
    batch_size: BatchOption = None,
    measured: MeasuredOption = False,
) -> Given:
    """A problem file, or a workload on a device."""
    if (problem is None) == (workload is None):
        raise BadInput("give either --problem FILE, or --workload NAME with --device NAME")
    if workload is None:
        if device is not None or batch_size is not None or measured:
            raise BadInput(
                "--device, --batch-size and --measured go with --workload; a problem file has them"
            )
        return from_file(problem)
    if device is None:
        raise BadInput("--workload needs --device NAME (see fedpoet devices)")
    import torch

    from scheduler import load_device

    from .costs import measured_costs, profile_costs
    from .figures import expected_rows
    from .prepare import pose
    from .what_if import changes
    from .workload import load_workload, with_training

    chosen = with_training(load_workload(workload), batch_size=batch_size, local_epochs=None)
    profile = load_device(device)
    if measured:
        torch.set_num_threads(1)  # as in training
    posed = pose(chosen, profile, costing=measured_costs if measured else profile_costs).problem
    return Given(
        problem=posed,
        changes=lambda: changes(chosen, profile),
        rows=expected_rows if measured else None,
    )


def _read_plan(path: Path) -> Plan:
    from protos.files import read_plan

    return read_plan(path)


def _write_plan(plan: Plan, path: Path) -> None:
    from protos.files import write_plan

    write_plan(plan, path)
