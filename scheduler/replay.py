"""The one accountant: RAM, page store, time and energy at every step of a plan."""

from __future__ import annotations

from dataclasses import dataclass

from .graph import Graph
from .plan import Compute, Free, PageIn, PageOut, Plan, Step
from .problem import Cost, Problem


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """One step: RAM held while it runs, bytes in the page store after it, time and energy so far."""

    step: Step
    ram_bytes: int
    page_store_bytes: int
    time_s: float
    energy_j: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """What a plan uses. `recomputed` lists the operator of every run beyond the first."""

    frames: tuple[Frame, ...]
    start_bytes: int
    peak_bytes: int
    page_store_peak_bytes: int
    time_s: float
    energy_j: float
    page_in_bytes: int
    page_out_bytes: int
    recomputed: tuple[int, ...]


def resident_at_start(graph: Graph, paged_at_start: tuple[int, ...]) -> set[int]:
    """Tensors in RAM when a step begins: the batch, and the persistent tensors that live in RAM."""
    return {t.id for t in graph.tensors if graph.is_source(t.id)}.difference(paged_at_start)


def resident_at_end(graph: Graph, paged_at_start: tuple[int, ...]) -> set[int]:
    """Tensors in RAM when a step ends: the results, and the persistent tensors that live in RAM."""
    persistent = {t.id for t in graph.tensors if graph.is_persistent(t.id)}
    return persistent.difference(paged_at_start).union(graph.results)


def replay(plan: Plan, problem: Problem) -> Replay:
    """Walk a plan and charge every step. Says nothing about validity: that is `check`'s."""
    graph, costs = problem.graph, problem.costs
    size = [t.size_bytes for t in graph.tensors]
    last_page_in = {s.tensor: n for n, s in enumerate(plan.steps) if isinstance(s, PageIn)}
    resident = resident_at_start(graph, plan.paged_at_start)
    stored = set(plan.paged_at_start)
    ram = start = sum(size[k] for k in resident)
    store = store_peak = sum(size[k] for k in stored)
    time_s = energy_j = 0.0
    moved_in = moved_out = 0
    runs: set[int] = set()
    recomputed: list[int] = []
    frames: list[Frame] = []
    peak = start
    for position, step in enumerate(plan.steps):
        during = ram
        cost: Cost | None = None
        match step:
            case Compute(operator):
                op = graph.operators[operator]
                new = [k for k in op.outputs if k not in resident]
                resident.update(new)
                ram += sum(size[k] for k in new)
                during = ram + op.workspace_bytes
                cost = costs.operators[operator]
                if operator in runs:
                    recomputed.append(operator)
                runs.add(operator)
            case Free(tensor):
                ram -= size[tensor] if tensor in resident else 0
                resident.discard(tensor)
                during = ram
            case PageOut(tensor):
                cost = costs.page_out[tensor]
                moved_out += size[tensor]
                store += size[tensor] if tensor not in stored else 0
                stored.add(tensor)
                store_peak = max(store_peak, store)
            case PageIn(tensor):
                cost = costs.page_in[tensor]
                moved_in += size[tensor]
                ram += size[tensor] if tensor not in resident else 0
                resident.add(tensor)
                during = ram
                lasting = tensor in plan.paged_at_start
                if last_page_in[tensor] == position and tensor in stored and not lasting:
                    stored.remove(tensor)
                    store -= size[tensor]
        if cost is not None:
            time_s += cost.time_s
            energy_j += costs.total_j(cost)
        peak = max(peak, during)
        frames.append(
            Frame(
                step=step,
                ram_bytes=during,
                page_store_bytes=store,
                time_s=time_s,
                energy_j=energy_j,
            )
        )
    return Replay(
        frames=tuple(frames),
        start_bytes=start,
        peak_bytes=peak,
        page_store_peak_bytes=store_peak,
        time_s=time_s,
        energy_j=energy_j,
        page_in_bytes=moved_in,
        page_out_bytes=moved_out,
        recomputed=tuple(recomputed),
    )
