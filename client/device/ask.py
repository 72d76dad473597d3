"""What the waiting process and the child that trains say to each other: one line of JSON each way.

Everything large goes through the vault, under the names below; a line holds names and small numbers only.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, get_args


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """What the owner says of training on this device: the Settings that no coordinator decides.

    `device` names a profile or a TOML file; `ram_bytes` is the budget of a training step, None what the
    profile leaves for training. `compression` is text for `protos.compression`, empty for none.
    """

    device: str
    ram_bytes: int | None = None
    partition: int = 0
    compression: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Describe:
    """Say which workload this is: a name that comes with fedpoet, or path.py:name."""

    workload: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """Measure this machine and write its device profile to this file."""

    out: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Train:
    """Do the task with this id, in hexadecimal, which lies in the vault with its model."""

    task: str
    workload: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """The workload's own name, and its digest in hexadecimal."""

    name: str
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """The profile is written."""

    out: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """The update lies in the vault, sealed."""

    task: str


class Fault(StrEnum):
    """Why there is no answer of the kind asked for."""

    INFEASIBLE = "infeasible"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """`detail` is what the outbox allows to say; the child's log has the rest."""

    fault: Fault
    detail: str


Message = Owner | Describe | Measure | Train | Described | Measured | Trained | Failed
_KINDS: dict[str, type[Any]] = {kind.__name__: kind for kind in get_args(Message)}


def to_line(message: Message) -> bytes:
    """A message as one line."""
    return json.dumps({"kind": type(message).__name__, **asdict(message)}).encode() + b"\n"


def from_line(line: bytes) -> Message:
    """The message in a line. Raises ValueError for any other line."""
    try:
        fields = json.loads(line)
        if "fault" in fields:
            fields["fault"] = Fault(fields["fault"])
        made: Message = _KINDS[fields.pop("kind")](**fields)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a message between the client's processes: {error}") from error
    return made


def task_record(task: str) -> str:
    """A SignedTask."""
    return f"task-{task}"


def model_record(digest: str) -> str:
    """A model's blob, which may still be arriving."""
    return f"model-{digest}"


def update_record(task: str) -> str:
    """The UpdateHeader of an update that is whole: its blob was there before it."""
    return f"update-{task}"


def blob_record(task: str) -> str:
    """The blob of an update."""
    return f"blob-{task}"


def plan_record(workload_digest: str) -> str:
    """The plan made last for a workload."""
    return f"plan-{workload_digest}"


def envelope_record(task: str) -> str:
    """What another fabric needs to answer a task, in its own form."""
    return f"envelope-{task}"


def decline_record(task: str) -> str:
    """A DeclineRequest that is to be sent."""
    return f"decline-{task}"


def lost_record(task: str) -> str:
    """What the compression of this task's update lost: personal state, once the update has arrived."""
    return f"lost-{task}"


def owed_record(workload_digest: str) -> str:
    """Which task's loss counts for a workload: the last one whose update has arrived."""
    return f"owed-{workload_digest}"
