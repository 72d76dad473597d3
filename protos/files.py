"""Plans as files, JSON or binary by the ending of the name; problems are JSON (`scheduler.files`)."""

from __future__ import annotations

from pathlib import Path

from scheduler import Plan, files
from scheduler.files import (
    read_bytes,
    read_problem,
    require_target,
    write_atomically,
    write_problem,
)

from .codec import decode_plan, encode_plan

__all__ = [
    "read_plan",
    "read_problem",
    "require_target",
    "write_atomically",
    "write_plan",
    "write_problem",
]

BINARY = ".pb"


def read_plan(path: Path) -> Plan:
    """A plan file, JSON or (name ending in .pb) binary; it still has to pass `scheduler.check`."""
    return decode_plan(read_bytes(path)) if path.suffix == BINARY else files.read_plan(path)


def write_plan(plan: Plan, path: Path) -> None:
    """Write a plan file, whole or not at all; binary when the name ends in .pb."""
    if path.suffix == BINARY:
        write_atomically(path, encode_plan(plan))
    else:
        files.write_plan(plan, path)
