"""The simulation in the terminal: plans, a line per round, and what each kind of device spends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from scheduler.view.text import human_bytes, human_j, human_s, plural

from .config import SimulationConfig
from .federate import Watcher
from .fleet import Fleet
from .fleet_view import sharing
from .results import KindPlan, KindRound, LeftOut, Refused, RoundRecord

NARROW = 100  # columns: with fewer, some cells take two lines, so that names of kinds stay whole
LEGEND = "RAM of each kind, what a round took, what a training step pages and recomputes:"


class View:
    """Draws while a simulation runs; without a terminal it prints the same lines."""

    def __init__(self, console: Console, config: SimulationConfig) -> None:
        self._console, self._config = console, config
        self._plans: list[KindPlan] = []
        self._last: RoundRecord | None = None
        self._live: Live | None = None
        self._progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("updates"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            expand=True,
        )
        self._task = self._progress.add_task("planning", total=None)

    @contextmanager
    def watching(self) -> Iterator[Watcher]:
        """A watcher to hand to `simulate`."""
        self._console.print(self._title())
        with Live(self._render(), console=self._console, refresh_per_second=8) as self._live:
            try:
                yield Watcher(
                    on_plan=self._on_plan,
                    on_left_out=self._on_left_out,
                    on_start=self._on_start,
                    on_reply=self._on_reply,
                    on_failure=self._on_failure,
                    on_round=self._on_round,
                )
            finally:
                self._progress.update(self._task, visible=False)
                self._refresh()

    def _title(self) -> Text:
        config = self._config
        return Text.assemble(
            ("fedpoet", "bold"),
            f"  workload {config.workload}, {plural(config.rounds, 'round')}, "
            f"strategy {config.strategy or 'fedavg'}, seed {config.seed}",
        )

    def _on_plan(self, plan: KindPlan) -> None:
        self._plans.append(plan)
        self._refresh()

    def _on_left_out(self, left: LeftOut) -> None:
        count = plural(left.devices, "device")
        self._print(
            f"[yellow]left out[/]  {escape(left.name)} ({count}, {escape(left.profile)}): "
            f"{escape(left.reason)}"
        )

    def _on_start(self, fleet: Fleet) -> None:
        if said := sharing(fleet):
            self._print(f"[yellow]shared data[/]  {said}")
        size = min(self._config.cohort or len(fleet), len(fleet))
        self._progress.update(self._task, description="round 1", total=size * self._config.rounds)

    def _on_reply(self, _: int) -> None:
        self._progress.advance(self._task)

    def _on_failure(self, node: int, log: str) -> None:
        self._print(f"[yellow]  log of node {node}[/], which stays there: {escape(log)}")

    def _on_round(self, record: RoundRecord) -> None:
        self._last = record
        self._print(_round_line(record))
        if record.skipped is not None:
            self._print(f"[yellow]  skipped[/]  {escape(record.skipped)}")
        for refused in record.refused:
            self._print(f"[yellow]  refused[/]  {_nodes(refused)}: {escape(refused.reason)}")
        if record.round < self._config.rounds:
            self._progress.update(self._task, description=f"round {record.round + 1}")
        self._refresh()

    def _print(self, line: str) -> None:
        self._console.print(line, soft_wrap=True, highlight=False)

    def _refresh(self) -> None:
        if self._live is not None:
            self._live.update(self._render())

    def _render(self) -> Group:
        if not self._plans:
            return Group(self._progress)
        table = kinds_table(self._plans, self._last, narrow=self._console.width < NARROW)
        return Group(Text(f"\n{LEGEND}", "dim"), table, self._progress)


def _nodes(refused: Refused) -> str:
    """`node 7, 8`, with how many more there are."""
    more = refused.count - len(refused.nodes)
    named = ", ".join(map(str, refused.nodes))
    return f"node {named}" + (f" and {more} more" if more else "")


def _round_line(record: RoundRecord) -> str:
    accuracy = "" if record.accuracy is None else f"  accuracy [bold green]{record.accuracy:.3f}[/]"
    loss = "   nan" if record.loss is None else f"{record.loss:6.3f}"
    scores = f"round {record.round:>3}  loss {loss}{accuracy}"
    if not record.round:
        return f"{scores}  [dim]before training[/]"
    return (
        f"{scores}  down {human_bytes(record.bytes_down):>7}  up {human_bytes(record.bytes_up):>7}"
        f"  virtual time {human_s(record.end_s - record.start_s)}"
    )


def _paged(plan: KindPlan, between: str) -> str:
    if not (plan.page_out_bytes or plan.page_in_bytes):
        return "nothing"
    return f"{human_bytes(plan.page_out_bytes)}{between}{human_bytes(plan.page_in_bytes)}"


def kinds_table(
    plans: list[KindPlan], record: RoundRecord | None, *, narrow: bool = False
) -> Table:
    """Per kind of device: RAM, and what the last round cost one device on average."""
    table = Table(
        box=None,
        padding=(0, 1, 0, 0),
        header_style="bold",
    )
    table.add_column("kind", overflow="fold", style="cyan")
    keep, paged, again = "keep all", "paged out/in", "recomputed"
    if narrow:
        keep, paged, again = "keep\nall", "paged\nout/in", "re-\ncomputed"
    for name in ("budget", "peak", keep, "time", "energy", paged, again):
        table.add_column(name, justify="right", no_wrap=True)
    for plan in plans:
        done = _round_of(record, plan)
        count = done.rows if done else 1
        table.add_row(
            escape(f"{plan.devices} × {plan.name}"),
            human_bytes(plan.ram_bytes),
            human_bytes(done.peak_bytes or plan.peak_bytes) if done else "",
            human_bytes(plan.keep_all_peak_bytes),
            human_s(done.busy_s / count) if done else "",
            human_j(done.energy_j / count) if done else "",
            _paged(plan, "/\n" if narrow else "/"),
            str(plan.recomputed or "nothing"),
        )
    return table


def _round_of(record: RoundRecord | None, plan: KindPlan) -> KindRound | None:
    return next((k for k in record.kinds if k.kind == plan.name), None) if record else None
