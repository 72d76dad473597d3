"""A run as event files for TensorBoard. Its wall time is virtual time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from scheduler.errors import BadInput

from .reading import Run
from .results import RoundRecord


def write_events(run: Run, folder: Path) -> None:
    """Write a run's rounds into a folder, which must be empty or new. Raises BadInput."""
    try:
        from torch.utils.tensorboard.writer import SummaryWriter
    except ImportError as error:
        raise BadInput(
            "the package tensorboard is not installed: pip install 'fedpoet[tensorboard]'"
        ) from error
    try:
        if folder.exists() and any(folder.iterdir()):
            raise BadInput(f"{folder} is not empty; name another with --out")
        with SummaryWriter(str(folder)) as writer:
            for record in run.rounds:
                for name, value in _scalars(record):
                    writer.add_scalar(name, value, record.round, walltime=record.end_s)
    except OSError as error:
        raise BadInput(f"{folder} cannot be written: {error.strerror}") from error


def _scalars(record: RoundRecord) -> Iterator[tuple[str, float]]:
    if record.accuracy is not None:
        yield "test/accuracy", record.accuracy
    if record.loss is not None:
        yield "test/loss", record.loss
    if not record.round:
        return
    yield "round/seconds", record.end_s - record.start_s
    yield "round/devices_online", record.online
    yield "round/devices_asked", record.asked
    yield "round/updates_used", record.aggregated
    yield "round/skipped", float(record.skipped is not None)
    yield "sent/down_bytes", record.bytes_down
    yield "sent/up_bytes", record.bytes_up
    yield "energy/joules", record.energy_j
    for kind in record.kinds:
        yield f"energy_per_message_j/{kind.kind}", kind.energy_j / kind.rows
        yield f"battery_after/{kind.kind}", kind.battery
