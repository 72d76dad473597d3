"""What a plan's runs and transfers cost in POET's program: its time and its objective."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import pulp

from .problem import Problem
from .variables import Formulation, Term


def energy_of(problem: Problem, objective: float) -> float:
    """Joules of a plan with this value of the objective."""
    once_j = problem.compute_once.energy_j
    idle_j = problem.costs.idle_w * problem.compute_once.time_s
    return once_j - idle_j + objective * _scale(once_j)


def time_scale(problem: Problem) -> float:
    """Seconds that the program counts as one."""
    return _scale(problem.compute_once.time_s)


def _scale(once: float) -> float:
    return once or 1.0


def least_time(form: Formulation, values: Mapping[pulp.LpVariable, float]) -> float:
    """The least value of `time` beside these values of all other variables."""
    scale = time_scale(form.problem)
    spent = (
        math.fsum(c.time_s * (c.term if isinstance(c.term, int) else values[c.term]) for c in unit)
        for unit in units(form)
    )
    return max(spent) / scale


@dataclass(frozen=True, slots=True)
class Charge:
    """What a term costs when it is 1; the joules leave out idle power."""

    term: Term
    time_s: float
    energy_j: float


def units(form: Formulation) -> tuple[list[Charge], ...]:
    """Everything a plan may do, by the units that work beside each other."""
    costs = form.problem.costs
    runs = zip(form.run, form.timeline.slots, strict=True)
    compute = [(term, costs.operators[slot.operator]) for term, slot in runs]
    page_in = [(t, c) for ts, c in zip(form.page_in, costs.page_in, strict=True) for t in ts]
    page_out = [(t, c) for ts, c in zip(form.page_out, costs.page_out, strict=True) for t in ts]
    units = (compute, page_in, page_out) if costs.overlap else ([*compute, *page_in, *page_out],)
    return tuple([Charge(t, c.time_s, c.energy_j) for t, c in unit] for unit in units)


def objective(form: Formulation, minimize_time: bool) -> pulp.LpAffineExpression:
    """Energy of all but the first runs, idle power included, relative to computing everything once."""
    once, idle_w = form.problem.compute_once, form.problem.costs.idle_w
    terms: list[tuple[Term, float]] = []
    if minimize_time:
        terms.append((form.time, 1.0))
    else:
        scale = _scale(once.energy_j)
        terms.append((form.time, idle_w * time_scale(form.problem) / scale))
        terms += [(c.term, c.energy_j / scale) for unit in units(form) for c in unit]
    return pulp.LpAffineExpression([(t, f) for t, f in terms if not isinstance(t, int) and f])
