"""Optimal rematerialization only.

Jain et al.: *Checkmate: Breaking the Memory Wall with Optimal Tensor Rematerialization*, MLSys 2020,
arXiv:1910.02653.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from ..backends import Backend
from ..plan import Plan
from ..problem import Problem
from ..reductions import WithoutPaging
from .chen import chen
from .dtr import dtr
from .narrowed import best_narrowed


def checkmate(
    problem: Problem,
    *,
    time_limit_s: float = 60.0,
    gap: float = 1e-4,
    backend: Backend | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Plan | None:
    """The best plan found in the time limit that pages nothing.

    Checkmate's program minimizes time and counts only what operators compute; here it is this
    package's program with paging taken away, so that energy, deadline and all RAM count. It starts from
    the plans of `chen` and `dtr`.
    """
    return best_narrowed(
        problem,
        WithoutPaging(),
        (chen, dtr),
        time_limit_s=time_limit_s,
        gap=gap,
        backend=backend,
        clock=clock,
    )
