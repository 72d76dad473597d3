"""Training on one device alone, without a federation."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Unpack

import numpy as np
import torch

from scheduler import DeviceProfile, PlanCache
from scheduler.errors import BadInput

from .mapped import MODEL_FILE, mapped
from .meter import NOT_ASKED, Meter, NoMeter
from .page_store import unused_path
from .prepare import Prepared, Terms, planned, pose
from .state import score
from .trainer import TrainReport, train
from .workload import Workload, batches


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """For a model larger than the RAM: the file that it starts from, and the folder it is saved to.

    The folder, which must exist, also has the page store while training runs: it should be on storage.
    """

    start: Path
    trained: Path


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
    time_limit_s: float = 60.0,
    seed: int = 0,
    on_step: Callable[[int, int, float], None] | None = None,
    cache: PlanCache | None = None,
    meter: Meter | NoMeter = NOT_ASKED,
    files: Files | None = None,
    **terms: Unpack[Terms],
) -> LocalOutcome:
    """Train a fresh model on one partition; `on_step` gets steps done, steps in all, and the loss.

    A plan that `cache` knows is not searched for again. `terms` are `pose`'s, `meter` is `train`'s.
    With `files`, the model is never in RAM as a whole: it starts from one file, and the model that
    comes back has its tensors in another.

    Raises what `pose`, `planned`, `train` and `mapped` raise. torch's global generator is left as it was.
    """
    if not 0 <= seed < 2**63:
        raise BadInput(f"seed must be 0 or more and less than 2**63, not {seed}")
    build = workload.model
    if files is not None:
        workload = replace(workload, model=partial(mapped, build, files.start))
    posed = pose(workload, device, partition=partition, **terms)
    prepared = planned(posed, time_limit_s=time_limit_s, cache=cache)
    examples = workload.training_examples(partition)
    total = workload.local_epochs * (len(examples) // workload.batch_size)

    def stepped(done: int, loss: float) -> None:
        if on_step is not None:
            on_step(done, total, loss)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = workload.model()
        model.train()
        optimizer = workload.optimizer(model.parameters())
        with _explained():
            report = train(
                prepared,
                model,
                optimizer,
                batches(examples, workload, np.random.default_rng(seed)),
                unused_path(None if files is None else files.trained),
                stepped,
                meter,
                None if files is None else files.trained,
            )
        if files is not None:
            model = mapped(build, files.trained / MODEL_FILE)
        scores = score(workload, model, workload.test())
    return LocalOutcome(model=model, prepared=prepared, report=report, scores=scores)


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    """What torch says of data it cannot train on, as one line."""
    try:
        yield
    except (IndexError, RuntimeError, ValueError) as error:
        line = " ".join(str(error).split())
        raise BadInput(
            f"a training step failed: {type(error).__name__}: {line}; check the workload's data "
            "(targets within range?) and model"
        ) from error
