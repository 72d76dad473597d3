"""A fleet for people: its kinds, its day, and who of it can train a model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rich.console import Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from scheduler.view.text import human_bytes, human_j, plural

from .availability import State, holds
from .census import Census, sentence
from .fleet import Fleet, Floats
from .windows import DAY_S, HOUR_S

LEVELS = " ▁▂▃▄▅▆▇█"
DAYS = range(1, 8)  # the first has no evening before it


def fleet_view(fleet: Fleet, census: Sequence[Census], model: str) -> Group:
    """All of it, for a terminal."""
    title = Text.assemble(
        (f"fleet {fleet.name}", "bold"),
        f"  {plural(len(fleet), 'device')} of {plural(len(fleet.kinds), 'kind')}, seed {fleet.seed}",
    )
    return Group(
        title,
        kinds_table(fleet),
        *([Text(f"\n{said}", "yellow")] if (said := sharing(fleet)) else []),
        Text(
            f"\nPart of the devices that are so, over the hours of a day (UTC), mean of {len(DAYS)}:",
            "dim",
        ),
        day_table(fleet),
        Text(f"\n{sentence(census, model)}", "bold"),
        census_table(census),
    )


def kinds_table(fleet: Fleet) -> Table:
    """A row per kind: how many, and what they have. Links and speeds are the middle of the kind's own."""
    table = _table("kind", "devices", "profile", "RAM", "down", "up", "slowness", "battery")
    for position, kind in enumerate(fleet.kinds):
        rows = fleet.kind == position
        battery_j = float(np.median(fleet.battery_j[rows]))
        table.add_row(
            escape(kind.name),
            f"{rows.sum():,}",
            escape(kind.profile.name),
            human_bytes(kind.ram_bytes),
            f"{human_bytes(round(np.median(fleet.down_bytes_per_s[rows])))}/s",
            f"{human_bytes(round(np.median(fleet.up_bytes_per_s[rows])))}/s",
            f"{np.median(fleet.slowness[rows]):.2f}",
            human_j(battery_j) if np.isfinite(battery_j) else "mains",
        )
    return table


def sharing(fleet: Fleet) -> str | None:
    """What there is to know where several devices have the same data; None where none has."""
    partitions = len(np.unique(fleet.partition))
    if partitions == len(fleet):
        return None
    return (
        f"{len(fleet):,} devices share {partitions:,} partitions: those of one partition have the same data, "
        "and asked in the same round they make the same update"
    )


def day_table(fleet: Fleet) -> Table:
    """A row per state, and one for all at once: a column of a height per hour, least and most."""
    table = _table("", "0     6     12    18    ", "least", "most")
    shares = hourly(fleet)
    for name, share in zip((*(s.name.lower() for s in State), "all of these"), shares, strict=True):
        bars = "".join(LEVELS[round(s * (len(LEVELS) - 1))] for s in share)
        table.add_row(name, bars, f"{100 * share.min():.0f} %", f"{100 * share.max():.0f} %")
    return table


def hourly(fleet: Fleet) -> Floats:
    """The part of the fleet in each state, and in all at once, at each hour: [5, 24], mean of some days."""
    rows = np.arange(len(fleet), dtype=np.int64)
    shares = np.zeros((len(State) + 1, 24))
    for hour in range(24):
        for day in DAYS:
            are = [holds(fleet, state, rows, day * DAY_S + hour * HOUR_S) for state in State]
            shares[:, hour] += [a.mean() for a in (*are, np.logical_and.reduce(are))]
    return shares / len(DAYS)


def census_table(census: Sequence[Census]) -> Table:
    """A row per kind, a column per batch size; the floors stand in the heads."""
    heads = [f"batch {c.batch_size} (floor {human_bytes(c.floor.ram_bytes)})" for c in census]
    table = _table("kind", "devices", "RAM", *heads)
    for same in zip(*(c.kinds for c in census), strict=True):
        kind = same[0].kind
        marks = ("[green]trains[/]" if one.able else "[yellow]cannot[/]" for one in same)
        table.add_row(
            escape(kind.name), f"{same[0].devices:,}", human_bytes(kind.ram_bytes), *marks
        )
    return table


def _table(first: str, *others: str) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column(first, overflow="fold", style="cyan")
    for name in others:
        table.add_column(name, justify="right", no_wrap=True)
    return table
