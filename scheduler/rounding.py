"""Rows that whole numbers obey and fractions break: RAM held, counted in pieces of one size.

A row says that sizes x held <= budget. Divided by any piece and rounded down on both sides, it still
holds for whole numbers (Chvatal 1973, Gomory 1958): of tensors larger than a third of the budget at
most two are resident together.
"""

from __future__ import annotations

from collections.abc import Iterator

import pulp

from .constraints import row
from .stages import held_at_first_runs
from .variables import Formulation, Term, value_of

# Rows are added where the relaxation breaks them by more than this.
LEAST_VIOLATION = 0.01
ROWS_PER_MOMENT = 2
# Pieces smaller than this share of the budget round away too little to be worth a row.
SMALLEST_PIECE = 1 / 40
MOST_PIECES = 12


def rounding_rows(form: Formulation) -> Iterator[pulp.LpConstraint]:
    """Rows that the variables' present values break, at most two for each moment of the step."""
    pieces = _pieces(form)
    for held, left in held_at_first_runs(form):
        held = [(term, size) for term, size in held if size]
        broken = []
        for piece in pieces:
            excess = _sum(held, piece) - left // piece
            if excess > LEAST_VIOLATION:
                broken.append((excess, piece))
        for _, piece in sorted(broken, reverse=True)[:ROWS_PER_MOMENT]:
            whole = ((term, float(size // piece)) for term, size in held)
            yield from row(whole, float(left // piece))


def _pieces(form: Formulation) -> tuple[int, ...]:
    """Sizes that tensors have, and the least size of which m + 1 do not fit."""
    budget = form.problem.budget.ram_bytes
    sizes = {t.size_bytes for t in form.problem.graph.tensors}
    sizes |= {budget // (m + 1) + 1 for m in range(1, MOST_PIECES)}
    return tuple(sorted(s for s in sizes if s > budget * SMALLEST_PIECE))


def _sum(held: list[tuple[Term, int]], piece: int) -> float:
    return sum((size // piece) * value_of(term) for term, size in held if size >= piece)
