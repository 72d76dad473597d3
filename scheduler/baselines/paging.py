"""Optimal paging only: what POET is without recomputing."""

from __future__ import annotations

import time
from collections.abc import Callable

from ..backends import Backend
from ..plan import Plan
from ..problem import Problem
from ..reductions import WithoutRecomputing
from .capuchin import capuchin
from .narrowed import best_narrowed
from .pofo import pofo


def paging(
    problem: Problem,
    *,
    time_limit_s: float = 60.0,
    gap: float = 1e-4,
    backend: Backend | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Plan | None:
    """The best plan found in the time limit in which every operator runs once.

    It starts from what `capuchin` and `pofo` plan where nothing may be recomputed.
    """
    return best_narrowed(
        problem,
        WithoutRecomputing(),
        (capuchin, pofo),
        time_limit_s=time_limit_s,
        gap=gap,
        backend=backend,
        clock=clock,
    )
