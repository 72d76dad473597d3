"""The search for a good plan and for its proof: which programs are solved, in which order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import pulp

from .backends import Backend, Outcome, Verdict, minimize
from .charges import energy_of
from .check import check
from .decode import decode
from .encode import encode
from .errors import Infeasible, InvalidPlan, NoPlanInTime
from .floor import floor
from .formulation import formulate
from .moments import moment_bound_j
from .plan import PageIn, PageOut, Plan
from .prefetch import least_j, prefetch
from .problem import Problem
from .reductions.bundle import Bundle
from .reductions.restrict import WithoutPaging
from .reductions.serial import Serial
from .replay import replay
from .reruns import all_reruns, near_reruns, worthwhile_reruns
from .rounding import rounding_rows
from .stages import relaxation
from .timeline import Slot, slots_of
from .variables import Formulation, value_of

Clock: TypeAlias = Callable[[], float]
# A problem, original or reduced, and the reruns that its program is to offer.
_Offer: TypeAlias = tuple[Problem, frozenset[Slot]]

# Up to this many operators one program offers every rerun and proves its own optimum.
COMPLETE_OPERATORS = 40
# Shares of the time that is left: for a first plan where none is known, for the bound, for a program without
# paging, and for the smallest program with it.
FIRST_SHARE = 0.25
BOUND_SHARE = 0.5
NARROW_SHARE = 0.2
SMALL_SHARE = 0.4
ROUNDINGS = 4
# Fewer rows than this are not worth a relaxation that takes more than this share of the time left.
FEW_ROWS = 5
ROUNDING_SHARE = 0.3
# Programs for finding plans, from small to large: how far back reruns reach, and how dear they may be.
SMALL = (4, 0.5)
SMALL_RERUNS = 3  # per operator; a first program with more would not be solved soon
ROUNDS = ((4, 1.0), (6, 3.0), (12, 10.0))
# For devices that page beside compute, in turn: how much of paging may show, and how much RAM planning may
# fill. On others there is one way only, and `Serial` changes nothing.
WAYS_TO_HIDE = (
    Serial(exposed=0.3, room=0.5),
    Serial(exposed=0.05, room=0.5),
    Serial(exposed=0.05, room=0.2),
    Serial(exposed=1.0, room=1.0),
)
ALONE = WAYS_TO_HIDE[-1:]
# So near to the bound, other ways to hide paging are not tried: the bound takes all of it as hidden.
CLOSE = 1e-3
# Reruns that the relaxation uses at least this much are offered too.
LEAST_USE = 0.5
# No program is made with more terms than this in its rows of RAM; a first one, where no plan is known, may
# have more.
MOST_TERMS = 4_000_000
UNPLANNED_TERMS = 16_000_000
# About how long it takes to make such a program and to relax it: none is begun that cannot be ended.
TERM_S = 3e-6
LEAST_ROUND_S = 1.0
# The same of the relaxation that proves, for each tensor that a slot reads or computes.
MOST_TOUCHES = 120_000
TOUCH_S = 2e-4
# Solvers are asked for less than the gap: CBC tells its optimum in eight digits, its bound by the gap.
SOLVER_GAP = 0.9


@dataclass(slots=True, kw_only=True)
class Incumbent:
    """The best checked plan so far and the best bound; `reduced` is the problem that programs are of."""

    problem: Problem
    reduced: Problem
    invert: Callable[[Plan], Plan]
    on_plan: Callable[[Plan], None]
    plan: Plan | None = None
    start: Plan | None = None
    energy_j: float = float("inf")
    bound_j: float = field(init=False)

    def __post_init__(self) -> None:
        self.bound_j = self.problem.compute_once.energy_j

    def offer(self, plan: Plan) -> bool:
        """Take a plan of either problem if it is valid and better; says whether it was."""
        is_reduced = plan.graph_digest == self.reduced.graph.digest
        plan = replace(plan, budget=self.problem.budget)
        own = self.invert(plan) if is_reduced else plan
        try:
            check(own, _patient(self.problem))
            if least_j(own, self.problem) >= self.energy_j:
                return False
            own = prefetch(own, self.problem)
            check(own, self.problem)
        except InvalidPlan:
            return False
        energy_j = replay(own, self.problem).energy_j
        if energy_j >= self.energy_j:
            return False
        self.plan, self.energy_j = own, energy_j
        self.start = plan if is_reduced else None
        self.on_plan(own)
        return True

    def raise_bound(self, bound_j: float) -> None:
        """Note a proven bound."""
        self.bound_j = max(self.bound_j, bound_j)

    def start_for(self, problem: Problem) -> Plan | None:
        """The best plan as one of this problem, the original or the reduced one."""
        same = self.plan is not None and self.plan.graph_digest == problem.graph.digest
        return self.plan if same else self.start

    def is_within(self, gap: float) -> bool:
        """Whether the plan is proven to be this good."""
        return self.plan is not None and self.energy_j - self.bound_j <= gap * self.energy_j


@dataclass(slots=True, kw_only=True)
class Search:
    """Programs of growing size, each started from the best plan, until the proof is there."""

    incumbent: Incumbent
    backend: Backend
    gap: float
    clock: Clock
    end_s: float
    interrupted: bool = False
    cut_short: str | None = None

    def improve(self) -> None:
        """Better plans and a better bound, until the gap, the time limit or Ctrl-C."""
        original = self.incumbent.problem
        self.incumbent.raise_bound(moment_bound_j(original))
        if self._done():
            return
        small = len(original.graph.operators) <= COMPLETE_OPERATORS
        ways = ways_to_hide(original)
        for problem, reruns in self._complete() if small else self._growing():
            for left, way in zip(range(len(ways), 0, -1), ways, strict=True):
                if self._done() or not self._has_time_for(problem, reruns):
                    return
                # A program that ends early leaves its time to the next; one that does not is large enough.
                self._solve(way.apply(problem)[0], reruns, 1 / left)

    def _complete(self) -> Iterator[_Offer]:
        """One program that offers every rerun: the proof and, where nothing overlaps, the best plan."""
        original = self.incumbent.problem
        reruns = all_reruns(original.graph)
        overlap = original.costs.overlap
        exact = _store_rows_are_exact(original)
        outcome = self._solve(original, reruns, 1.0 if exact and not overlap else BOUND_SHARE)
        if not exact:
            if self._done():
                return
            if outcome.verdict is Verdict.INFEASIBLE:
                self.cut_short = "the programs, which cannot let page copies come and go, ended"
            outcome = self._solve(_without_store(original), reruns, BOUND_SHARE if overlap else 1.0)
        if outcome.bound is not None:
            self._note_bound(outcome.bound)
        if self.incumbent.plan is None and outcome.verdict is Verdict.INFEASIBLE:
            raise self._infeasible()
        if overlap and not self.incumbent.is_within(CLOSE):
            yield original, reruns

    def _growing(self) -> Iterator[_Offer]:
        """The relaxation of that program for the bound; plans from programs that offer few reruns."""
        original, reduced = self.incumbent.problem, self.incumbent.reduced
        way, _ = ways_to_hide(reduced)[0].apply(reduced)
        if self.incumbent.plan is None:
            near = _near(reduced, ROUNDS[0])
            if self._has_time_for(reduced, near, UNPLANNED_TERMS):
                self._solve(ALONE[0].apply(reduced)[0], near, FIRST_SHARE)
        used = self._relax()
        if not self._done():
            self._solve_unpaged(reduced, NARROW_SHARE)
        small = _near(reduced, SMALL)
        few = len(small) <= SMALL_RERUNS * len(reduced.graph.operators)
        if few and not self._done() and self._has_time_for(way, small):
            self._solve(way, small, SMALL_SHARE)
        for reach in ROUNDS:
            yield reduced, used | _near(reduced, reach)
        if len(reduced.graph.tensors) < len(original.graph.tensors):
            yield original, used | _near(original, ROUNDS[0])
        self._prove()

    def _prove(self) -> None:
        """With all plans found that small programs find, branch and bound on the whole one."""
        problem = _without_store(self.incumbent.problem)
        reruns = worthwhile_reruns(problem)
        if self._done() or not self._has_time_for(problem, reruns):
            return
        start = self.incumbent.start_for(problem)
        form = formulate(problem, reruns | (slots_of(start) if start else frozenset()))
        outcome = self._minimize(
            form,
            start=encode(form, start) if start else None,
            time_limit_s=self._left_s(),
            gap=self._objective_gap(),
        )
        if outcome.bound is not None:
            self._note_bound(outcome.bound)
        if outcome.verdict in (Verdict.OPTIMAL, Verdict.FEASIBLE):
            self.incumbent.offer(decode(form))

    def _has_time_for(
        self, problem: Problem, reruns: frozenset[Slot], most_terms: int = MOST_TERMS
    ) -> bool:
        terms = _terms(problem, reruns)
        return terms <= most_terms and terms * TERM_S <= self._left_s()

    def _done(self) -> bool:
        return (
            self.interrupted
            or self.incumbent.is_within(self.gap)
            or (self._left_s() < LEAST_ROUND_S and self.incumbent.plan is not None)
        )

    def _objective_gap(self) -> float:
        """The gap asked for, in units of the program's objective: a share of at least the bound."""
        once_j = self.incumbent.problem.compute_once.energy_j
        return SOLVER_GAP * self.gap * self.incumbent.bound_j / (once_j or 1.0)

    def _left_s(self) -> float:
        return max(self.end_s - self.clock(), 0.1)

    # ---- one program

    def _solve(self, problem: Problem, reruns: frozenset[Slot], time_share: float) -> Outcome:
        """Find plans with these reruns; the outcome is the first program's.

        Solvers let a row be exceeded by a little, and so a budget by a few bytes: then again, with a
        budget that is smaller by those.
        """
        end_s = self.clock() + self._left_s() * time_share
        outcome, plan = self._solve_once(problem, reruns, end_s - self.clock())
        while plan is not None and not self.incumbent.offer(plan):
            tighter = _tightened(problem, plan)
            if tighter is None or self.interrupted or self.clock() > end_s:
                break
            problem = tighter
            _, plan = self._solve_once(problem, reruns, end_s - self.clock())
        return outcome

    def _solve_once(
        self, problem: Problem, reruns: frozenset[Slot], time_limit_s: float
    ) -> tuple[Outcome, Plan | None]:
        start = self.incumbent.start_for(problem)
        return self._from_start(problem, reruns, start, time_limit_s)

    def _solve_unpaged(self, problem: Problem, time_share: float) -> None:
        """Where recomputing alone will do, a program that knows nothing else is solved sooner."""
        narrow, inverse = WithoutPaging().apply(problem)
        start = self.incumbent.start_for(problem)
        pages = start is not None and any(isinstance(s, PageIn | PageOut) for s in start.steps)
        reruns = _near(problem, ROUNDS[0])
        if not self._has_time_for(problem, reruns):
            return
        limit_s = self._left_s() * time_share
        _, plan = self._from_start(narrow, reruns, None if pages else start, limit_s)
        if plan is not None:
            self.incumbent.offer(WithoutPaging().invert(plan, inverse))

    def _from_start(
        self, problem: Problem, reruns: frozenset[Slot], start: Plan | None, time_limit_s: float
    ) -> tuple[Outcome, Plan | None]:
        form = formulate(problem, reruns | (slots_of(start) if start else frozenset()))
        outcome = self._minimize(
            form,
            start=encode(form, start) if start else None,
            time_limit_s=max(time_limit_s, 0.1),
            gap=self._objective_gap(),
        )
        if outcome.verdict in (Verdict.OPTIMAL, Verdict.FEASIBLE):
            return outcome, decode(form)
        return outcome, None

    def _minimize(
        self,
        form: Formulation,
        *,
        start: dict[pulp.LpVariable, float] | None = None,
        time_limit_s: float,
        gap: float = 0.0,
        relaxed: bool = False,
    ) -> Outcome:
        outcome = minimize(
            self.backend,
            form.model,
            start=start,
            time_limit_s=time_limit_s,
            gap=gap,
            relaxed=relaxed,
        )
        self.interrupted |= outcome.interrupted
        self.cut_short = outcome.cut_short or self.cut_short
        return outcome

    # ---- the bound

    def _relax(self) -> frozenset[Slot]:
        """Bound all plans by the relaxation with every rerun that may be worth it; the reruns it uses."""
        original = _without_store(self.incumbent.problem)
        reruns = worthwhile_reruns(original)
        bundled, bundles = Bundle(proportional=True).apply(original)
        # Parts of a bundle are no whole numbers: rows for those hold for tensors only.
        is_whole = bundles.all_single or self._has_time_to_relax(original, reruns)
        problem = original if is_whole else bundled
        if not self._has_time_to_relax(problem, reruns):
            return frozenset()
        end_s = self.clock() + self._left_s() * BOUND_SHARE
        form = relaxation(problem, reruns)
        begun_s = self.clock()
        outcome = self._relaxed(form, end_s)
        if outcome.verdict is Verdict.INFEASIBLE and self.incumbent.plan is None:
            raise self._infeasible()
        used = _used(form)
        for _ in range(ROUNDINGS if is_whole else 0):
            rows = list(rounding_rows(form)) if outcome.verdict is Verdict.OPTIMAL else []
            is_slow = self.clock() - begun_s > ROUNDING_SHARE * self._left_s()
            if not rows or (is_slow and len(rows) < FEW_ROWS) or self._done():
                break
            begun_s = self.clock()
            for row in rows:
                form.model.addConstraint(row)
            outcome = self._relaxed(form, end_s)
            used = _used(form) or used
        return used

    def _has_time_to_relax(self, problem: Problem, reruns: frozenset[Slot]) -> bool:
        touches = _touches(problem, reruns)
        return touches <= MOST_TOUCHES and touches * TOUCH_S <= self._left_s() * BOUND_SHARE

    def _relaxed(self, form: Formulation, end_s: float) -> Outcome:
        limit_s = max(end_s - self.clock(), 0.1)
        outcome = self._minimize(form, time_limit_s=limit_s, relaxed=True)
        if outcome.bound is not None:
            self._note_bound(outcome.bound)
        return outcome

    def _note_bound(self, objective: float) -> None:
        self.incumbent.raise_bound(energy_of(self.incumbent.problem, objective))

    # ---- where there is no plan

    def no_plan_in_time(self) -> NoPlanInTime:
        """Why there is no plan, though none was proven impossible."""
        why = self.cut_short or "the time limit ended"
        return NoPlanInTime(f"{why} before a plan was found: give more time, RAM or deadline")

    def _infeasible(self) -> Infeasible:
        problem = self.incumbent.reduced
        floors, budget = floor(problem), problem.budget
        fastest_s = self._least_time_s() if budget.time_s is not None else None
        if fastest_s is None:
            return Infeasible(
                f"no plan fits {budget.ram_bytes} bytes of RAM: the floor of {floors.ram_bytes} bytes "
                f"({floors.operator}) is reached only where all tensors may be paged and the page store "
                f"(limit: {budget.page_store_bytes}) holds them; allow more RAM or page store",
                floor_bytes=floors.ram_bytes,
                operator=floors.operator,
            )
        return Infeasible(
            f"no plan within {budget.ram_bytes} bytes of RAM meets the deadline of "
            f"{budget.time_s:.6g} s; the fastest found takes {fastest_s:.6g} s: "
            "allow that much time or more RAM",
            floor_bytes=floors.ram_bytes,
            operator=floors.operator,
            least_time_s=fastest_s,
        )

    def _least_time_s(self) -> float | None:
        problem = self.incumbent.reduced
        patient = _patient(problem)
        small = len(problem.graph.operators) <= COMPLETE_OPERATORS
        reruns = all_reruns(problem.graph) if small else _near(patient, ROUNDS[0])
        form = formulate(patient, reruns, minimize_time=True)
        outcome = self._minimize(form, time_limit_s=self._left_s(), gap=1e-6)
        if outcome.verdict not in (Verdict.OPTIMAL, Verdict.FEASIBLE):
            return None
        return replay(decode(form), patient).time_s


