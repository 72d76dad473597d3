"""What the terminal shows of a plan is what the accountant says of it."""

from __future__ import annotations

import io
import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from scheduler import Budget, Compute, Plan, Problem, keep_all, page_all, replay, solve
from scheduler.backends import Highs
from scheduler.handling import decisions
from scheduler.liveness import with_frees
from scheduler.view.chart import BLOCKS, ram_chart, share_per_column, strip
from scheduler.view.palette import TERMINAL
from scheduler.view.schedule import Row, schedule
from scheduler.view.terminal import show_chart, show_tensors, summary
from scheduler.view.text import human_bytes
from tests.scheduler.problems import chain
from tests.strategies import problems

TIGHT = replace(chain(), budget=Budget(ram_bytes=40))


def lines_of(plan: Plan, problem: Problem, width: int = 60) -> list[str]:
    return ram_chart(plan, problem, width, coloured=False).plain.split("\n")


@settings(max_examples=100)
@given(problem=problems(), width=st.integers(40, 120))
def test_a_chart_fits_its_width_and_a_valid_plan_stays_below_the_line(
    problem: Problem, width: int
) -> None:
    plan = keep_all(problem)
    peak = replay(plan, problem).peak_bytes
    plan = replace(plan, budget=replace(plan.budget, ram_bytes=max(peak, plan.budget.ram_bytes)))
    drawn = ram_chart(plan, problem, width, coloured=True)
    chart = [line for line in drawn.plain.split("\n") if "│" in line or "┤" in line]
    assert all(len(line) == width for line in chart)
    (line,) = [n for n, text in enumerate(chart) if "▁" * (width - 10) in text]
    assert chart[line].startswith(f"{human_bytes(plan.budget.ram_bytes):>8} ┤")
    assert not set("".join(text[10:] for text in chart[:line])) - {" "}


def test_the_budget_line_lies_above_the_plan_and_keep_all_beyond_it() -> None:
    plan = solve(TIGHT, backend=Highs()).plan
    lines = lines_of(plan, TIGHT)
    (budget,) = [n for n, line in enumerate(lines) if n and "▁" * 20 in line]
    assert lines[budget].startswith("    40 B ┤")
    above = "".join(line[10:] for line in lines[1:budget])
    below = "".join(line[10:] for line in lines[budget + 1 : budget + 5])
    assert "░" in above
    assert not set(above) & set(BLOCKS[1:])
    assert "█" in below
    assert "peak 40 B" in lines[0]
    assert "peak 60 B" in lines[0]


def test_a_budget_far_above_is_said_and_not_drawn() -> None:
    lines = lines_of(keep_all(chain()), chain())
    assert "budget 1 MB, far above" in lines[0]
    assert not any("▁" * 20 in line for line in lines)


def test_without_colours_runs_are_letters() -> None:
    problem = chain(3)
    runs = (0, 1, 2, 3, 0, 1, 4, 0, 5)
    plan = Plan(
        graph_digest=problem.graph.digest,
        budget=problem.budget,
        steps=with_frees(problem.graph, map(Compute, runs)),
    )
    (computes,) = [t for t in lines_of(plan, problem, 100) if t.startswith(" computes")]
    assert re.sub(r"(.)\1*", r"\1", computes.split()[1]) == "fbrbrb"


def test_shares_add_up_to_the_time_covered() -> None:
    shares = share_per_column([(0.0, 2.5), (7.5, 2.5)], 10.0, 4)
    assert shares == [1.0, 0.0, 0.0, 1.0]
    assert sum(share_per_column([(1.0, 4.0)], 10.0, 7)) == pytest.approx(7 * 0.4)


def test_a_strip_shows_where_a_tensor_is() -> None:
    row = Row(
        resident=[(0.0, 4.0)],
        stored=[(4.0, 2.0)],
        moving=[(6.0, 1.0)],
        again=[(8.0, 1.0), (9.0, 0.1)],
    )
    drawn = strip(row, 10.0, 10)
    assert drawn.plain == "████──x ▓▏"
    assert [str(span.style) for span in drawn.spans][-1] == TERMINAL["again"]


def test_a_schedule_follows_the_plan() -> None:
    plan = page_all(chain(2))
    walked = schedule(plan, chain(2))
    assert walked.end_s == pytest.approx(
        sum(d for (_, d), _ in walked.runs) + sum(d for _, d in walked.moves)
    )
    assert [colour for _, colour in walked.runs] == ["forward", "forward", "backward", "backward"]
    assert len(walked.rows[0].moving) == 3


@pytest.mark.parametrize("width", [80, 100, 160])
def test_the_table_names_every_tensor_when_asked(width: int) -> None:
    plan = solve(TIGHT, backend=Highs()).plan
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=True, color_system=None)
    show_chart(console, plan, TIGHT)
    show_tensors(console, plan, TIGHT, all_rows=True)
    text = out.getvalue()
    assert max(map(len, text.splitlines())) <= width
    for tensor in TIGHT.graph.tensors:
        assert f"\n{tensor.name} " in text
    assert ("made by" in text) == (width >= 100)
    assert summary(decisions(plan, TIGHT)) in " ".join(text.split())


def test_the_table_of_a_large_graph_shows_what_says_most() -> None:
    problem = replace(chain(20), budget=Budget(ram_bytes=100))
    plan = solve(problem, time_limit_s=5, gap=0.2, backend=Highs()).plan
    out = io.StringIO()
    console = Console(file=out, width=120, force_terminal=True, color_system=None)
    show_tensors(console, plan, problem, all_rows=False)
    text = out.getvalue()
    assert "The table shows 16; --all-rows shows all." in text
    shown = [d for d in decisions(plan, problem) if f"\nt{d.tensor} " in text]
    assert len(shown) == 16
    hidden = [d for d in decisions(plan, problem) if d not in shown]
    assert min(d.energy_j for d in shown) >= max(d.energy_j for d in hidden)
