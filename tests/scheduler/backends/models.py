"""Small programs with known answers, and hard ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pulp

ASKED: dict[str, Any] = {"start": None, "time_limit_s": 30.0, "gap": 1e-9}


def knapsack() -> pulp.LpProblem:
    """Most value within weight 6: the last of values 4, 5, 6 and weights 3, 4, 5. Relaxed: 7.75."""
    model = pulp.LpProblem("knapsack", pulp.LpMinimize)
    take = [model.add_variable(f"take{n}", cat=pulp.LpBinary) for n in range(3)]
    model.setObjective(pulp.lpSum(-v * t for v, t in zip((4, 5, 6), take, strict=True)))
    model.addConstraint(pulp.lpSum(w * t for w, t in zip((3, 4, 5), take, strict=True)) <= 6)
    return model


def packing(columns: int, rows: int) -> pulp.LpProblem:
    """A knapsack with many limits: 40 by 10 takes a moment, 300 by 30 more than a day."""
    random = np.random.default_rng(7)
    model = pulp.LpProblem("packing", pulp.LpMinimize)
    take = [model.add_variable(f"take{n:03}", cat=pulp.LpBinary) for n in range(columns)]
    value = random.integers(5, 50, columns).tolist()
    model.setObjective(pulp.LpAffineExpression(list(zip(take, (-v for v in value), strict=True))))
    for _ in range(rows):
        weights = random.integers(5, 50, columns).tolist()
        row = pulp.LpAffineExpression(list(zip(take, weights, strict=True)))
        model.addConstraint(row <= sum(weights) // 3)
    return model
