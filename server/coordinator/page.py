"""The coordinator's page as HTML, from a snapshot."""

from __future__ import annotations

import math
from functools import lru_cache
from html import escape
from importlib import resources
from string import Template

from matplotlib.ticker import MaxNLocator

from scheduler.view.figure import COLOURS, drawing, figure, svg
from scheduler.view.html import page, table, tiles
from scheduler.view.text import human_bytes, human_j, human_s, plural

from .watch import RoundLine, Snapshot

SHOWN = 50  # rounds in the table


def whole_page(snapshot: Snapshot) -> str:
    """The page; its script then asks for `live_part` again and again."""
    return page(
        __package__,
        "page.html",
        title=f"fedpoet: {snapshot.name}",
        subtitle="A federation, live",
        live=live_part(snapshot),
    )


def live_part(snapshot: Snapshot) -> str:
    """All of the page that changes."""
    template = Template(resources.files(__package__).joinpath("live.html").read_text("utf-8"))
    return template.substitute(
        tiles=_tiles(snapshot),
        now=escape(_now(snapshot)),
        scores=_scores(snapshot),
        kinds=_kinds(snapshot),
        rounds=_rounds(snapshot),
        refusals=_refusals(snapshot),
    )


def _tiles(snapshot: Snapshot) -> str:
    counted = [r for r in snapshot.rounds if not r.rolled_back and r.number > 0]
    last = snapshot.last
    facts = [("rounds done", f"{len(counted)} of {snapshot.of_rounds}")]
    if last is not None:
        facts += [(f"{name} now", _score(name, value)) for name, value in last.scores]
    facts += [
        ("devices online", str(sum(kind.online for kind in snapshot.kinds))),
        ("updates", str(sum(r.updates for r in counted))),
        ("refused or failed", str(sum(r.refused for r in counted))),
        ("sent both ways", human_bytes(sum(r.bytes_down + r.bytes_up for r in counted))),
        ("energy of devices", human_j(sum(r.energy_j for r in counted))),
    ]
    return tiles(facts)


def _now(snapshot: Snapshot) -> str:
    if snapshot.ended is not None:
        return f"The run is over: {snapshot.ended}."
    since = human_s(max(0.0, snapshot.now_s - snapshot.open_since_s))
    if snapshot.asked:
        return f"Round {snapshot.open_round}: {plural(snapshot.asked, 'device')} asked, open for {since}."
    return f"Round {snapshot.open_round}: choosing devices for {since}."


def _scores(snapshot: Snapshot) -> str:
    rounds = [r for r in snapshot.rounds if not r.rolled_back and r.scores]
    if not rounds:
        return "<p>The coordinator evaluates nothing: it has no examples.</p>"
    return _plot(tuple((r.number, r.scores) for r in rounds))


@lru_cache(maxsize=1)  # many may watch, and a plot takes a while
def _plot(rounds: tuple[tuple[int, tuple[tuple[str, float], ...]], ...]) -> str:
    names = [name for name, _ in rounds[-1][1]][:2]
    numbers = [number for number, _ in rounds]
    with drawing("scores"):
        made, axes = figure(9.2, 2.8, columns=len(names))
        for ax, name in zip(axes, names, strict=True):
            values = [dict(scores).get(name, math.nan) for _, scores in rounds]
            ax.plot(numbers, values, color=COLOURS["forward"], marker="o", markersize=3)
            ax.set_title(name)
            ax.set_xlabel("round")
            ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
            if name == "accuracy":
                ax.set_ylim(0, 1)
        return svg(made, "scores", f"{' and '.join(names)} by round")


def _kinds(snapshot: Snapshot) -> str:
    rows = ((escape(k.kind), str(k.enrolled), str(k.online), str(k.ready)) for k in snapshot.kinds)
    return table(("kind", "enrolled", "online", "may train"), rows)


def _rounds(snapshot: Snapshot) -> str:
    def row(line: RoundLine) -> tuple[str, ...]:
        said = "rolled back" if line.rolled_back else (line.skipped or "")
        scores = ", ".join(f"{name} {_score(name, value)}" for name, value in line.scores)
        return (
            f"{line.number}<small>{escape(said)}</small>" if said else str(line.number),
            escape(scores),
            f"{line.updates} of {line.asked}",
            str(line.refused),
            str(line.waiting),
            human_s(line.seconds),
            f"{human_bytes(line.bytes_down)} / {human_bytes(line.bytes_up)}",
            human_bytes(line.peak_bytes) if line.peak_bytes else "",
            human_j(line.energy_j) if line.energy_j else "",
        )

    head = (
        "round",
        "scores",
        "updates",
        "refused",
        "owing",
        "took",
        "down / up",
        "peak RAM",
        "energy",
    )
    return table(head, map(row, reversed(snapshot.rounds[-SHOWN:])))


def _refusals(snapshot: Snapshot) -> str:
    if not snapshot.refusals:
        return "<p>None so far.</p>"
    return table(("reason", "times"), ((escape(r), str(n)) for r, n in snapshot.refusals))


def _score(name: str, value: float) -> str:
    return f"{value:.1%}" if name == "accuracy" else f"{value:.4g}"
