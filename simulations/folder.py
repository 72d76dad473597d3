"""The run folder: written aside and renamed, so that it is there whole or not at all."""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from protos.files import write_plan, write_problem
from scheduler.errors import BadInput

from .report import report_html
from .results import Result


def free_folder(runs: Path, name: str) -> Path:
    """The first of runs/NAME-1, runs/NAME-2, ... that does not exist."""
    number = 1
    while (folder := runs / f"{name}-{number}").exists():
        number += 1
    return folder


def require_free(folder: Path, overwrite: bool) -> None:
    """Raise BadInput when the folder cannot be written; asked before the run, not after it."""
    if folder.exists() and not overwrite:
        raise BadInput(f"{folder} exists already; name another with --out, or add --overwrite")
    if folder.exists() and not (folder.is_dir() and _is_run_or_empty(folder)):
        raise BadInput(f"{folder} is not a run folder, so it is not overwritten; name another")
    there = next(p for p in folder.absolute().parents if p.exists())
    if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
        raise BadInput(f"{folder} cannot be made in {there}; name another with --out")


def _is_run_or_empty(folder: Path) -> bool:
    return (folder / "metrics.jsonl").is_file() or not any(folder.iterdir())


def write_run(result: Result, folder: Path, overwrite: bool = False) -> None:
    """Write model, metrics, config, plans and report. Raises BadInput when there is no room."""
    require_free(folder, overwrite)
    try:
        _write(result, folder)
    except OSError as error:
        raise BadInput(
            f"{folder} cannot be written: {error.strerror}; nothing was kept, name another with --out"
        ) from error


def _write(result: Result, folder: Path) -> None:
    with _aside(folder) as draft:
        arrays = {name: np.ascontiguousarray(value) for name, value in result.arrays.items()}
        (draft / "model.safetensors").write_bytes(save(arrays))
        lines = (json.dumps(_finite(record.as_dict()), allow_nan=False) for record in result.rounds)
        (draft / "metrics.jsonl").write_text("\n".join(lines) + "\n")
        (draft / "config.json").write_text(json.dumps(dict(result.config), indent=2) + "\n")
        plans = draft / "plans"
        plans.mkdir()
        for plan in result.plans:
            write_plan(plan.prepared.solution.plan, plans / f"{plan.kind.name}.json")
            write_problem(plan.prepared.problem, plans / f"{plan.kind.name}.problem.json")
        (draft / "report.html").write_text(report_html(result), encoding="utf-8")


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity: a loss that is neither number becomes null."""
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextmanager
def _aside(folder: Path) -> Iterator[Path]:
    """A folder beside `folder` that takes its place when the block ends well, and is gone otherwise."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        yield draft
        draft.chmod(0o755)
        if folder.exists():
            shutil.rmtree(folder)
        draft.replace(folder)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
