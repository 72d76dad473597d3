"""The report: one HTML file with everything inside it, no script and no network."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from scheduler.view.html import key, page, table, tiles
from scheduler.view.pictures import ram_pictures, schedule_picture
from scheduler.view.text import human_bytes, human_j, human_s, plural

from .plots import EnergyShare, accuracy_plot, energy_plot, energy_share
from .reading import Run
from .results import KindPlan, KindRound


def report_html(run: Run) -> str:
    """The report of a finished simulation. The same run gives the same bytes."""
    shares = [energy_share(plan, run.rounds) for plan in run.plans]
    trained = run.rounds[1:]
    workload = str(run.config["workload"]).rpartition("/")[2]
    return page(
        __package__,
        "report.html",
        title=f"fedpoet: {workload}",
        subtitle=_subtitle(run),
        tiles=_tiles(run),
        accuracy=accuracy_plot(run.rounds),
        ram=_ram(run.plans),
        memory_table=_memory_table(run),
        left_out=_left_out(run),
        schedule_key=key(),
        schedules=_schedules(run.plans),
        energy_note=_energy_note(shares),
        energy=energy_plot(shares),
        energy_table=_energy_table(run, shares),
        rounds_summary=escape(f"All {plural(len(trained), 'round')}, with what was sent"),
        rounds_table=_rounds_table(run),
        settings_table=table(
            ("setting", "value"),
            (
                (escape(k), escape("default" if v is None else str(v)))
                for k, v in run.config.items()
            ),
        ),
        devices_table=_devices_table(run),
    )


def _subtitle(run: Run) -> str:
    kinds = ", ".join(f"{p.devices} × {p.name}" for p in run.plans)
    config = run.config
    return f"{kinds}; strategy {config['strategy']}, seed {config['seed']}"


def _tiles(run: Run) -> str:
    last, trained = run.rounds[-1], run.rounds[1:]
    count = max(1, sum(k.rows for r in trained for k in r.kinds))
    sent = sum(r.bytes_up + r.bytes_down for r in trained)
    joules = sum(r.energy_j for r in trained)
    facts = [
        ("test loss", "no number" if last.loss is None else f"{last.loss:.3f}"),
        ("rounds", str(last.round)),
        ("virtual time", human_s(last.end_s)),
        ("sent per device, round", human_bytes(sent / count)),
        ("energy of all devices", human_j(joules)),
    ]
    if last.accuracy is not None:
        facts.insert(0, ("test accuracy", f"{last.accuracy:.1%}"))
    return tiles(facts)


def _ram(plans: Sequence[KindPlan]) -> str:
    return ram_pictures(
        [(p.name, p.plan, p.problem) for p in plans],
        "RAM over one training step, per kind of device",
    )


def _memory_table(run: Run) -> str:
    def row(plan: KindPlan) -> Sequence[str]:
        paged = plan.page_out_bytes or plan.page_in_bytes
        extra = plan.energy_j / plan.keep_all_energy_j - 1 if plan.keep_all_energy_j else 0.0
        return (
            _named(plan),
            human_bytes(plan.ram_bytes),
            human_bytes(plan.keep_all_peak_bytes),
            human_bytes(plan.floor_bytes),
            human_bytes(plan.peak_bytes),
            human_bytes(max((k.peak_bytes for k in _rounds_of(run, plan)), default=0)),
            f"{human_bytes(plan.page_out_bytes)} / {human_bytes(plan.page_in_bytes)}"
            if paged
            else "nothing",
            str(plan.recomputed or "nothing"),
            f"{extra:+.1%}" if paged or plan.recomputed else "the same",
            f"{plan.status}<small>gap {plan.gap:.2%}</small>",
        )

    head = (
        "kind",
        "budget",
        "keep all needs",
        "floor",
        "plan's peak",
        "measured peak",
        "paged out / in, per step",
        "recomputed, per step",
        "energy against keep all",
        "plan",
    )
    return table(head, map(row, run.plans))


def _left_out(run: Run) -> str:
    lines = (
        f'<p class="note warn">Left out: {escape(plural(left.devices, "device"))} of kind '
        f"{escape(left.name)}. {escape(left.reason)}</p>"
        for left in run.left_out
    )
    return "".join(lines)


def _schedules(plans: Sequence[KindPlan]) -> str:
    """Kinds that page or recompute; when none does, the one with the least room."""
    busy = [p for p in plans if p.page_in_bytes or p.page_out_bytes or p.recomputed]
    shown = busy or [min(plans, key=lambda p: p.ram_bytes)]
    return "".join(
        f'<h3>{escape(p.name)}</h3><div class="scroll">{_schedule(p)}</div>' for p in shown
    )


def _schedule(plan: KindPlan) -> str:
    name = plan.name
    return schedule_picture(
        plan.plan,
        plan.problem,
        f"schedule-{name}",
        f"Schedule of one training step on {name}",
    )


def _energy_note(shares: Sequence[EnergyShare]) -> str:
    most = max(shares, key=lambda s: s.wait_j)
    return (
        "An average round of one device. Computing, paging and radio are above idle power. "
        "Idle power while a device waits for the slowest one is not in the bars, since it would be drawn "
        f"anyway; it is in the table (most: {human_j(most.wait_j)}, {escape(most.kind)})."
    )


def _energy_table(run: Run, shares: Sequence[EnergyShare]) -> str:
    def row(plan: KindPlan, share: EnergyShare) -> Sequence[str]:
        rounds = _rounds_of(run, plan)
        busy_s = sum(k.busy_s for k in rounds) / max(1, sum(k.rows for k in rounds))
        return (
            _named(plan),
            human_s(plan.time_s),
            human_j(plan.energy_j),
            human_s(busy_s),
            human_j(share.compute_j),
            human_j(share.again_j),
            human_j(share.paging_j),
            human_j(share.idle_j),
            human_j(share.radio_j),
            human_j(share.wait_j),
        )

    head = (
        "kind",
        "time of a step",
        "energy of a step",
        "time of a round",
        "computing",
        "computing again",
        "paging",
        "idle power",
        "radio",
        "waiting",
    )
    return table(head, (row(p, s) for p, s in zip(run.plans, shares, strict=True)))


def _rounds_table(run: Run) -> str:
    rows = [
        (
            str(r.round),
            "no number" if r.loss is None else f"{r.loss:.4f}",
            "" if r.accuracy is None else f"{r.accuracy:.2%}",
            human_bytes(r.bytes_down),
            human_bytes(r.bytes_up),
            human_s(r.end_s - r.start_s),
            str(r.aggregated),
            escape("; ".join(f"{x.count} × {x.reason}" for x in r.refused)) or "0",
        )
        for r in run.rounds
    ]
    head = ("round", "loss", "accuracy", "down", "up", "virtual time", "updates", "refused")
    return table(head, rows)


def _devices_table(run: Run) -> str:
    def row(plan: KindPlan) -> Sequence[str]:
        sources = "".join(
            f"<li><code>{escape(k)}</code>: {escape(v)}</li>" for k, v in plan.sources
        )
        return (
            _named(plan),
            f"<details><summary>{escape(plan.description)}</summary><ul>{sources}</ul></details>",
        )

    rows = "".join(
        f'<tr><td>{a}</td><td class="text">{b}</td></tr>' for a, b in map(row, run.plans)
    )
    return f"<table>{rows}</table>"


def _named(plan: KindPlan) -> str:
    return f"{escape(plan.name)}<small>{escape(plan.profile)}</small>"


def _rounds_of(run: Run, plan: KindPlan) -> list[KindRound]:
    return [k for r in run.rounds for k in r.kinds if k.kind == plan.name]
