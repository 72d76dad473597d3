"""Training on one device alone, without a federation."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from scheduler import DeviceProfile
from scheduler.errors import BadInput

from .state import score
from .trainer import Prepared, TrainReport, prepare, train
from .workload import Workload, batches


@dataclass(frozen=True, kw_only=True)
class LocalOutcome:
    """The trained model, what training took, and the model's scores on the held-out examples."""

    model: torch.nn.Module
    prepared: Prepared
    report: TrainReport
    scores: dict[str, float]


def train_locally(
    workload: Workload,
    device: DeviceProfile,
    *,
    partition: int = 0,
    ram_bytes: int | None = None,
    deadline_factor: float | None = None,
    time_limit_s: float = 60.0,
    seed: int = 0,
    on_step: Callable[[int, int, float], None] | None = None,
) -> LocalOutcome:
    """Train a fresh model on one partition; `on_step` gets steps done, steps in all, and the loss.

    Raises what `prepare` and `train` raise. torch's global generator is left as it was.
    """
    if not 0 <= seed < 2**63:
        raise BadInput(f"seed must be 0 or more and less than 2**63, not {seed}")
    examples = workload.examples(partition)
    size = workload.batch_size
    if len(examples) < size:
        raise BadInput(
            f"partition {partition} has {len(examples)} examples, fewer than a batch of {size}"
        )
    total = workload.local_epochs * (len(examples) // size)

    def stepped(done: int, loss: float) -> None:
        if on_step is not None:
            on_step(done, total, loss)

    with (
        torch.random.fork_rng(devices=[]),
        tempfile.TemporaryDirectory(prefix="fedpoet-") as folder,
    ):
        torch.manual_seed(seed)
        model = workload.model()
        model.train()
        optimizer = workload.optimizer(model.parameters())
        prepared = prepare(
            model,
            workload.loss,
            optimizer,
            (examples.x[:size], examples.y[:size]),
            device=device,
            ram_bytes=ram_bytes,
            deadline_factor=deadline_factor,
            time_limit_s=time_limit_s,
        )
        order = np.random.default_rng(seed)
        report = train(
            prepared,
            model,
            optimizer,
            batches(examples, size, workload.local_epochs, order),
            Path(folder) / "store.pages",
            stepped,
        )
        scores = score(workload, model, workload.test())
    return LocalOutcome(model=model, prepared=prepared, report=report, scores=scores)
