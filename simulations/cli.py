"""The command `fedpoet`. Heavy imports are inside the commands, so that --help answers at once."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import client.cli
import client.device.cli
import server.cli
import server.coordinator.cli
from scheduler.cli import CacheOption, run
from scheduler.errors import BadInput

from . import cli_reports, fleet_cli

if TYPE_CHECKING:
    from server.coordinator.run import Model

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Federated learning on devices that plan their own training step.",
)


def _read_model(workload: str, seed: int) -> Model:
    from .model import read_model

    return read_model(workload, seed)


client.cli.register(app)
client.device.cli.register(app)
server.cli.register(app)
server.coordinator.cli.register(app, _read_model)
fleet_cli.register(app)
cli_reports.register(app)

RULES = "Rules of a round (also in the fleet file's \\[server] table)"


@app.command()
def simulate(
    workload: Annotated[
        str, typer.Option(help="A name (docs/workloads.md), hf:NAME, or your own: path.py:name.")
    ] = "watch",
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of the federation.")] = 30,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same numbers.")] = 0,
    fleet: Annotated[
        str, typer.Option(help="default, or a TOML file (docs/fleets.md).")
    ] = "default",
    local_epochs: Annotated[
        int | None, typer.Option(min=1, help="Epochs on a device per round.")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Examples per training step.")
    ] = None,
    deadline_factor: Annotated[
        float | None,
        typer.Option(
            help="A step may take at most this many times the time of computing all once."
        ),
    ] = None,
    time_limit: Annotated[
        float, typer.Option(help="Seconds a device may spend on planning.")
    ] = 120.0,
    execute_plans: Annotated[
        bool,
        typer.Option(
            "--execute-plans", help="Train by the plans themselves: slower, the same numbers."
        ),
    ] = False,
    no_training: Annotated[
        bool,
        typer.Option(
            "--no-training", help="Charge plans and links only; the model stays as it is."
        ),
    ] = False,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Processes that train; the numbers do not depend on it."),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(help="Train on the Ray cluster at this address (auto: one that runs here)."),
    ] = None,
    no_cache: CacheOption = False,
    out: Annotated[
        Path | None, typer.Option(help="Run folder; runs/WORKLOAD-1 (or -2, ...) by default.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run folder.")] = False,
    resume: Annotated[
        Path | None,
        typer.Option(help="Go on with a run or sweep that was stopped, with the settings it had."),
    ] = None,
    sweep: Annotated[
        list[str] | None,
        typer.Option(
            help="KEY=VALUE,VALUE,...: a run for each combination (docs/reports.md), "
            "as fleet.ram=x0.5,x1,x2 or cohort=5,10."
        ),
    ] = None,
    strategy: Annotated[
        str | None,
        typer.Option(
            help="fedavg (default), fedavgm, fedadam, fedadagrad, fedyogi, ...",
            rich_help_panel=RULES,
        ),
    ] = None,
    sampler: Annotated[
        str | None,
        typer.Option(help="uniform (default), utility or energy-fair.", rich_help_panel=RULES),
    ] = None,
    cohort: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Updates wanted per round; of all devices by default.",
            rich_help_panel=RULES,
        ),
    ] = None,
    over_selection: Annotated[
        float | None,
        typer.Option(help="Ask so many times as many devices.", rich_help_panel=RULES),
    ] = None,
    deadline: Annotated[
        float | None, typer.Option(help="Seconds a round may take.", rich_help_panel=RULES)
    ] = None,
    least_updates: Annotated[
        int | None,
        typer.Option(help="A round with fewer is skipped.", rich_help_panel=RULES),
    ] = None,
    patience: Annotated[
        float | None,
        typer.Option(help="Seconds to wait for enough devices.", rich_help_panel=RULES),
    ] = None,
    most_skipped: Annotated[
        int | None,
        typer.Option(help="More skipped rounds in a row end the run.", rich_help_panel=RULES),
    ] = None,
    late: Annotated[
        str | None,
        typer.Option(
            help="What becomes of a late update: drop (default) or add.", rich_help_panel=RULES
        ),
    ] = None,
    buffer: Annotated[
        int | None,
        typer.Option(
            help="Asynchronous: a new model after so many updates (FedBuff).", rich_help_panel=RULES
        ),
    ] = None,
    staleness: Annotated[
        float | None,
        typer.Option(
            help="An update s versions old weighs 1 / (1 + s) ** this.", rich_help_panel=RULES
        ),
    ] = None,
    charging: Annotated[
        bool | None,
        typer.Option("--charging", help="Charging devices only.", rich_help_panel=RULES),
    ] = None,
    idle: Annotated[
        bool | None, typer.Option("--idle", help="Idle devices only.", rich_help_panel=RULES)
    ] = None,
    unmetered: Annotated[
        bool | None,
        typer.Option(
            "--unmetered", help="Devices on an unmetered network only.", rich_help_panel=RULES
        ),
    ] = None,
    battery: Annotated[
        float | None,
        typer.Option(help="Least battery level, 0 to 1.", rich_help_panel=RULES),
    ] = None,
    link_slots: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Messages that the coordinator's link carries at a time; any number by default.",
            rich_help_panel=RULES,
        ),
    ] = None,
) -> None:
    """Train one model over a fleet of emulated devices, in virtual time, and write a report."""
    _quiet()
    from rich.console import Console

    from scheduler.cache import default_cache_folder

    from . import run as runs
    from .config import SimulationConfig
    from .folder import CHECKPOINT, draft_of, free_folder, named
    from .sweep import SWEEP, parse_axis
    from .sweep_view import begin_sweep, resume_sweep
    from .view import View

    console = Console()
    machine = runs.Machine(
        plan_cache=None if no_cache else default_cache_folder(), workers=workers, ray=ray
    )
    if resume is not None and (resume / SWEEP).exists():
        resume_sweep(console, resume, machine)
        return
    if resume is not None:
        config = runs.read_settings(draft_of(resume))
        folder = named(resume)
    else:
        config = SimulationConfig(
            workload=workload,
            rounds=rounds,
            seed=seed,
            fleet=fleet,
            strategy=strategy,
            sampler=sampler,
            cohort=cohort,
            over_selection=over_selection,
            deadline_s=deadline,
            least_updates=least_updates,
            patience_s=patience,
            most_skipped=most_skipped,
            late=late,
            buffer=buffer,
            staleness=staleness,
            charging=charging,
            idle=idle,
            unmetered=unmetered,
            battery_at_least=battery,
            link_slots=link_slots,
            local_epochs=local_epochs,
            batch_size=batch_size,
            deadline_factor=deadline_factor,
            plan_time_limit_s=time_limit,
            training=_training(execute_plans, no_training),
        )
        name = workload.rpartition(":")[2] + ("-sweep" if sweep else "")
        folder = out or free_folder(Path("runs"), name)
    if sweep and resume is None:
        if overwrite:
            raise BadInput("--overwrite does not go with --sweep: name another folder with --out")
        begin_sweep(console, config, [parse_axis(text) for text in sweep], folder, machine)
        return
    try:
        with View(console, config).watching() as watcher:
            if resume is None:
                runs.simulate(config, folder, watcher, overwrite=overwrite, machine=machine)
            else:
                runs.resume(folder, watcher, machine)
    except BaseException:
        if (draft_of(folder) / CHECKPOINT).exists():
            hint = f"stopped; go on with: fedpoet simulate --resume {folder}"
            console.print(hint, soft_wrap=True, highlight=False)
        raise
    console.print(
        f"\nwrote {folder}; open {folder / 'report.html'}", soft_wrap=True, highlight=False
    )


def _training(execute_plans: bool, no_training: bool) -> str:
    if execute_plans and no_training:
        raise BadInput("--execute-plans and --no-training cannot both be")
    return "plans" if execute_plans else "none" if no_training else "plain"


def _quiet() -> None:
    """Flower neither calls home nor talks."""
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")
    import flwr  # noqa: F401 - it sets its own level when imported

    logging.getLogger("flwr").setLevel(logging.WARNING)


def main() -> None:
    """Run the command."""
    run(app, "fedpoet")
