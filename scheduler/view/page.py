"""One plan as one HTML file with everything inside it: no script, no network."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from ..baselines import keep_all
from ..floor import floor
from ..graph import Graph
from ..handling import Decision, decisions
from ..plan import Solution
from ..problem import Problem
from ..replay import replay
from ..sweep import Point
from .frontier import HEAD, point_cells
from .html import key, page, table, tiles
from .pictures import energy_picture, frontier_picture, ram_pictures, schedule_picture
from .rows import use_rows
from .schedule import most_telling
from .spending import Spending, spending
from .terminal import made_by, summary
from .text import human_bytes, human_j, human_s, plural

FIRST_ROWS = 24  # decisions shown at once; the rest unfolds


def plan_page(solution: Solution, problem: Problem, points: Sequence[Point] = ()) -> str:
    """The page of a solved problem, with the frontier where there is one. Same input, same bytes."""
    plan, graph = solution.plan, problem.graph
    decided = decisions(plan, problem)
    first = most_telling(decided, graph, FIRST_ROWS)
    rest = [d for d in decided if d.tensor not in first]
    spent = spending(plan, problem)
    plain = spending(keep_all(problem), problem)
    return page(
        __package__,
        "plan.html",
        title=f"fedpoet plan: {graph.name}",
        subtitle=_subtitle(problem),
        tiles=tiles(_facts(solution, problem)),
        ram=ram_pictures([("this plan", plan, problem)], "RAM over one training step", columns=1),
        use_table=table(("", ""), ((escape(k), escape(v)) for k, v in use_rows(plan, problem))),
        energy_note=escape(_proof(solution)),
        energy=energy_picture(
            [("this plan", spent), ("keep all", plain)], "Where the energy of one step goes"
        ),
        energy_table=_energy_table(spent, plain),
        frontier=_frontier(points, problem),
        schedule_key=key(),
        schedule=schedule_picture(plan, problem, "schedule", "Schedule of one training step"),
        decisions_note=escape(summary(decided)),
        decisions_table=_decisions([decided[k] for k in sorted(first)], graph),
        other_decisions=_folded(rest, graph),
        graph_digest=graph.digest[:12],
        plan_digest=plan.digest[:12],
    )


def _subtitle(problem: Problem) -> str:
    graph = problem.graph
    deadline = problem.budget.time_s
    limit = "no deadline" if deadline is None else f"deadline {human_s(deadline)}"
    sizes = f"{plural(len(graph.operators), 'operator')}, {plural(len(graph.tensors), 'tensor')}"
    return f"{sizes}; budget {human_bytes(problem.budget.ram_bytes)} of RAM, {limit}"


def _facts(solution: Solution, problem: Problem) -> list[tuple[str, str]]:
    used = replay(solution.plan, problem)
    plain = replay(keep_all(problem), problem)
    above = used.energy_j / plain.energy_j - 1 if plain.energy_j else 0.0
    return [
        (f"gap {solution.gap:.2%}", solution.status.value),
        ("peak", human_bytes(used.peak_bytes)),
        ("keep all needs", human_bytes(plain.peak_bytes)),
        ("floor", human_bytes(floor(problem).ram_bytes)),
        (f"energy of a step, {above:+.1%} against keep all", human_j(used.energy_j)),
        ("time of a step", human_s(used.time_s)),
    ]


def _proof(solution: Solution) -> str:
    energy, bound = human_j(solution.cost.energy_j), human_j(solution.lower_bound_j)
    if solution.gap <= 0:
        return f"No plan within this budget takes less than these {energy}: it is proven."
    return (
        f"The plan takes {energy}. No plan within this budget takes less than {bound}: it is proven "
        f"to within {solution.gap:.2%}."
    )


def _energy_table(spent: Spending, plain: Spending) -> str:
    def row(name: str, of: Spending) -> tuple[str, ...]:
        parts = (of.compute_j, of.recompute_j, of.page_out_j, of.page_in_j, of.idle_j)
        return (name, *map(human_j, (*parts, sum(parts))))

    head = ("", "computing", "computing again", "page-out", "page-in", "idle power", "all")
    return table(head, (row("this plan", spent), row("keep all", plain)))


def _frontier(points: Sequence[Point], problem: Problem) -> str:
    if not points:
        return ""
    rows = [[escape(cell) for cell in point_cells(p, problem)] for p in points]
    reasons = ""
    for row, point in zip(rows, points, strict=True):
        if not isinstance(point.found, Solution):
            reasons += f'<p class="note warn">{row[0]}: {row[-1]}</p>'
            row[-1] = "no plan"
    return (
        "<section>\n<h2>What RAM buys</h2>\n<p>The best plan found for each budget, from the floor "
        "to what keeping everything takes. Less than the lower edge of the shaded band is "
        "impossible.</p>\n"
        f'<div class="scroll">{frontier_picture(points, problem)}</div>\n'
        f'<div class="scroll">{table(HEAD, rows)}</div>\n{reasons}</section>'
    )


def _decisions(decided: Sequence[Decision], graph: Graph) -> str:
    def row(decision: Decision) -> tuple[str, ...]:
        tensor = graph.tensors[decision.tensor]
        return (
            f"{escape(tensor.name)}<small>{escape(made_by(graph, tensor.id))}</small>",
            human_bytes(tensor.size_bytes),
            escape(decision.text),
            human_j(decision.energy_j) if decision.energy_j else "",
        )

    return table(
        ("tensor and its operator", "size", "what the plan does", "spent on it"), map(row, decided)
    )


def _folded(decided: Sequence[Decision], graph: Graph) -> str:
    if not decided:
        return ""
    said = f"The other {plural(len(decided), 'tensor')}"
    return (
        f"<details><summary>{said}</summary>"
        f'<div class="scroll">{_decisions(decided, graph)}</div></details>'
    )
