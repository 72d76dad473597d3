"""The report: one HTML file with everything inside it, no script and no network.

Its size does not grow with the fleet or with the rounds: pictures show sums, quantiles, and a few of many.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from scheduler.errors import BadInput
from scheduler.view.html import key, page, table, tiles
from scheduler.view.text import human_bytes, human_j, human_s, plural

from ..reading import Run
from ..results import KindPlan
from ..summary import Summary, summary
from ..tally import tally
from . import energy, learning, memory, participation, timeline

MOST_NAMED = 6  # kinds in the title


def report_html(run: Run) -> str:
    """The report of a simulation. The same run gives the same bytes. Raises BadInput before round 0."""
    if not run.rounds or not run.plans:
        raise BadInput("this run has no rounds to report yet; wait, or go on with it (--resume)")
    tallied = tally(run)
    shares = energy.energy_shares(run)
    took = participation.took_part(run, tallied)
    curve = learning.Curve(colour="forward", style="-", rounds=run.rounds)
    return page(
        __package__,
        "page.html",
        title=f"fedpoet: {str(run.config['workload']).rpartition('/')[2]}",
        subtitle=_subtitle(run),
        tiles=_tiles(summary(run, tallied)),
        learning=learning.learning_picture({"run": curve}),
        reached=learning.reached_table(run.rounds),
        participation_note=escape(participation.participation_note(run, tallied)),
        participation=participation.participation_picture(took),
        participation_table=participation.participation_table(run, took),
        left_out=participation.left_out_table(run),
        messages=participation.messages_picture(run, tallied),
        rounds=timeline.rounds_picture(run.rounds),
        skipped=timeline.skipped_table(run.rounds),
        time_lines=timeline.time_lines(run),
        rounds_summary=escape(timeline.rounds_summary(run.rounds)),
        rounds_table=timeline.rounds_table(run.rounds),
        energy_note=escape(energy.energy_note(tallied, shares)),
        energy=energy.energy_picture(shares),
        battery=energy.battery_picture(run, tallied),
        energy_table=energy.energy_table(run, tallied, shares),
        memory_note=escape(memory.memory_note(run)),
        budgets=memory.budgets_picture(run),
        ram=memory.curves(run.plans),
        memory_table=memory.memory_table(run),
        schedule_key=key(),
        schedules=memory.schedules(run.plans),
        settings_table=_settings(run),
        devices_table=_devices(run.plans),
    )


def _subtitle(run: Run) -> str:
    named = [f"{p.devices:,} × {p.name}" for p in run.plans[:MOST_NAMED]]
    more = len(run.plans) - len(named)
    kinds = ", ".join([*named, *([f"{plural(more, 'kind')} more"] if more else [])])
    config = run.config
    return f"{kinds}; strategy {config['strategy']}, seed {config['seed']}"


def _tiles(of: Summary) -> str:
    score = ("test loss", "no number" if of.loss is None else f"{of.loss:.3f}")
    if of.accuracy is not None:
        score = ("test accuracy", f"{of.accuracy:.1%}")
    return tiles(
        [
            score,
            ("rounds" + (f", {of.skipped} skipped" if of.skipped else ""), str(of.rounds)),
            ("virtual time", human_s(of.time_s)),
            (f"of {of.devices:,} devices took part", f"{of.took_part:,}"),
            ("sent per message", human_bytes((of.bytes_down + of.bytes_up) / max(1, of.messages))),
            ("energy of all devices", human_j(of.energy_j)),
        ]
    )


def _settings(run: Run) -> str:
    rows = (
        (escape(name), escape("default" if value is None else str(value)))
        for name, value in run.config.items()
    )
    return table(("setting", "value"), rows)


def _devices(plans: Sequence[KindPlan]) -> str:
    """A line per kind with the sources of its numbers; those of a group with the same ones together."""
    kinds: dict[tuple[str, str, tuple[tuple[str, str], ...]], list[str]] = {}
    for plan in plans:
        kinds.setdefault((plan.group, plan.description, plan.sources), []).append(plan.name)
    rows = (
        (
            f"{escape(group)}<small>{escape(', '.join(names))}</small>",
            f"<details><summary>{escape(description)}</summary><ul>"
            + "".join(f"<li><code>{escape(k)}</code>: {escape(v)}</li>" for k, v in sources)
            + "</ul></details>",
        )
        for (group, description, sources), names in kinds.items()
    )
    return table(("kind", "profile"), rows, sentences=(1,))
