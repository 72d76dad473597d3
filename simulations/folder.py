"""The run folder: written aside and renamed, so that it is there whole or not at all."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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
    if folder.exists() and not (folder / "metrics.jsonl").is_file() and any(folder.iterdir()):
        raise BadInput(f"{folder} is not a run folder, so it is not overwritten; name another")


def write_run(result: Result, folder: Path, overwrite: bool = False) -> None:
    """Write model, metrics, config, plans and report."""
    require_free(folder, overwrite)
    with _aside(folder) as draft:
        arrays = {name: np.ascontiguousarray(value) for name, value in result.arrays.items()}
        (draft / "model.safetensors").write_bytes(save(arrays))
        lines = (json.dumps(record.as_dict(), allow_nan=False) for record in result.rounds)
        (draft / "metrics.jsonl").write_text("\n".join(lines) + "\n")
        (draft / "config.json").write_text(json.dumps(dict(result.config), indent=2) + "\n")
        plans = draft / "plans"
        plans.mkdir()
        for plan in result.plans:
            write_plan(plan.prepared.solution.plan, plans / f"{plan.kind.name}.json")
            write_problem(plan.prepared.problem, plans / f"{plan.kind.name}.problem.json")
        (draft / "report.html").write_text(report_html(result), encoding="utf-8")


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
