"""POET's mixed-integer linear program, over runs, retention and paging. FORMULATION.md explains it."""

from __future__ import annotations

from collections.abc import Iterable

from .charges import objective
from .constraints import (
    deadline,
    homes,
    inputs_resident,
    one_copy_in_ram,
    page_copies,
    ram,
    retention,
    retention_from_page,
    step_time,
)
from .problem import Problem
from .store import page_store, ram_and_store
from .timeline import Slot, timeline
from .variables import Formulation, variables_of


def formulate(
    problem: Problem,
    reruns: Iterable[Slot],
    *,
    minimize_time: bool = False,
    loose_store: bool = False,
) -> Formulation:
    """Build the program; with `minimize_time` the deadline is left out and time is the objective.

    With `loose_store` the limit of the page store is kept only as far as it binds every plan, so that the
    bound holds for all; a solution may break it.

    A plan may use the given reruns and no others, so the program's bound holds for all plans only if
    every useful rerun is given.
    """
    form = variables_of(problem, timeline(problem.graph, reruns))
    for rows in (
        inputs_resident(form),
        retention(form),
        retention_from_page(form),
        one_copy_in_ram(form),
        page_copies(form),
        homes(form),
        ram(form),
        ram_and_store(form) if loose_store else page_store(form),
        step_time(form),
        () if minimize_time else deadline(form),
    ):
        for row in rows:
            form.model.addConstraint(row)
    form.model.setObjective(objective(form, minimize_time))
    return form
