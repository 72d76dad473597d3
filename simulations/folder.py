"""The run folder: written as the run goes on under a draft's name, and renamed when all of it is there.

What is in it: docs/simulator.md. A run that was stopped is taken up again from the draft's checkpoint.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from protos.arrays import encode_arrays, write_arrays
from protos.files import write_atomically, write_plan, write_problem
from scheduler.errors import BadInput
from server.updates import Arrays

from .census import Count
from .results import KindPlan, LeftOut, RoundRecord, facts

UNFINISHED = ".unfinished"
METRICS, JOURNEYS, CHECKPOINT = "metrics.jsonl", "journeys.bin", "checkpoint.safetensors"
CONFIG, KINDS, DEVICES = "config.json", "kinds.json", "devices.npy"
STATE = "state"  # the array of the checkpoint that holds all that is not an array
MODEL, REPORT, PLANS = "model.safetensors", "report.html", "plans"


def draft_of(folder: Path) -> Path:
    """Where a run is written before it is finished; `folder` may be named either way."""
    folder = folder if folder.name else folder.absolute()
    if folder.name.endswith(UNFINISHED):
        return folder
    return folder.with_name(folder.name + UNFINISHED)


def named(folder: Path) -> Path:
    """The name that a run folder has or will have; `folder` may be named either way."""
    return folder.with_name(folder.name.removesuffix(UNFINISHED))


def free_folder(runs: Path, name: str) -> Path:
    """The first of runs/NAME-1, runs/NAME-2, ... that is neither there nor being written."""
    number = 1
    while (folder := runs / f"{name}-{number}").exists() or draft_of(folder).exists():
        number += 1
    return folder


def require_free(folder: Path, overwrite: bool) -> None:
    """Raise BadInput when the folder cannot be written; asked before the run, not after it."""
    if folder.exists() and not overwrite:
        raise BadInput(f"{folder} exists already; name another with --out, or add --overwrite")
    if folder.exists() and not (folder.is_dir() and _is_run_or_empty(folder)):
        raise BadInput(f"{folder} is not a run folder, so it is not overwritten; name another")
    there = _there(folder)
    if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
        raise BadInput(f"{folder} cannot be made in {there}; name another with --out")
    if draft_of(folder).exists() and not overwrite:
        raise BadInput(
            f"{draft_of(folder)} is a run that was stopped: go on with `fedpoet simulate --resume {folder}`, "
            "name another with --out, or add --overwrite"
        )


def _is_run_or_empty(folder: Path) -> bool:
    return (folder / METRICS).is_file() or not any(folder.iterdir())


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """How much of the files that grow belongs to a checkpoint; what is beyond was written after it."""

    metrics_bytes: int = 0
    journeys_bytes: int = 0


class Draft:
    """A run folder that is being written; `begun` and `taken_up` make it. Raises BadInput on a full disk.

    `there` is the folder around it that nobody made for it.
    """

    def __init__(self, folder: Path, lock: int, there: Path) -> None:
        self.folder, self.path, self._lock = folder, draft_of(folder), lock
        self._finished, self._there = False, there
        self._metrics = (self.path / METRICS).open("ab")
        self._journeys = (self.path / JOURNEYS).open("ab")

    @property
    def checkpoint(self) -> Path:
        """Where the state after some round is, if there is one."""
        return self.path / CHECKPOINT

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Write the settings, now that they are complete."""
        with told(self.folder):
            _write_json(self.path / CONFIG, config)

    def write_fleet(
        self,
        plans: Sequence[KindPlan],
        left_out: Sequence[LeftOut],
        devices: NDArray[np.void],
        smaller: Sequence[Count] = (),
    ) -> None:
        """Write who takes part by which plan, and who could at `smaller` batches.

        `devices` is of dtype DEVICE.
        """
        with told(self.folder):
            (self.path / PLANS).mkdir(exist_ok=True)
            for plan in plans:
                write_plan(plan.plan, self.path / PLANS / f"{plan.name}.json")
                write_problem(plan.problem, self.path / PLANS / f"{plan.name}.problem.json")
            kinds = {
                "kinds": [asdict(facts(plan)) for plan in plans],
                "left_out": [asdict(left) for left in left_out],
                "smaller_batches": [asdict(count) for count in smaller],
            }
            _write_json(self.path / KINDS, kinds)
            np.save(self.path / DEVICES, devices, allow_pickle=False)

    def append(self, record: RoundRecord, rows: NDArray[np.void]) -> None:
        """Add a round, and its rows of dtype ROW."""
        with told(self.folder):
            self._journeys.write(rows.tobytes())
            self._journeys.flush()
            self._metrics.write(json.dumps(asdict(record), allow_nan=False).encode() + b"\n")
            self._metrics.flush()

    def save(self, arrays: Arrays, state: Mapping[str, Any]) -> None:
        """Replace the checkpoint; the rounds so far, which it builds on, reach the disk before it."""
        with told(self.folder):
            for file in (self._metrics, self._journeys):
                os.fsync(file.fileno())
            lengths = {
                "metrics_bytes": self._metrics.tell(),
                "journeys_bytes": self._journeys.tell(),
            }
            text = json.dumps({**state, "lengths": lengths}).encode()
            data = encode_arrays({**arrays, STATE: np.frombuffer(text, np.uint8)})
            write_atomically(self.checkpoint, data, durable=True)

    def cut(self, lengths: Lengths | None) -> None:
        """Forget rounds that were written after the checkpoint. Raises BadInput when some are missing."""
        lengths = lengths or Lengths()
        with told(self.folder):
            for file, size_bytes in (
                (self._metrics, lengths.metrics_bytes),
                (self._journeys, lengths.journeys_bytes),
            ):
                if Path(file.name).stat().st_size < size_bytes:
                    raise BadInput(
                        f"{file.name} is shorter than its checkpoint says; begin a new run"
                    )
                file.truncate(size_bytes)
                file.seek(0, os.SEEK_END)

    def finish(self, arrays: Arrays, report: str) -> None:
        """Write the model and the report, and give the folder its name."""
        with told(self.folder):
            write_arrays(arrays, self.path / MODEL)
            (self.path / REPORT).write_text(report, encoding="utf-8")
            self.checkpoint.unlink(missing_ok=True)
            self.close()
            if self.folder.exists():
                shutil.rmtree(self.folder)
            self.path.replace(self.folder)
            self._finished = True

    def close(self) -> None:
        """Let go of the files; the folder stays as it is."""
        for file in (self._metrics, self._journeys):
            file.close()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def give_up(self) -> None:
        """Close it; if the run is not finished and nothing could go on from it, remove it."""
        self.close()
        if not self._finished and not self.checkpoint.exists():
            shutil.rmtree(self.path, ignore_errors=True)
            with suppress(OSError):  # folders that were made for it, unless something is in them
                for made in takewhile(lambda p: p != self._there, self.path.absolute().parents):
                    made.rmdir()


