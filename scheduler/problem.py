"""What is to be planned: a graph, what its steps cost, and the budget."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256

from .errors import BadGraph, BadInput
from .graph import Graph, digest


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Seconds and joules of one step; the joules leave out idle power, which is charged over time."""

    time_s: float
    energy_j: float

    def __post_init__(self) -> None:
        for value in (self.time_s, self.energy_j):
            if not (math.isfinite(value) and value >= 0):
                raise BadGraph(f"a cost must be finite and not negative, not {value}")


@dataclass(frozen=True, slots=True, kw_only=True)
class CostTable:
    """A cost per operator, and per tensor for moving it out of RAM and back; `idle_w` runs all the time.

    With `overlap`, compute, page-ins and page-outs run beside each other, one of each at a time.
    """

    operators: tuple[Cost, ...]
    page_in: tuple[Cost, ...]
    page_out: tuple[Cost, ...]
    idle_w: float = 0.0
    overlap: bool = False

    def total_j(self, cost: Cost) -> float:
        """Joules of a step, idle power included."""
        return cost.energy_j + self.idle_w * cost.time_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Limits of one training step: all RAM it uses, its duration, and its bytes in the page store."""

    ram_bytes: int
    time_s: float | None = None
    page_store_bytes: int | None = None

    def __post_init__(self) -> None:
        for name in ("ram_bytes", "time_s", "page_store_bytes"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise BadInput(f"budget: {name} must be 0 or more, not {value}")


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Graph, costs and budget. Raises BadGraph when the cost table is not of the graph's size."""

    graph: Graph
    costs: CostTable
    budget: Budget

    def __post_init__(self) -> None:
        want = (len(self.graph.operators), len(self.graph.tensors), len(self.graph.tensors))
        got = (len(self.costs.operators), len(self.costs.page_in), len(self.costs.page_out))
        if got != want:
            raise BadGraph(
                f"the cost table has {got} entries (operators, page_in, page_out); the graph needs {want}"
            )
        if not (math.isfinite(self.costs.idle_w) and self.costs.idle_w >= 0):
            raise BadGraph(f"idle_w must be finite and not negative, not {self.costs.idle_w}")

    @cached_property
    def digest(self) -> str:
        """SHA-256 of graph, costs and budget, in hex: the key under which a plan may be kept."""
        costs = self.costs
        tables = (costs.operators, costs.page_in, costs.page_out)
        numbers = [n for table in tables for cost in table for n in (cost.time_s, cost.energy_j)]
        packed = struct.pack(f"<{len(numbers)}d", *numbers)
        return digest(
            {
                "graph": self.graph.digest,
                "costs": sha256(packed).hexdigest(),
                "idle_w": costs.idle_w,
                "overlap": costs.overlap,
                "budget": self.budget,
            }
        )

    @property
    def compute_once(self) -> Cost:
        """Running every operator once and paging nothing, idle power included: no plan costs less."""
        time_s = math.fsum(c.time_s for c in self.costs.operators)
        energy_j = math.fsum(self.costs.total_j(c) for c in self.costs.operators)
        return Cost(time_s=time_s, energy_j=energy_j)
