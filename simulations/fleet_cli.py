"""The command `fedpoet fleet`."""

from __future__ import annotations

from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("fleet")(show)


def show(
    fleet: Annotated[str, typer.Argument(help="A fleet's name, or a TOML file (docs/fleets.md).")],
    workload: Annotated[
        str, typer.Option(help="What it should train: a name, or your own: path.py:name.")
    ] = "watch",
    batch_size: Annotated[
        list[int] | None,
        typer.Option(min=1, help="Examples per training step; give it several times to compare."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same devices.")] = 0,
) -> None:
    """Show a fleet: its kinds, when its devices can be asked, and how many of them can train a model."""
    from rich.console import Console

    from client.workload import load_workload

    from .census import take_census
    from .fleet_view import fleet_view
    from .population import load_fleet

    trained = load_workload(workload)
    loaded = load_fleet(fleet, trained.partitions, seed)
    sizes = batch_size or [trained.batch_size, max(1, trained.batch_size // 4)]
    census = take_census(loaded, trained, list(dict.fromkeys(sizes)))
    Console().print(fleet_view(loaded, census, trained.name))
