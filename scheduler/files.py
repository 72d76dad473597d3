"""Problems and plans as JSON files. docs/formats.md describes both for people who write their own."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from .errors import BadFile
from .graph import Graph
from .plan import Compute, Free, PageIn, PageOut, Plan
from .poet_instance import from_poet_instance, is_poet_instance
from .problem import Budget, CostTable, Problem

PROBLEM_FORMAT = "fedpoet-problem"
PLAN_FORMAT = "fedpoet-plan"
FORMAT_VERSION = 1
_STEPS: dict[str, type[Compute | Free | PageOut | PageIn]] = {
    "compute": Compute,
    "free": Free,
    "page_out": PageOut,
    "page_in": PageIn,
}
_STEP_NAMES = {kind: name for name, kind in _STEPS.items()}

T = TypeVar("T")


def read_problem(path: Path) -> Problem:
    """A problem file, ours or an instance in the public POET form. Raises BadFile or BadGraph."""
    document = _read_json(path)
    if is_poet_instance(document):
        return from_poet_instance(document)
    _require_format(document, PROBLEM_FORMAT, path)
    parts = {"graph": Graph, "costs": CostTable, "budget": Budget}
    _require_keys(document, {"format", "version", *parts}, path)
    return Problem(
        **{name: _parse(kind, document[name], f"{path}: {name}") for name, kind in parts.items()}
    )


def write_problem(problem: Problem, path: Path) -> None:
    """Write a problem file, whole or not at all."""
    document = {
        "format": PROBLEM_FORMAT,
        "version": FORMAT_VERSION,
        "graph": TypeAdapter(Graph).dump_python(problem.graph, mode="json"),
        "costs": TypeAdapter(CostTable).dump_python(problem.costs, mode="json"),
        "budget": TypeAdapter(Budget).dump_python(problem.budget, mode="json"),
    }
    write_atomically(path, json.dumps(document, indent=1).encode() + b"\n")


def read_plan(path: Path) -> Plan:
    """A plan file in JSON; it still has to pass `scheduler.check`. Raises BadFile."""
    _require_json(path)
    return plan_of(_read_json(path), path)


def plan_of(document: dict[str, Any], where: Path) -> Plan:
    """The plan that a plan file's content describes, its digest compared. Raises BadFile."""
    plan = plan_from(document, where)
    require_digest(plan, document["digest"], str(where))
    return plan


def plan_from(document: dict[str, Any], where: Path) -> Plan:
    """The plan that a plan file's content describes, whatever its digest. Raises BadFile."""
    _require_format(document, PLAN_FORMAT, where)
    _require_keys(
        document,
        {"format", "version", "graph_digest", "budget", "paged_at_start", "steps", "digest"},
        where,
    )
    try:
        steps = tuple(_STEPS[name](number) for name, number in document["steps"])
        paged = tuple(document["paged_at_start"])
        _require_whole(number for _, number in document["steps"])
        _require_whole(paged)
    except (KeyError, TypeError, ValueError) as error:
        raise BadFile(
            f"{where}: steps or paged_at_start are damaged ({error}); plan again"
        ) from error
    return Plan(
        graph_digest=str(document["graph_digest"]),
        budget=_parse(Budget, document["budget"], f"{where}: budget"),
        steps=steps,
        paged_at_start=paged,
        version=document["version"],
    )


def write_plan(plan: Plan, path: Path) -> None:
    """Write a plan file in JSON, whole or not at all."""
    _require_json(path)
    head = plan_document(plan)
    # One step a line: a plan is read, compared and put under version control by people.
    lines = ",\n".join(f"  {json.dumps(step)}" for step in head.pop("steps"))
    text = json.dumps(head, indent=1)[:-2] + f',\n "steps": [\n{lines}\n ]\n}}\n'
    write_atomically(path, text.encode())


def plan_document(plan: Plan) -> dict[str, Any]:
    """A plan file's content."""
    return {
        "format": PLAN_FORMAT,
        "version": plan.version,
        "graph_digest": plan.graph_digest,
        "budget": TypeAdapter(Budget).dump_python(plan.budget, mode="json"),
        "paged_at_start": list(plan.paged_at_start),
        "digest": plan.digest,
        "steps": [
            [_STEP_NAMES[type(s)], s.operator if isinstance(s, Compute) else s.tensor]
            for s in plan.steps
        ],
    }