@contextmanager
def told(folder: Path) -> Iterator[None]:
    """Turn the system's errors into BadInput."""
    try:
        yield
    except OSError as error:
        raise BadInput(
            f"{folder} cannot be written: {error.strerror}; make room or name another with --out"
        ) from error


def begun(folder: Path, config: Mapping[str, Any], overwrite: bool) -> Draft:
    """A new draft for `folder`. Raises BadInput when there is no room, or another run has it."""
    require_free(folder, overwrite)
    path = draft_of(folder)
    there = _there(path)
    with told(folder):
        if overwrite and path.exists():
            os.close(_locked(path))
            shutil.rmtree(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir()
        _write_json(path / CONFIG, config)
        return Draft(folder, _locked(path), there)


def taken_up(folder: Path) -> Draft:
    """The draft of a run that was stopped. Raises BadInput when there is none, or when it still runs."""
    path, folder = draft_of(folder), named(folder)
    if not (path / CONFIG).is_file():
        what = "is finished" if (folder / MODEL).is_file() else "is no run that was stopped"
        raise BadInput(f"{folder} {what}; there is nothing to resume")
    with told(folder):
        return Draft(folder, _locked(path), path.absolute().parent)


def _there(folder: Path) -> Path:
    """The nearest folder around it that is there already."""
    return next(p for p in folder.absolute().parents if p.exists())


def _locked(path: Path) -> int:
    lock = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        raise BadInput(
            f"{path} is being written by another process; wait for it, or stop it"
        ) from error
    return lock


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")
