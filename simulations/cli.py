"""The command `fedpoet`. Heavy imports are inside the commands, so that --help answers at once."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Annotated

import typer

from client.cli import register
from client.device.cli import register as register_device
from scheduler.cli import run
from server.cli import register as register_keys

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Federated learning on devices that plan their own training step.",
)
register(app)
register_device(app)
register_keys(app)


@app.command()
def simulate(
    workload: Annotated[
        str, typer.Option(help="watch, digits, or your own: path.py:name.")
    ] = "watch",
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of the federation.")] = 30,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same numbers.")] = 0,
    fleet: Annotated[
        str, typer.Option(help="default, or a TOML file (docs/fleets.md).")
    ] = "default",
    strategy: Annotated[
        str, typer.Option(help="fedavg, fedavgm, fedadam, fedadagrad or fedyogi.")
    ] = "fedavg",
    cohort: Annotated[
        int | None, typer.Option(min=1, help="Devices per round; all by default.")
    ] = None,
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
    out: Annotated[
        Path | None, typer.Option(help="Run folder; runs/WORKLOAD-1 (or -2, ...) by default.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run folder.")] = False,
) -> None:
    """Train one model over a fleet of emulated devices, in virtual time, and write a report."""
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")
    from rich.console import Console

    from .folder import free_folder, require_free, write_run
    from .run import SimulationConfig
    from .run import simulate as run_simulation
    from .view import View

    logging.getLogger("flwr").setLevel(logging.WARNING)  # flwr sets its own level when imported
    config = SimulationConfig(
        workload=workload,
        rounds=rounds,
        seed=seed,
        fleet=fleet,
        strategy=strategy,
        cohort=cohort,
        local_epochs=local_epochs,
        batch_size=batch_size,
        deadline_factor=deadline_factor,
        plan_time_limit_s=time_limit,
    )
    name = workload.rpartition(":")[2]
    folder = out or free_folder(Path("runs"), name)
    require_free(folder, overwrite)
    console = Console()
    with View(console, config).watching() as watcher:
        result = run_simulation(config, watcher)
    if out is None:
        folder = free_folder(
            Path("runs"), name
        )  # another run may have taken the first one meanwhile
    write_run(result, folder, overwrite)
    console.print(
        f"\nwrote {folder}; open {folder / 'report.html'}", soft_wrap=True, highlight=False
    )


def main() -> None:
    """Run the command."""
    run(app, "fedpoet")
