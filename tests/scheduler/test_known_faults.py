"""Problems whose programs a release of HiGHS has got wrong: a plan is called optimal only where it is."""

from __future__ import annotations

import pytest

from scheduler import Budget, Cost, CostTable, Graph, Kind, Operator, Problem, Status, Tensor, solve
from scheduler.backends import Highs
from scheduler.backends.base import minimize
from scheduler.charges import energy_of
from scheduler.formulation import formulate
from scheduler.reruns import all_reruns
from tests.scheduler.brute_force import least_energy_j


def problem(ram_bytes: int, sources: tuple[tuple[Kind, int], ...], *operators: Operator) -> Problem:
    """Operators that make one tensor each, of which only sources may be paged; everything costs 1 J."""
    made = tuple((Kind.ACTIVATION, op.flops) for op in operators if op.outputs)
    tensors = tuple(
        Tensor(id=k, name=f"t{k}", size_bytes=size, kind=kind, pageable=k < len(sources))
        for k, (kind, size) in enumerate((*sources, *made))
    )
    one = Cost(time_s=0.0, energy_j=1.0)
    each = (one,) * len(tensors)
    return Problem(
        graph=Graph(operators=operators, tensors=tensors),
        costs=CostTable(operators=(one,) * len(operators), page_in=each, page_out=each),
        budget=Budget(ram_bytes=ram_bytes),
    )


def operator(
    number: int,
    inputs: tuple[int, ...],
    outputs: tuple[int, ...],
    size: int = 0,
    mutates: tuple[int, ...] = (),
) -> Operator:
    """`size` is that of its output, which stands where its work would."""
    return Operator(
        id=number,
        name=f"op{number}",
        inputs=inputs,
        outputs=outputs,
        mutates=mutates,
        flops=size,
        recomputable=False,
    )


# 1.15.1: presolve makes the program empty and loses the optimum.
EMPTIED = problem(
    18,
    ((Kind.INPUT, 9), (Kind.PARAMETER, 1), (Kind.PARAMETER, 9)),
    operator(0, (), (3,), 1),
    operator(1, (), (4,), 1),
    operator(2, (1,), (5,), 1, mutates=(1,)),
    operator(3, (0,), (6,), 1),
)
# 1.16.0: the plan it starts from seems to cost nothing, so that it looks for no other.
MISREAD = problem(
    24,
    ((Kind.PARAMETER, 3), (Kind.PARAMETER, 2)),
    operator(0, (0,), (), mutates=(0,)),
    operator(1, (), (2,), 8),
    operator(2, (), (3,), 7),
    operator(3, (1,), (4,), 4),
    operator(4, (4, 2, 3), (5,), 1),
)


@pytest.mark.parametrize("wrong", [EMPTIED, MISREAD], ids=["emptied", "misread"])
def test_what_is_called_optimal_is(wrong: Problem) -> None:
    found = solve(wrong, gap=1e-7, backend=Highs())
    assert found.status is Status.OPTIMAL
    assert found.cost.energy_j == least_energy_j(wrong)


@pytest.mark.parametrize("wrong", [EMPTIED, MISREAD], ids=["emptied", "misread"])
def test_no_bound_is_above_the_optimum(wrong: Problem) -> None:
    form = formulate(wrong, all_reruns(wrong.graph))
    outcome = minimize(Highs(), form.model, start=None, time_limit_s=60.0, gap=0.0)
    best = least_energy_j(wrong)
    assert best is not None
    assert outcome.bound is not None
    assert energy_of(wrong, outcome.bound) <= best * (1 + 1e-6)
