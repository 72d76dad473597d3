"""All that a run needs to go on after a round, as arrays and JSON, and back. No code runs when it is read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from protos.arrays import read_arrays
from scheduler.errors import BadFile, BadMessage
from server.federation import Pending, Progress
from server.history import SEEN, History

from .folder import STATE, Lengths
from .journey import End, Journey, Phase
from .presence import Batteries

Arrays = dict[str, NDArray[np.generic]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fabric:
    """The simulated fleet at one moment.

    `sent` messages have been pushed so far. `journeys` are under way, `arrived` wait to be pulled;
    `contents` are the distinct contents of their messages, serialized, and `content` says which is whose, by
    number of the message.
    """

    now_s: float
    sent: int
    journeys: tuple[Journey, ...]
    arrived: tuple[Journey, ...]
    contents: tuple[bytes, ...]
    content: Mapping[int, int]
    batteries: Batteries


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A run after a round. `digest` is of the fleet that it was made with."""

    digest: str
    progress: Progress
    fabric: Fabric


def packed(checkpoint: Checkpoint) -> tuple[Arrays, dict[str, Any]]:
    """Arrays by name, and values for JSON."""
    progress, fabric = checkpoint.progress, checkpoint.fabric
    arrays = dict(_named("model", progress.arrays)) | dict(_named("strategy", progress.strategy))
    for version, base in progress.bases.items():
        arrays |= dict(_named(f"base/{version}", base))
    arrays["history"] = progress.history.rows.view(np.uint8)
    for index, content in enumerate(fabric.contents):
        arrays[f"content/{index}"] = np.frombuffer(content, np.uint8)
    batteries = {f.name: getattr(fabric.batteries, f.name) for f in fields(Batteries)}
    arrays |= dict(_named("batteries", batteries))
    return arrays, {
        "digest": checkpoint.digest,
        "number": progress.number,
        "skipped": progress.skipped,
        "pending": [asdict(p) for p in progress.pending],
        "versions": list(progress.bases),
        "now_s": fabric.now_s,
        "sent": fabric.sent,
        "journeys": [_described(j) for j in fabric.journeys],
        "arrived": [_described(j) for j in fabric.arrived],
        "content": list(fabric.content.items()),
    }


def read_checkpoint(path: Path) -> tuple[Checkpoint, Lengths]:
    """What `Draft.save` has written. Raises BadFile for a damaged file."""
    try:
        arrays = read_arrays(path)
        state = json.loads(arrays[STATE].tobytes())
        return _unpacked(arrays, state), Lengths(**state["lengths"])
    except (BadMessage, ValueError, KeyError, TypeError) as error:
        raise BadFile(
            f"{path} is no checkpoint that can be read: {error}; begin a new run"
        ) from error


def _unpacked(arrays: Arrays, state: Mapping[str, Any]) -> Checkpoint:
    contents = sum(name.startswith("content/") for name in arrays)
    return Checkpoint(
        digest=state["digest"],
        progress=Progress(
            number=state["number"],
            arrays=_under("model", arrays),
            strategy=_under("strategy", arrays),
            history=History(rows=np.array(arrays["history"]).view(SEEN)),
            pending=tuple(Pending(**p) for p in state["pending"]),
            bases={version: _under(f"base/{version}", arrays) for version in state["versions"]},
            skipped=state["skipped"],
        ),
        fabric=Fabric(
            now_s=state["now_s"],
            sent=state["sent"],
            journeys=tuple(_journey(j) for j in state["journeys"]),
            arrived=tuple(_journey(j) for j in state["arrived"]),
            contents=tuple(arrays[f"content/{i}"].tobytes() for i in range(contents)),
            content=dict(state["content"]),
            batteries=_batteries(_under("batteries", arrays)),
        ),
    )


def _batteries(arrays: Arrays) -> Batteries:
    return Batteries(
        level_j=arrays["level_j"].astype(np.float64),
        since_s=arrays["since_s"].astype(np.float64),
        charging=arrays["charging"].astype(np.bool_),
        until_s=arrays["until_s"].astype(np.float64),
    )


def _described(journey: Journey) -> dict[str, Any]:
    return {name: getattr(journey, name) for name in Journey.__slots__}


def _journey(state: Mapping[str, Any]) -> Journey:
    return Journey(
        **{
            **state,
            "leaves_why": End(state["leaves_why"]),
            "phase": Phase(state["phase"]),
            "end": End(state["end"]),
            "began_s": tuple(state["began_s"]),
        }
    )


def _named(
    place: str, arrays: Mapping[str, NDArray[np.generic]]
) -> Iterator[tuple[str, NDArray[np.generic]]]:
    return ((f"{place}/{name}", array) for name, array in arrays.items())


def _under(place: str, arrays: Arrays) -> Arrays:
    return {n.removeprefix(f"{place}/"): a for n, a in arrays.items() if n.startswith(f"{place}/")}