def require_digest(plan: Plan, digest: str, where: str) -> None:
    """Raise BadFile unless `digest` is the plan's own."""
    if plan.digest != digest:
        raise BadFile(f"{where} is damaged: its digest does not match its content; plan again")


def require_target(path: Path) -> None:
    """Raise BadFile if `path` clearly cannot be written, before the work whose result goes there."""
    if path.is_dir():
        raise BadFile(f"cannot write {path}: it is a folder")
    if not os.access(path.parent, os.W_OK):
        raise BadFile(f"cannot write {path}: {path.parent} is not a folder that can be written")


def write_atomically(path: Path, data: bytes, *, durable: bool = False) -> None:
    """Write beside the target and rename, so that no reader ever sees half a file.

    With `durable` it is on the disk when the call returns, and stays there through a loss of power.
    """
    make_atomically(path, lambda draft: draft.write_bytes(data), durable=durable)


def make_atomically(path: Path, write: Callable[[Path], object], *, durable: bool = False) -> None:
    """The same for what `write` writes to a path that it is given."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        write(draft)
        if durable:
            with draft.open("rb") as file:
                os.fsync(file.fileno())
        draft.replace(path)
        if durable:
            _sync_folder(path.parent)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise BadFile(f"cannot write {path}: {error.strerror}") from error


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_bytes(path: Path) -> bytes:
    """The content of a file. Raises BadFile when it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadFile(f"cannot read {path}: {error.strerror}") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(read_bytes(path))
    except ValueError as error:
        raise BadFile(f"{path} is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise BadFile(f"{path} holds a JSON {type(document).__name__}; an object is needed")
    return document


def _require_json(path: Path) -> None:
    if path.suffix == ".pb":
        raise BadFile(
            f"{path} names a plan in binary form, which only the command fedpoet reads and writes: "
            "use a name ending in .json"
        )


def _require_format(document: dict[str, Any], name: str, path: Path) -> None:
    got, version = document.get("format"), document.get("version")
    if got != name:
        raise BadFile(f'{path} is not a {name} file: "format" is {got!r}')
    if version != FORMAT_VERSION:
        raise BadFile(
            f"{path} has version {version!r} of {name}; version {FORMAT_VERSION} is known here"
        )


def _require_keys(document: dict[str, Any], keys: set[str], path: Path) -> None:
    if missing := keys - document.keys():
        raise BadFile(f"{path} lacks {', '.join(sorted(missing))}")
    if extra := document.keys() - keys:
        raise BadFile(f"{path} has unknown fields: {', '.join(sorted(extra))}")


def _parse(kind: type[T], value: object, where: str) -> T:
    """Exactly the dataclass's fields, of exactly its types. Raises BadFile naming the first fault."""
    adapter = TypeAdapter(kind)
    try:
        parsed = adapter.validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise BadFile(
            f"{where}.{place}: {first['msg']} (and {error.error_count() - 1} more)"
        ) from error
    _require_known(value, adapter.dump_python(parsed, mode="json"), where)
    return parsed


def _require_known(given: object, known: object, where: str) -> None:
    """A misspelt optional field would be ignored otherwise."""
    if isinstance(given, dict) and isinstance(known, dict):
        if extra := given.keys() - known.keys():
            raise BadFile(f"{where} has unknown fields: {', '.join(sorted(extra))}")
        for key, value in given.items():
            _require_known(value, known[key], f"{where}.{key}")
    elif isinstance(given, list) and isinstance(known, list):
        for position, (mine, theirs) in enumerate(zip(given, known, strict=True)):
            _require_known(mine, theirs, f"{where}.{position}")


def _require_whole(numbers: Iterable[object]) -> None:
    if strange := set(map(type, numbers)) - {int}:
        names = ", ".join(sorted(kind.__name__ for kind in strange))
        raise ValueError(f"{names} where whole numbers are needed")
