"""The search for a good plan and for its proof: which programs are solved, in which order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

from .backends import Verdict
from .bound import branch, relax
from .explore import explore
from .impossible import infeasible
from .moments import moment_bound_j
from .plan import PageIn, PageOut
from .problem import Problem
from .programs import COMPLETE_OPERATORS, Programs
from .reductions.restrict import WithoutPaging
from .reductions.serial import Serial
from .reruns import NEAR, Reach, all_reruns, near_reruns
from .timeline import Slot

# A problem, original or reduced, and the reruns that its program is to offer.
_Offer: TypeAlias = tuple[Problem, frozenset[Slot]]

# Shares of the time that is left: for a first plan where none is known, for one program that proves where
# others find, for a program without paging, for the smallest program with it, and for one with the
# relaxation's reruns alone, where every other would be large.
FIRST_SHARE = 0.25
COMPLETE_SHARE = 0.5
NARROW_SHARE = 0.2
SMALL_SHARE = 0.4
USED_SHARE = 0.8
# Programs for finding plans, from small to large.
SMALL = Reach(depth=4, dearest=0.5)
SMALL_RERUNS = 3  # per operator; a first program with more would not be solved soon
ROUNDS = (NEAR, Reach(depth=6, dearest=3.0), Reach(depth=12, dearest=10.0))
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
# A first program, where no plan is known, may have this many terms in its rows of RAM.
UNPLANNED_TERMS = 16_000_000


def improve(programs: Programs) -> None:
    """Better plans and a better bound, until the gap, the time limit or Ctrl-C.

    Raises:
        Infeasible: no plan keeps the budget.
    """
    original = programs.incumbent.problem
    programs.incumbent.raise_bound(moment_bound_j(original))
    if programs.is_done():
        return
    small = len(original.graph.operators) <= COMPLETE_OPERATORS
    ways = ways_to_hide(original)
    for problem, reruns in _complete(programs) if small else _growing(programs):
        for left, way in zip(range(len(ways), 0, -1), ways, strict=True):
            if programs.is_done() or not programs.has_time_for(problem, reruns):
                return
            # A program that ends early leaves its time to the next; one that does not is large enough.
            programs.find(way.apply(problem)[0], reruns, 1 / left)


def ways_to_hide(problem: Problem) -> tuple[Serial, ...]:
    """What to try so that paging hides behind compute, on a device where it can."""
    return WAYS_TO_HIDE if problem.costs.overlap else ALONE


def _explore(programs: Programs) -> None:
    """A first plan that the limit of the page store allows, or the proof that there is none."""
    end_s = programs.clock() + programs.left_s() * FIRST_SHARE
    explored = explore(programs.incumbent.problem, lambda: programs.clock() > end_s)
    if explored.plan is not None:
        programs.incumbent.offer(explored.plan)
    elif explored.all_seen:
        raise infeasible(programs)


def _complete(programs: Programs) -> Iterator[_Offer]:
    """One program that offers every rerun: the proof and, where nothing overlaps, the best plan."""
    incumbent, original = programs.incumbent, programs.incumbent.problem
    reruns = all_reruns(original.graph)
    overlap = original.costs.overlap
    exact = _store_rows_are_exact(original)
    if incumbent.plan is None and not exact:
        _explore(programs)
    outcome = programs.find(original, reruns, 1.0 if exact and not overlap else COMPLETE_SHARE)
    if not exact:
        if programs.is_done():
            return
        if outcome.verdict is Verdict.INFEASIBLE:
            programs.cut_short = "the programs, which cannot let page copies come and go, ended"
        share = COMPLETE_SHARE if overlap else 1.0
        outcome = programs.find(original, reruns, share, loose_store=True)
    programs.note_bound(outcome)
    if incumbent.plan is None and outcome.verdict is Verdict.INFEASIBLE:
        raise infeasible(programs)
    if overlap and not incumbent.is_within(CLOSE):
        yield original, reruns


def _growing(programs: Programs) -> Iterator[_Offer]:
    """The relaxation of that program for the bound; plans from programs that offer few reruns."""
    original, reduced = programs.incumbent.problem, programs.incumbent.reduced
    if programs.incumbent.plan is None:
        near = near_reruns(reduced, NEAR)
        if programs.has_time_for(reduced, near, UNPLANNED_TERMS):
            programs.find(ALONE[0].apply(reduced)[0], near, FIRST_SHARE)
    used = relax(programs)
    if not programs.is_done():
        _find_unpaged(programs, reduced)
    small, share = near_reruns(reduced, SMALL), SMALL_SHARE
    way = ways_to_hide(reduced)[0].apply(reduced)[0]
    if len(small) > SMALL_RERUNS * len(reduced.graph.operators):
        small, share = used, USED_SHARE
    if small and not programs.is_done() and programs.has_time_for(way, small):
        programs.find(way, small, share)
    for reach in ROUNDS:
        yield reduced, used | near_reruns(reduced, reach)
    if len(reduced.graph.tensors) < len(original.graph.tensors):
        yield original, used | near_reruns(original, NEAR)
    # With all plans found that small programs find, the whole one.
    branch(programs)


def _find_unpaged(programs: Programs, problem: Problem) -> None:
    """Where recomputing alone will do, a program that knows nothing else is solved sooner."""
    reruns = near_reruns(problem, NEAR)
    if not programs.has_time_for(problem, reruns):
        return
    narrow, inverse = WithoutPaging().apply(problem)
    start = programs.incumbent.start_for(problem)
    pages = start is not None and any(isinstance(s, PageIn | PageOut) for s in start.steps)
    end_s = programs.clock() + programs.left_s() * NARROW_SHARE
    _, plan = programs.solved_from(narrow, reruns, None if pages else start, end_s)
    if plan is not None:
        programs.incumbent.offer(WithoutPaging().invert(plan, inverse))


def _store_rows_are_exact(problem: Problem) -> bool:
    """Whether the program's rows of the page store say what the law says: all copies fit, or none does."""
    limit = problem.budget.page_store_bytes
    sizes = [t.size_bytes for t in problem.graph.tensors if t.pageable and t.size_bytes]
    return limit is None or sum(sizes) <= limit or limit < min(sizes)
