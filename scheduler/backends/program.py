"""A mixed-integer program as arrays: what a backend gets, small enough to cross to another process."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from typing import TypeAlias

import numpy as np
import pulp
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]
Whole: TypeAlias = NDArray[np.int32]

# How far a solver's values may miss a limit or a whole number: ten times what solvers allow themselves.
TOLERANCE = 1e-5


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Program:
    """Minimize cost · x with lower <= x <= upper and row_lower <= A x <= row_upper.

    The rows of A lie one behind another: row i has `factor[n]` in column `column[n]` for n from
    `row_start[i]` to `row_start[i + 1]`. Where `integer` is true, x must be whole.
    """

    cost: Floats
    lower: Floats
    upper: Floats
    integer: NDArray[np.bool_]
    row_lower: Floats
    row_upper: Floats
    row_start: Whole
    column: Whole
    factor: Floats

    @property
    def columns(self) -> int:
        """How many variables there are."""
        return len(self.cost)

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return len(self.row_lower)

    def admits(self, values: Floats) -> bool:
        """Whether these values satisfy every bound and row, and are whole where they must be."""
        row = np.repeat(np.arange(self.rows), np.diff(self.row_start))
        sums = np.bincount(row, self.factor * values[self.column], minlength=self.rows).astype(
            float
        )
        within = _within(values, self.lower, self.upper) and _within(
            sums, self.row_lower, self.row_upper
        )
        whole = values[self.integer]
        return within and bool(np.all(np.abs(whole - np.round(whole)) <= TOLERANCE))


def program_of(model: pulp.LpProblem, variables: list[pulp.LpVariable]) -> Program:
    """A program written in PuLP; column n is `variables[n]`. Constants in the objective are left out."""
    place = {variable: n for n, variable in enumerate(variables)}
    rows = model.constraints()
    terms = [row.expr for row in rows]
    objective = model.objective or {}
    return Program(
        cost=np.array([objective.get(v, 0.0) for v in variables], dtype=np.float64),
        lower=_bounds((v.lowBound for v in variables), -np.inf),
        upper=_bounds((v.upBound for v in variables), np.inf),
        integer=np.array([v.cat == pulp.LpInteger for v in variables], dtype=np.bool_),
        row_lower=_bounds((row.getLb() for row in rows), -np.inf),
        row_upper=_bounds((row.getUb() for row in rows), np.inf),
        row_start=np.cumsum([0, *map(len, terms)], dtype=np.int32),
        column=np.fromiter((place[v] for v in chain.from_iterable(terms)), dtype=np.int32),
        factor=np.fromiter(chain.from_iterable(t.values() for t in terms), dtype=np.float64),
    )


def model_of(program: Program) -> tuple[pulp.LpProblem, list[pulp.LpVariable]]:
    """The other way round: a PuLP model, and its variables in the order of the columns."""
    model = pulp.LpProblem("poet", pulp.LpMinimize)
    variables = [
        model.add_variable(
            f"x{n:07d}",
            None if np.isneginf(program.lower[n]) else float(program.lower[n]),
            None if np.isposinf(program.upper[n]) else float(program.upper[n]),
            pulp.LpInteger if program.integer[n] else pulp.LpContinuous,
        )
        for n in range(program.columns)
    ]
    model.setObjective(
        pulp.LpAffineExpression(
            [(v, c) for v, c in zip(variables, program.cost.tolist(), strict=True) if c]
        )
    )
    column, factor = program.column.tolist(), program.factor.tolist()
    for n in range(program.rows):
        span = slice(int(program.row_start[n]), int(program.row_start[n + 1]))
        row = [(variables[c], f) for c, f in zip(column[span], factor[span], strict=True)]
        for row_sense, limit in _limits(float(program.row_lower[n]), float(program.row_upper[n])):
            model.addConstraint(
                pulp.LpConstraint(pulp.LpAffineExpression(row), row_sense, rhs=limit)
            )
    return model, variables


def _limits(lower: float, upper: float) -> list[tuple[int, float]]:
    """PuLP's senses of a row with these limits; a row within two limits becomes two."""
    if lower == upper:
        return [(pulp.LpConstraintEQ, upper)]
    below = [(pulp.LpConstraintLE, upper)] if np.isfinite(upper) else []
    above = [(pulp.LpConstraintGE, lower)] if np.isfinite(lower) else []
    return below + above


def _bounds(values: Iterable[float | None], none: float) -> Floats:
    return np.array([none if value is None else value for value in values], dtype=np.float64)


def _within(values: Floats, lower: Floats, upper: Floats) -> bool:
    slack = TOLERANCE * np.maximum(1.0, np.abs(values))
    return bool(np.all((values >= lower - slack) & (values <= upper + slack)))
