"""What one training step by a plan charges, whether the interpreter trains or plain PyTorch in its place."""

from __future__ import annotations

from dataclasses import dataclass

from scheduler import replay

from .prepare import Prepared
from .undo import changed_in_ram, shared_out


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCharge:
    """`replay`'s figures of one step by a plan on a device. Numbers only: it crosses processes as it is.

    `predicted_peak_bytes` has the `undo_ram_bytes` of copies by which a step can be undone. `recomputed`
    counts operator runs beyond the first.
    """

    device: str
    examples: int
    ram_budget_bytes: int
    predicted_peak_bytes: int
    undo_ram_bytes: int
    time_s: float
    energy_j: float
    paged_out_bytes: int
    paged_in_bytes: int
    recomputed: int


def step_charge(prepared: Prepared) -> StepCharge:
    """The charge of a prepared step."""
    problem, plan, program = prepared.problem, prepared.solution.plan, prepared.traced.program
    used, budget_bytes = replay(plan, problem), problem.budget.ram_bytes
    changed = changed_in_ram(problem.graph, frozenset(plan.paged_at_start))
    sizes = {k: program.layouts[k].ram_bytes for k in changed}
    copied, _ = shared_out(sizes, budget_bytes - used.peak_bytes)
    undo_ram_bytes = sum(sizes[k] for k in copied)
    return StepCharge(
        device=prepared.device.name,
        examples=program.layouts[program.batch[0][1]].shape[0],
        ram_budget_bytes=budget_bytes,
        predicted_peak_bytes=used.peak_bytes + undo_ram_bytes,
        undo_ram_bytes=undo_ram_bytes,
        time_s=used.time_s,
        energy_j=used.energy_j,
        paged_out_bytes=used.page_out_bytes,
        paged_in_bytes=used.page_in_bytes,
        recomputed=len(used.recomputed),
    )
