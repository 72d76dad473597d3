"""Programs keep the time limit, whatever making them takes."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

import scheduler.programs
from scheduler import Budget, keep_all
from scheduler.backends import Highs, Outcome
from scheduler.backends.base import Report
from scheduler.backends.program import Floats, Program
from scheduler.formulation import formulate
from scheduler.incumbent import Incumbent
from scheduler.programs import Programs
from scheduler.variables import Formulation
from tests.scheduler.problems import chain


@dataclass(slots=True)
class Watched:
    """HiGHS, and the time limits that it was given."""

    name = "watched"
    limits_s: list[float]

    def run(
        self,
        program: Program,
        *,
        start: Floats | None,
        time_limit_s: float,
        gap: float,
        relaxed: bool = False,
        report: Report | None = None,
    ) -> Outcome:
        self.limits_s.append(time_limit_s)
        return Highs().run(
            program, start=start, time_limit_s=60.0, gap=gap, relaxed=relaxed, report=report
        )


def test_the_time_to_make_a_program_is_taken_from_its_solver(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now_s, problem = 100.0, replace(chain(), budget=Budget(ram_bytes=40))

    def slow(*args: object, **options: object) -> Formulation:
        nonlocal now_s
        now_s += 7.0
        return formulate(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(scheduler.programs, "formulate", slow)
    incumbent = Incumbent(
        problem=problem, reduced=problem, invert=lambda plan: plan, on_plan=lambda _: None
    )
    incumbent.offer(keep_all(problem))
    solver = Watched([])
    programs = Programs(
        incumbent=incumbent, backend=solver, gap=1e-4, clock=lambda: now_s, end_s=120.0
    )
    programs.find(problem, frozenset(), 0.5)
    assert incumbent.plan is not None
    (limit_s,) = solver.limits_s
    # Half of 20 s was for this program, and making it took 7 s.
    assert 0.0 < limit_s <= 3.0
