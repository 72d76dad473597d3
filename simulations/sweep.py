"""Runs that differ in a few settings: every combination of some values, each in a run folder of its own."""

from __future__ import annotations

import csv
import io
import itertools
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from scheduler.errors import (
    BadFile,
    BadInput,
    BadUpdate,
    Infeasible,
    NoPlanInTime,
    RunFailed,
    UnknownName,
)
from scheduler.files import write_atomically
from scheduler.units import parse_bytes
from server.cohort import make_sampler
from server.strategy import make_strategy

from .config import Option, SimulationConfig
from .fleet_file import FleetFile, read_fleet
from .reading import Run
from .summary import Summary, summary
from .tally import tally

SWEEP, TABLE = "sweep.json", "sweep.csv"
FLEET = "fleet."
SHORT = {"ram": "ram_bytes", "deadline": "deadline_s", "patience": "patience_s"}
SHORT |= {"battery": "battery_at_least"}
MOST_POINTS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """A setting and its values. `key` is a field of SimulationConfig, or `fleet.` and a place in its file."""

    key: str
    values: tuple[Option, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One combination: what it is called, which is also its folder, its values, and all settings."""

    name: str
    values: tuple[Option, ...]
    config: SimulationConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Reached:
    """What came of a point: a run, or why there is none."""

    point: Point
    summary: Summary | None
    failed: str = ""


def parse_axis(text: str) -> Axis:
    """An axis from `KEY=VALUE,VALUE,...`. Raises BadInput."""
    key, equals, values = text.partition("=")
    key = key.strip()
    if not (key and equals and values.strip()):
        raise BadInput(
            f"{text!r} is no sweep: write for example fleet.ram=x0.5,x1,x2 or cohort=5,10"
        )
    if key.startswith(FLEET):
        key = FLEET + _place(key.removeprefix(FLEET))
    else:
        key = key.replace("-", "_")
        key = SHORT.get(key, key)
        known = [f.name for f in fields(SimulationConfig) if f.name != "fleet_changes"]
        if key not in known:
            raise UnknownName("setting", key, (*known, "fleet.PLACE"))
    sizes = key.endswith("_bytes")
    parsed = tuple(_value(value.strip(), sizes) for value in values.split(","))
    if len(set(map(str, parsed))) < len(parsed):
        raise BadInput(f"{text!r} names a value twice")
    return Axis(key=key, values=parsed)


def _place(short: str) -> str:
    """A place in a fleet's file; what is not one of the file's own tables is of every kind."""
    if short.partition(".")[0] in FleetFile.model_fields:
        return short
    return f"kinds.*.{SHORT.get(short, short)}"


def _value(text: str, size: bool) -> Option:
    """A truth, a number, a size as `200KB`, or a text, as which a factor such as `x0.5` stays."""
    if text in ("true", "false"):
        return text == "true"
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return parse_bytes(text) if size and not text.startswith("x") else text


def points(base: SimulationConfig, axes: Sequence[Axis]) -> tuple[Point, ...]:
    """Every combination, checked before the first is run. Raises BadInput, BadFile or UnknownName."""
    keys = [axis.key for axis in axes]
    if len(set(keys)) < len(keys):
        raise BadInput("a setting is swept twice; give all its values at once")
    combinations = list(itertools.product(*(axis.values for axis in axes)))
    if len(combinations) > MOST_POINTS:
        raise BadInput(f"{len(combinations)} runs are too many; {MOST_POINTS} are allowed")
    made = tuple(_point(base, keys, values) for values in combinations)
    if len({point.name for point in made}) < len(made):
        raise BadInput("two points of the sweep would have the same folder; name values otherwise")
    return made


def _point(base: SimulationConfig, keys: Sequence[str], values: Sequence[Option]) -> Point:
    given: dict[str, Any] = {f.name: getattr(base, f.name) for f in fields(base)}
    given["fleet_changes"] = dict(base.fleet_changes)
    for key, value in zip(keys, values, strict=True):
        if key.startswith(FLEET):
            given["fleet_changes"][key.removeprefix(FLEET)] = value
        else:
            given[key] = value
    try:
        config = TypeAdapter(SimulationConfig).validate_python(given)
    except ValidationError as error:
        first = error.errors()[0]
        raise BadInput(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    config.rules()
    make_sampler(config.sampler or "uniform")
    make_strategy(config.strategy or "fedavg")
    read_fleet(config.fleet, config.fleet_changes)
    told = (f"{key.rpartition('.')[2]}={value}" for key, value in zip(keys, values, strict=True))
    name = re.sub(r"[^A-Za-z0-9.,=_-]", "-", ",".join(told))
    return Point(name=name, values=tuple(values), config=config)


def run_points(made: Sequence[Point], run: Callable[[Point], Run]) -> Iterator[Reached]:
    """Run the points one after the other. One that no device can train, or that fails, is told as such."""
    for point in made:
        try:
            done = run(point)
        except (Infeasible, NoPlanInTime, RunFailed, BadUpdate) as error:
            yield Reached(point=point, summary=None, failed=str(error))
        else:
            yield Reached(point=point, summary=summary(done, tally(done)))


def write_sweep(folder: Path, base: SimulationConfig, axes: Sequence[Axis]) -> None:
    """Begin a sweep's folder. Raises BadInput when there is something in it."""
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise BadInput(
            f"{folder} exists already; name another with --out, or go on with --resume {folder}"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"{folder} cannot be made: {error.strerror}") from error
    document = {"base": asdict(base), "axes": [asdict(axis) for axis in axes]}
    write_atomically(folder / SWEEP, json.dumps(document, indent=2).encode() + b"\n")


def read_sweep(folder: Path) -> tuple[SimulationConfig, tuple[Axis, ...]]:
    """What a sweep was told. Raises BadFile."""
    try:
        document = json.loads((folder / SWEEP).read_text(encoding="utf-8"))
        axes = TypeAdapter(tuple[Axis, ...]).validate_python(document["axes"])
        return SimulationConfig(**document["base"]), axes
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadFile(f"{folder / SWEEP} cannot be read: {error}") from error


def write_table(folder: Path, axes: Sequence[Axis], found: Sequence[Reached]) -> None:
    """Write the points so far as CSV; the columns of Summary have their units in their names."""
    text = io.StringIO()
    names = [field.name for field in fields(Summary)]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*(axis.key for axis in axes), *names, "failed"])
    for one in found:
        values = ["" if one.summary is None else getattr(one.summary, name) for name in names]
        writer.writerow([*one.point.values, *values, one.failed])
    write_atomically(folder / TABLE, text.getvalue().encode())


def shortened_axes(axes: Sequence[Axis]) -> list[str]:
    """Names for the head of a table: `ram_bytes` for `fleet.kinds.*.ram_bytes`."""
    return [axis.key.removeprefix(FLEET).removeprefix("kinds.*.") for axis in axes]
