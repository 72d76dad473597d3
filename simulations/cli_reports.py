"""The commands `fedpoet report`, `compare` and `tensorboard`: what run folders say."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

RunArgument = Annotated[Path, typer.Argument(help="A run folder, finished or not.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (report, compare, tensorboard):
        app.command()(command)


def report(
    run: RunArgument,
    out: Annotated[
        Path | None, typer.Option(help="Where to write it; report.html in the run folder.")
    ] = None,
) -> None:
    """Write a run's report again, also of a run that goes on or was stopped."""
    from .folder import REPORT
    from .reading import read_run
    from .report import report_html

    _write(report_html(read_run(run)), out or run / REPORT)


def compare(
    runs: Annotated[list[Path], typer.Argument(help="Two run folders or more.")],
    out: Annotated[Path, typer.Option(help="Where to write the page.", dir_okay=False)] = Path(
        "compare.html"
    ),
) -> None:
    """Compare runs: a table here, and a page with their curves over each other."""
    from rich.console import Console

    from .compare import comparison_html, comparison_table, names_of
    from .reading import read_run

    named = dict(zip(names_of(runs), map(read_run, runs), strict=True))
    Console().print(comparison_table(named))
    _write(comparison_html(named), out)


def tensorboard(
    run: RunArgument,
    out: Annotated[
        Path, typer.Option(help="Folder of the event files: give it to tensorboard --logdir.")
    ],
) -> None:
    """Write a run's rounds as TensorBoard reads them; its wall time is virtual time."""
    from .reading import read_run
    from .tensorboard import write_events

    write_events(read_run(run), out)
    typer.echo(f"wrote {out}; look at it with: tensorboard --logdir {out}")


def _write(page: str, out: Path) -> None:
    from scheduler.files import write_atomically

    write_atomically(out, page.encode())
    typer.echo(f"wrote {out}")
