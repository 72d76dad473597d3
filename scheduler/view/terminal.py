"""A plan in the terminal: RAM against the budget, and what it does with each tensor."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..graph import Graph
from ..handling import Decision, decisions
from ..plan import Plan
from ..problem import Problem
from .chart import STRIP, STRIP_COLOURS, ram_chart, strip
from .palette import TERMINAL
from .schedule import most_telling, schedule
from .text import human_bytes, human_j, plural, shortened

TENSORS = 16  # rows of the table unless all are asked for
MOST_WIDTH = 120
PLAIN_WIDTH = 140  # where there is no terminal, lines need not fit one


def show_chart(console: Console, plan: Plan, problem: Problem) -> None:
    """Draw RAM over time, and what runs when."""
    coloured = console.color_system is not None and not console.no_color
    console.print()
    console.print(ram_chart(plan, problem, _width(console), coloured))


def show_tensors(console: Console, plan: Plan, problem: Problem, all_rows: bool) -> None:
    """A table of what the plan does with tensors: all, or those that say most."""
    decided = decisions(plan, problem)
    graph, walked = problem.graph, schedule(plan, problem)
    chosen = most_telling(decided, graph, len(decided) if all_rows else TENSORS)
    wide = _width(console)
    named = wide >= 100  # otherwise the column with the operators is left out
    shown = sorted(chosen, key=lambda k: (walked.rows[k].first_s, k))
    cells = [_cells(graph, decided[k], named) for k in shown]
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", show_edge=False)
    titles = ("tensor", *(("made by",) if named else ()), "size", "what", "spent")
    widths = [max(map(len, column)) for column in zip(titles, *cells, strict=True)]
    for title, width in zip(titles, widths, strict=True):
        numbers = title in ("size", "spent")
        table.add_column(title, width=width, no_wrap=True, justify="right" if numbers else "left")
    table.add_column("from start to end", no_wrap=True)
    room = max(10, wide - sum(widths) - 2 * len(widths) - 2)
    for k, row in zip(shown, cells, strict=True):
        colour = _colour(decided[k])
        texts = (Text(t, colour if n == len(row) - 2 else "") for n, t in enumerate(row))
        table.add_row(*texts, strip(walked.rows[k], walked.end_s, room))
    console.print()
    console.print(_key())
    console.print(table, width=_width(console))
    line = summary(decided)
    if len(chosen) < len(decided):
        line += f"\nThe table shows {len(chosen)}; --all-rows shows all."
    console.print(line, highlight=False, soft_wrap=not console.is_terminal)


def summary(decided: Sequence[Decision]) -> str:
    """What happens to all tensors, in one line."""
    said = [d.text for d in decided]
    spent_j = math.fsum(d.energy_j for d in decided)
    line = (
        f"{plural(len(decided), 'tensor')}: {said.count('kept')} kept, "
        f"{sum(d.paged > 0 for d in decided)} paged, "
        f"{sum(d.recomputed > 0 for d in decided)} recomputed, "
        f"{said.count('used at once')} used at once"
    )
    return line + (f"; paging and recomputing take {human_j(spent_j)}." if spent_j else ".")


def _width(console: Console) -> int:
    return min(console.width, MOST_WIDTH) if console.is_terminal else PLAIN_WIDTH


def _cells(graph: Graph, decision: Decision, named: bool) -> tuple[str, ...]:
    tensor = graph.tensors[decision.tensor]
    return (
        shortened(tensor.name, 24),
        *((shortened(made_by(graph, tensor.id), 20),) if named else ()),
        human_bytes(tensor.size_bytes),
        decision.text,
        human_j(decision.energy_j) if decision.energy_j else "",
    )


def made_by(graph: Graph, tensor: int) -> str:
    """The operator that computes a tensor, or what kind of source it is."""
    operator = graph.producer.get(tensor)
    return (
        graph.tensors[tensor].kind.replace("_", " ")
        if operator is None
        else graph.operators[operator].name
    )


def _colour(decision: Decision) -> str:
    if decision.recomputed:
        return TERMINAL["again"]
    return TERMINAL["paging"] if decision.paged else "default"


def _key() -> Text:
    said = {
        "resident": "in RAM",
        "again": "there by a rerun",
        "moving": "moving",
        "stored": "in the page store only",
    }
    parts = [((STRIP[name], STRIP_COLOURS[name]), f" {text}   ") for name, text in said.items()]
    return Text.assemble(*(part for pair in parts for part in pair))
