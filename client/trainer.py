"""Train by a plan, and report what that took."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import nn

from scheduler.errors import BadInput

from .batch import Batch
from .charge import StepCharge, step_charge
from .interpreter import Interpreter
from .mapped import SavingInterpreter
from .meter import NOT_ASKED, Meter, NoMeter, Tally
from .prepare import Prepared
from .stores import store_for


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainReport:
    """What training took. Time, energy and transfers are virtual: `replay`'s figures of the plan.

    `recomputed` counts operator runs beyond the first in one step. So that a failed step can be undone,
    `undo_ram_bytes` of the peak are copies in RAM that the plan leaves room for, and
    `undo_written_bytes` were really written; the plan's time and energy do not know of them.

    `measured_peak_bytes` is 0 where nothing was measured: plain PyTorch trained and the plan was charged,
    or the model is larger than the RAM.
    `metered_energy_j` is what a real meter counted meanwhile, idle power and other programs included, or
    None without one. `energy_source` says which meter that was, else why it is the profile's estimate.
    """

    steps: int
    examples: int
    mean_loss: float
    last_loss: float
    ram_budget_bytes: int
    predicted_peak_bytes: int
    measured_peak_bytes: int
    time_s: float
    energy_j: float
    paged_out_bytes: int
    paged_in_bytes: int
    recomputed: int
    undo_ram_bytes: int
    undo_written_bytes: int
    metered_energy_j: float | None
    energy_source: str


@contextlib.contextmanager
def opened(
    prepared: Prepared,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    store_path: Path,
    saved_to: Path | None = None,
) -> Iterator[Interpreter]:
    """An interpreter of the plan, open, with a page store such as the plan's device has.

    With `saved_to`, a SavingInterpreter that saves to that folder.
    """
    device = prepared.device
    kind = Interpreter if saved_to is None else partial(SavingInterpreter, folder=saved_to)
    with (
        store_for(
            prepared.traced.program.device,
            store_path,
            capacity_bytes=device.page_store_bytes,
            block_bytes=device.page_block_bytes,
        ) as store,
        kind(
            prepared.traced,
            prepared.problem,
            prepared.solution.plan,
            store,
            module,
            optimizer,
        ) as step,
    ):
        yield step


def train(
    prepared: Prepared,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Iterable[Batch],
    store_path: Path,
    on_step: Callable[[int, float], None] | None = None,
    meter: Meter | NoMeter = NOT_ASKED,
    saved_to: Path | None = None,
) -> TrainReport:
    """Train on the batches, one step each; `on_step` gets the step's number (from 1) and loss.

    The page store is made at `store_path`, where no file may be, and is gone afterwards. A loss that
    is not finite is reported as it is; training goes on. With `saved_to`, the result is files in that
    folder, as a SavingInterpreter writes them, and no peak is measured. Raises BadInput for no batch or
    one of another shape, PageStoreError, BudgetExceeded; steps done before that are kept.
    """
    losses: list[float] = []
    with opened(prepared, module, optimizer, store_path, saved_to) as step:
        tally = Tally(meter)
        for x, y in batches:
            losses.append(step(x, y))
            tally.read()
            if on_step is not None:
                on_step(len(losses), losses[-1])
    charge = step_charge(prepared)
    return report(
        charge,
        losses,
        measured_peak_bytes=step.measured_peak_bytes,
        undo_written_bytes=step.undo_written_bytes,
        metered_energy_j=tally.joules,
        energy_source=tally.source(f"the estimate of profile {charge.device}"),
    )


def report(
    charge: StepCharge,
    losses: Sequence[float],
    *,
    measured_peak_bytes: int = 0,
    undo_written_bytes: int = 0,
    metered_energy_j: float | None = None,
    energy_source: str | None = None,
) -> TrainReport:
    """The report of a training with these losses, one per step. Raises BadInput when there is none."""
    if not losses:
        raise BadInput("there is no batch to train on; give at least one")
    steps = len(losses)
    return TrainReport(
        steps=steps,
        examples=steps * charge.examples,
        mean_loss=math.fsum(losses) / steps,
        last_loss=losses[-1],
        ram_budget_bytes=charge.ram_budget_bytes,
        predicted_peak_bytes=charge.predicted_peak_bytes,
        measured_peak_bytes=measured_peak_bytes,
        time_s=charge.time_s * steps,
        energy_j=charge.energy_j * steps,
        paged_out_bytes=charge.paged_out_bytes * steps,
        paged_in_bytes=charge.paged_in_bytes * steps,
        recomputed=charge.recomputed,
        undo_ram_bytes=charge.undo_ram_bytes,
        undo_written_bytes=undo_written_bytes,
        metered_energy_j=metered_energy_j,
        energy_source=energy_source or f"the estimate of profile {charge.device}",
    )
