"""Programs solved one after another within a time limit, each started from the best plan so far."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias

import pulp

from .backends import Backend, Outcome, Verdict, minimize
from .charges import energy_of
from .decode import decode
from .encode import encode
from .formulation import formulate
from .incumbent import Incumbent
from .plan import Plan
from .problem import Problem
from .replay import replay
from .timeline import Slot, slots_of
from .variables import Formulation

Clock: TypeAlias = Callable[[], float]

# Up to this many operators one program offers every rerun and proves its own optimum.
COMPLETE_OPERATORS = 40
# No program is made with more terms than this in its rows of RAM.
MOST_TERMS = 4_000_000
# About how long it takes to make such a program and to relax it: none is begun that cannot be ended.
TERM_S = 3e-6
LEAST_ROUND_S = 1.0
LEAST_LIMIT_S = 0.1
# Solvers are asked for less than the gap: CBC tells its optimum in eight digits, its bound by the gap.
SOLVER_GAP = 0.9


@dataclass(slots=True, kw_only=True)
class Programs:
    """What a search has: the best plan, a solver and the time until `end_s`.

    `interrupted` and `cut_short` are what solvers said: that Ctrl-C ended one, and why one ended early.
    """

    incumbent: Incumbent
    backend: Backend
    gap: float
    clock: Clock
    end_s: float
    interrupted: bool = False
    cut_short: str | None = None

    def left_s(self) -> float:
        """Seconds until the time limit."""
        return max(self.end_s - self.clock(), LEAST_LIMIT_S)

    def is_done(self) -> bool:
        """Whether the proof is there, or no time for another program, or Ctrl-C came."""
        return (
            self.interrupted
            or self.incumbent.is_within(self.gap)
            or (self.left_s() < LEAST_ROUND_S and self.incumbent.plan is not None)
        )

    def objective_gap(self) -> float:
        """The gap asked for, in units of the program's objective: a share of at least the bound."""
        once_j = self.incumbent.problem.compute_once.energy_j
        return SOLVER_GAP * self.gap * self.incumbent.bound_j / (once_j or 1.0)

    def has_time_for(
        self, problem: Problem, reruns: frozenset[Slot], most_terms: int = MOST_TERMS
    ) -> bool:
        """Whether a program with these reruns is small enough to be solved in the time that is left."""
        graph = problem.graph
        # Every tensor stands in the row of RAM of every slot.
        terms = (len(graph.operators) + len(reruns)) * len(graph.tensors)
        return terms <= most_terms and terms * TERM_S <= self.left_s()

    def find(
        self,
        problem: Problem,
        reruns: frozenset[Slot],
        time_share: float,
        *,
        loose_store: bool = False,
    ) -> Outcome:
        """Find plans with these reruns in a share of the time left; the outcome is the first program's.

        Solvers let a row be exceeded by a little, and so a budget by a few bytes: then again, with a
        budget that is smaller by those.
        """
        end_s = self.clock() + self.left_s() * time_share
        outcome, plan = self.solved(problem, reruns, end_s, loose_store)
        while plan is not None and not self.incumbent.offer(plan):
            tighter = _tightened(problem, plan)
            if tighter is None or self.interrupted or self.clock() > end_s:
                break
            problem = tighter
            _, plan = self.solved(problem, reruns, end_s, loose_store)
        return outcome

    def solved(
        self,
        problem: Problem,
        reruns: frozenset[Slot],
        end_s: float,
        loose_store: bool = False,
    ) -> tuple[Outcome, Plan | None]:
        """What came of one program, started from the best plan, and the plan that it found."""
        start = self.incumbent.start_for(problem)
        return self.solved_from(problem, reruns, start, end_s, loose_store)

    def solved_from(
        self,
        problem: Problem,
        reruns: frozenset[Slot],
        start: Plan | None,
        end_s: float,
        loose_store: bool = False,
    ) -> tuple[Outcome, Plan | None]:
        """The same from another start, or none; the start's own reruns are offered too."""
        offered = reruns | (slots_of(start) if start else frozenset())
        form = formulate(problem, offered, loose_store=loose_store)
        outcome = self.minimize(
            form,
            start=encode(form, start) if start else None,
            end_s=end_s,
            gap=self.objective_gap(),
        )
        found = outcome.verdict in (Verdict.OPTIMAL, Verdict.FEASIBLE)
        return outcome, decode(form) if found else None

    def minimize(
        self,
        form: Formulation,
        *,
        start: dict[pulp.LpVariable, float] | None = None,
        end_s: float,
        gap: float = 0.0,
        relaxed: bool = False,
    ) -> Outcome:
        """What the solver says of a program until `end_s`; how it ended early is noted.

        The time that is left is read here, since making a large program takes a good part of it.
        """
        outcome = minimize(
            self.backend,
            form.model,
            start=start,
            time_limit_s=max(end_s - self.clock(), LEAST_LIMIT_S),
            gap=gap,
            relaxed=relaxed,
        )
        self.interrupted |= outcome.interrupted
        self.cut_short = outcome.cut_short or self.cut_short
        return outcome

    def note_bound(self, outcome: Outcome) -> None:
        """Note the bound of a program that leaves out no plan of the problem that could be best."""
        if outcome.bound is not None:
            self.incumbent.raise_bound(energy_of(self.incumbent.problem, outcome.bound))


def _tightened(problem: Problem, plan: Plan) -> Problem | None:
    """The problem with a budget smaller by what the plan exceeds it; None if it does not."""
    excess_bytes = replay(plan, problem).peak_bytes - problem.budget.ram_bytes
    if excess_bytes <= 0:
        return None
    smaller = replace(problem.budget, ram_bytes=problem.budget.ram_bytes - excess_bytes)
    return replace(problem, budget=smaller)