def ways_to_hide(problem: Problem) -> tuple[Serial, ...]:
    """What to try so that paging hides behind compute, on a device where it can."""
    return WAYS_TO_HIDE if problem.costs.overlap else ALONE


def _terms(problem: Problem, reruns: frozenset[Slot]) -> int:
    """At most so many terms stand in a program's rows of RAM: every tensor in every slot."""
    graph = problem.graph
    return (len(graph.operators) + len(reruns)) * len(graph.tensors)


def _touches(problem: Problem, reruns: frozenset[Slot]) -> int:
    """How often a slot reads or computes a tensor."""
    touches = [len(op.inputs) + len(op.outputs) for op in problem.graph.operators]
    return sum(touches) + sum(touches[slot.operator] for slot in reruns)


def _store_rows_are_exact(problem: Problem) -> bool:
    """Whether the program's rows of the page store say what the law says: all copies fit, or none does."""
    limit = problem.budget.page_store_bytes
    sizes = [t.size_bytes for t in problem.graph.tensors if t.pageable and t.size_bytes]
    return limit is None or sum(sizes) <= limit or limit < min(sizes)


def _without_store(problem: Problem) -> Problem:
    """The problem without a limit on page copies: its rows would leave out plans whose copies come and go."""
    return replace(problem, budget=replace(problem.budget, page_store_bytes=None))


def _used(form: Formulation) -> frozenset[Slot]:
    """Where the relaxation runs operators; nowhere if it was not solved."""
    runs = zip(form.run, form.timeline.slots, strict=True)
    return frozenset(slot for term, slot in runs if value_of(term) > LEAST_USE)


def _patient(problem: Problem) -> Problem:
    """The problem without its deadline."""
    return replace(problem, budget=replace(problem.budget, time_s=None))


def _near(problem: Problem, reach: tuple[int, float]) -> frozenset[Slot]:
    depth, dearest = reach
    return near_reruns(problem, depth=depth, dearest=dearest)


def _tightened(problem: Problem, plan: Plan) -> Problem | None:
    """The problem with a budget smaller by what the plan exceeds it; None if it does not."""
    excess_bytes = replay(plan, problem).peak_bytes - problem.budget.ram_bytes
    if excess_bytes <= 0:
        return None
    smaller = replace(problem.budget, ram_bytes=problem.budget.ram_bytes - excess_bytes)
    return replace(problem, budget=smaller)
