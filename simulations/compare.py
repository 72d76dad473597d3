"""Two runs or more beside each other: their figures, what they were told to do, and their curves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path

from rich.table import Table

from scheduler.errors import BadInput
from scheduler.view.html import page, table
from scheduler.view.text import human_bytes, human_j, human_s

from .reading import Run
from .report.learning import Curve, learning_picture
from .summary import Summary, reached, summary
from .tally import tally

COLOURS = ("forward", "paging", "again", "update", "backward", "resident")
STYLES = ("-", "--", ":")
MOST_RUNS = len(COLOURS) * len(STYLES)  # curves that can be told apart

FIGURES: tuple[tuple[str, Callable[[Summary], str]], ...] = (
    ("test accuracy", lambda s: _percent(s.accuracy)),
    ("best accuracy", lambda s: _percent(s.best_accuracy)),
    ("test loss", lambda s: "no number" if s.loss is None else f"{s.loss:.4f}"),
    ("rounds", lambda s: str(s.rounds)),
    ("skipped", lambda s: str(s.skipped)),
    ("virtual time", lambda s: human_s(s.time_s)),
    ("energy", lambda s: human_j(s.energy_j)),
    ("of it for nothing", lambda s: human_j(s.wasted_j)),
    ("down", lambda s: human_bytes(s.bytes_down)),
    ("up", lambda s: human_bytes(s.bytes_up)),
    ("updates used", lambda s: f"{s.updates:,} of {s.messages:,}"),
    ("can train", lambda s: f"{s.able:,} of {s.devices:,}"),
    ("took part", lambda s: f"{s.took_part:,}"),
)
"""What is told of a run, and how."""


def names_of(folders: Sequence[Path]) -> list[str]:
    """The names of run folders, longer where two are the same. Raises BadInput for one run or too many."""
    if not 2 <= len(folders) <= MOST_RUNS:
        raise BadInput(f"{len(folders)} runs cannot be compared; name 2 to {MOST_RUNS}")
    resolved = [folder.resolve() for folder in folders]
    if len(set(resolved)) < len(resolved):
        raise BadInput("a run is named twice; name different ones")
    for parts in range(1, max(len(f.parts) for f in resolved) + 1):
        names = [Path(*f.parts[-parts:]).as_posix() for f in resolved]
        if len(set(names)) == len(names):
            return names
    return names


def comparison(runs: Mapping[str, Run]) -> list[tuple[str, ...]]:
    """A row per figure: what it is, then its value in each run."""
    sums = [summary(run, tally(run)) for run in runs.values()]
    rows = [(name, *map(text, sums)) for name, text in FIGURES]
    return rows + _to_reach(list(runs.values()))


def differences(runs: Mapping[str, Run]) -> list[tuple[str, ...]]:
    """A row per setting in which the runs differ."""
    keys = dict.fromkeys(key for run in runs.values() for key in run.config)
    rows = [(key, *(_setting(run.config.get(key)) for run in runs.values())) for key in keys]
    return [row for row in rows if len(set(row[1:])) > 1]


def comparison_table(runs: Mapping[str, Run]) -> Table:
    """Settings that differ and figures, for the terminal."""
    made = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    made.add_column("", style="cyan")
    for name in runs:
        made.add_column(name, justify="right", overflow="fold")
    for row in differences(runs):
        made.add_row(*row, style="dim")
    for row in comparison(runs):
        made.add_row(*row)
    return made


def comparison_html(runs: Mapping[str, Run]) -> str:
    """The page: curves over each other, and the same table. The same runs give the same bytes."""
    told = differences(runs)
    head = ("", *runs)
    return page(
        __package__,
        "compare.html",
        title=f"fedpoet: {len(runs)} runs",
        subtitle=", ".join(runs),
        learning=learning_picture(
            {
                name: Curve(
                    colour=COLOURS[at % len(COLOURS)],
                    style=STYLES[at // len(COLOURS)],
                    rounds=run.rounds,
                )
                for at, (name, run) in enumerate(runs.items())
            }
        ),
        figures=table(head, _escaped(comparison(runs))),
        settings=table(head, _escaped(told))
        if told
        else '<p class="note">Their settings are the same.</p>',
    )


def _to_reach(runs: Sequence[Run]) -> list[tuple[str, ...]]:
    """What it took each run to be as good as the worst of them was at its best."""
    best = [max((r.accuracy or 0.0 for r in run.rounds), default=0.0) for run in runs]
    found = [reached(run.rounds, min(best)) for run in runs]
    known = [mark for mark in found if mark is not None]
    if len(known) < len(runs) or not any(mark.round for mark in known):
        return []
    goal = f"to reach {min(best):.1%}"
    return [
        (f"rounds {goal}", *(str(mark.round) for mark in known)),
        (f"virtual time {goal}", *(human_s(mark.time_s) for mark in known)),
        (f"energy {goal}", *(human_j(mark.energy_j) for mark in known)),
    ]


def _escaped(rows: Sequence[Sequence[str]]) -> list[list[str]]:
    return [[escape(cell) for cell in row] for row in rows]


def _percent(value: float | None) -> str:
    return "none" if value is None else f"{value:.2%}"


def _setting(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} = {v}" for k, v in value.items()) or "none"
    return "default" if value is None else str(value)
