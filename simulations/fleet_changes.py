"""Changes to what a fleet's file says, before it is checked: values, and factors on those that are there."""

from __future__ import annotations

import re
from typing import Any

from scheduler.errors import BadFile

SIZED = ("value", "median", "low", "high", "levels")
"""What a factor changes of a number that differs from device to device; its spread and shares stay."""


def change(table: dict[str, Any], place: str, value: object, said: str) -> None:
    """Make one change to a file that was read: `value` as it is, or as `x0.5` a factor on what is there.

    `place` is names with dots between; `*` stands for every name. Raises BadFile, beginning with `said`.
    """
    factor = re.fullmatch(r"x(\d+(?:\.\d+)?)", value) if isinstance(value, str) else None
    if factor is None:
        _put(table, place.split("."), value, f"{said}: nothing to change at {place}")
    elif not _multiply(table, place.split("."), float(factor[1]), f"{said}: no number at {place}"):
        raise BadFile(f"{said}: nothing to multiply at {place}")


def _put(table: dict[str, Any], place: list[str], value: object, complaint: str) -> None:
    first, *rest = place
    for name in list(table) if first == "*" else [first]:
        if not rest:
            table[name] = value
        elif isinstance(below := table.setdefault(name, {}), dict):
            _put(below, rest, value, complaint)
        else:
            raise BadFile(complaint)


def _multiply(table: dict[str, Any], place: list[str], factor: float, complaint: str) -> int:
    """How many places it found; a kind that says nothing there stays as it is."""
    first, *rest = place
    names = [name for name in (list(table) if first == "*" else [first]) if name in table]
    if rest:
        below = (table[name] for name in names if isinstance(table[name], dict))
        return sum(_multiply(inner, rest, factor, complaint) for inner in below)
    for name in names:
        table[name] = _times(table[name], factor, complaint)
    return len(names)


def _times(value: Any, factor: float, complaint: str) -> Any:
    """A number, a list, or what a number of the file may say; whole numbers stay whole."""
    if isinstance(value, dict):
        return {k: _times(v, factor, complaint) if k in SIZED else v for k, v in value.items()}
    if isinstance(value, list):
        return [_times(v, factor, complaint) for v in value]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadFile(complaint)
    return round(value * factor) if isinstance(value, int) else value * factor
