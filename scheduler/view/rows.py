"""What is printed of a plan, line by line: a label and its text. Scripts may rely on the labels."""

from __future__ import annotations

from ..arena import arena_bytes
from ..baselines import keep_all
from ..plan import Plan, Solution
from ..problem import Problem
from ..replay import replay

Rows = tuple[tuple[str, str], ...]


def solution_rows(solution: Solution, problem: Problem) -> Rows:
    """Status, energy, bound and gap of a solution, and what its plan uses."""
    plain = replay(keep_all(problem), problem)
    plain_j = plain.energy_j
    cut_short = f"; cut short: {solution.cut_short}" if solution.cut_short else ""
    above = solution.cost.energy_j / plain_j - 1 if plain_j else 0.0
    return (
        ("status", f"{solution.status} ({solution.backend}, {solution.wall_s:.2f} s{cut_short})"),
        (
            "energy",
            f"{solution.cost.energy_j:.6g} J, {above:+.4%} against keep-all ({plain_j:.6g} J)",
        ),
        ("bound", f"{solution.lower_bound_j:.6g} J: no plan takes less"),
        ("gap", f"{solution.gap:.4%}"),
        ("keep-all peak", f"{plain.peak_bytes:,} bytes"),
        *use_rows(solution.plan, problem),
    )


def use_rows(plan: Plan, problem: Problem) -> Rows:
    """RAM, time, transfers and reruns of a valid plan."""
    used, budget = replay(plan, problem), plan.budget
    limit = "no deadline" if budget.time_s is None else f"deadline {budget.time_s:.6g} s"
    once_s = problem.compute_once.time_s
    return (
        ("peak", f"{used.peak_bytes:,} bytes of {budget.ram_bytes:,}"),
        ("arena", arena_text(arena_bytes(plan, problem), used.peak_bytes, budget.ram_bytes)),
        ("time", f"{used.time_s:.6g} s, computing once takes {once_s:.6g} s; {limit}"),
        ("paged out", f"{used.page_out_bytes:,} bytes"),
        ("paged in", f"{used.page_in_bytes:,} bytes"),
        ("recomputed", f"{len(used.recomputed)} operator runs"),
    )


def arena_text(total_bytes: int, peak_bytes: int, budget_bytes: int) -> str:
    """What one block of RAM takes in which everything has a fixed address."""
    if total_bytes <= peak_bytes:
        return f"{total_bytes:,} bytes: fixed addresses take no more than the peak"
    said = f"{total_bytes:,} bytes: fixed addresses take {total_bytes - peak_bytes:,} more"
    over_bytes = total_bytes - budget_bytes
    return said + (f", {over_bytes:,} over the budget" if over_bytes > 0 else "")


def lines(rows: Rows) -> str:
    """Rows as text, one a line."""
    return "\n".join(f"{label:14} {text}" for label, text in rows)
