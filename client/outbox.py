"""The one place on the way out: what is not on the closed list below does not leave the device.

An update is the model's arrays after training, with the names, shapes and types the model has, and
declared metrics, each one number. `seal` makes it, over whatever fabric it goes. Around it, the device
client says what EGRESS lists (to a SuperLink: FLOWER_EGRESS), field by field, and `released` lets nothing
else through. There is no type for anything else. Why not check for raw data instead: nobody can tell it by
looking, but everybody can tell whether a record is on a list.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet
from numpy.typing import NDArray

from scheduler.errors import BudgetExceeded, Infeasible, NoPlanInTime, Refused

METRICS = frozenset(
    {
        "num-examples",
        "partition-id",
        "steps",
        "train-loss",
        "ram-budget-bytes",
        "predicted-peak-bytes",
        "measured-peak-bytes",
        "time-s",
        "energy-j",
        "paged-out-bytes",
        "paged-in-bytes",
        "recomputed-runs",
    }
)

STANDING = frozenset({"battery", "charging", "idle", "unmetered", "free-ram-bytes", "ready"})
"""What a device says of itself over Flower, where a coordinator asks before a round."""

NAME_BYTES = 64
DETAIL_BYTES = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One field that may leave: what it tells, and for texts and bytes how long it may be."""

    tells: str
    most_bytes: int = 0


def _texts(most_bytes: int, tells: str) -> Field:
    return Field(tells=tells, most_bytes=most_bytes)


_TASK_ID = _texts(16, "which task is meant, in the coordinator's words")
_DIGEST = _texts(32, "digest of a model or update")
_OFFSET = Field(tells="how many bytes have arrived")
_PROTOCOL = Field(tells="version of the device service")

EGRESS: Mapping[str, Mapping[str, Field]] = {
    "HelloRequest": {
        "protocol": _PROTOCOL,
        "client": _texts(NAME_BYTES, "name and version of this program"),
    },
    "EnrollRequest": {
        "protocol": _PROTOCOL,
        "secret": _texts(32, "the secret of the ticket, once"),
        "public_key": _texts(200, "this device's public key"),
        "proof": _texts(100, "a signature that shows that it has the private key"),
    },
    "Capabilities": {
        "profile": _texts(NAME_BYTES, "name of the device profile"),
        "device_kind": _texts(NAME_BYTES, "kind of processor and system"),
        "free_ram_bytes": Field(tells="RAM that is free"),
        "ram_budget_bytes": Field(tells="RAM that the owner gives to training"),
        "battery": Field(tells="how full the battery is"),
        "charging": Field(tells="whether it charges"),
        "idle": Field(tells="whether nobody uses the device"),
        "unmetered": Field(tells="whether its network is free of charge"),
        "workloads": Field(tells="the workloads that it can train"),
        "ready": Field(tells="whether the owner's policy allows training now"),
        "not_ready": Field(tells="which wish of the policy is not met"),
    },
    "KnownWorkload": {
        "name": _texts(NAME_BYTES, "name of a workload"),
        "digest": _texts(32, "digest of the names and shapes of its model's arrays"),
    },
    "WaitRequest": {"protocol": _PROTOCOL, "held": _TASK_ID},
    "FetchModelRequest": {"digest": _DIGEST, "offset_bytes": _OFFSET},
    "UpdateOffsetRequest": {"task_id": _TASK_ID, "digest": _DIGEST},
    "UpdatePart": {
        "header": Field(tells="what is sent, before it is"),
        "chunk": Field(tells="a piece of the sealed update"),
    },
    "UpdateHeader": {
        "task_id": _TASK_ID,
        "digest": _DIGEST,
        "size_bytes": Field(tells="size of the update"),
        "offset_bytes": _OFFSET,
        "metrics": Field(tells="the declared metrics: " + ", ".join(sorted(METRICS))),
        "model_digest": _DIGEST,
        "plan_digest": _texts(32, "digest of the coordinator's plan, if that was followed"),
    },
    "Number": {"integer": Field(tells="a metric"), "real": Field(tells="a metric")},
    "Chunk": {
        "offset_bytes": _OFFSET,
        "data": _texts(2**20, "the model's arrays after training, as sealed; nothing else"),
        "crc32": Field(tells="checksum of that"),
    },
    "DeclineRequest": {
        "task_id": _TASK_ID,
        "reason": Field(tells="why there is no update, one of a list"),
        "detail": _texts(DETAIL_BYTES, "which error; of a budget that is too small, also sizes"),
    },
    "HeartbeatRequest": {"task_id": _TASK_ID},
    "LeaveRequest": {},
}
"""Every message of the device service (device.proto) that a device sends, with every field of it."""

_NODE = Field(tells="the node's id, drawn by the SuperLink")
_RUN_ID = Field(tells="which run is meant")
_FLOWER_ID = _texts(NAME_BYTES, "digest of a message or of a part of one")

FLOWER_EGRESS: Mapping[str, Mapping[str, Field]] = {
    "RegisterNodeFleetRequest": {"public_key": _texts(500, "this node's public key")},
    "ActivateNodeRequest": {
        "public_key": _texts(500, "this node's public key"),
        "heartbeat_interval": Field(tells="how often the node says that it is alive"),
    },
    "DeactivateNodeRequest": {"node_id": _NODE},
    "SendNodeHeartbeatRequest": {
        "node": _NODE,
        "heartbeat_interval": Field(tells="how often the node says that it is alive"),
    },
    "PullMessagesRequest": {"node": _NODE},
    "GetRunRequest": {"node": _NODE, "run_id": _RUN_ID},
    "GetFabRequest": {
        "node": _NODE,
        "run_id": _RUN_ID,
        "hash_str": _texts(NAME_BYTES, "digest of the run's app bundle"),
    },
    "PullObjectRequest": {"node": _NODE, "run_id": _RUN_ID, "object_id": _FLOWER_ID},
    "ConfirmMessageReceivedRequest": {
        "node": _NODE,
        "run_id": _RUN_ID,
        "message_object_id": _FLOWER_ID,
    },
    "PushMessagesRequest": {
        "node": _NODE,
        "messages_list": Field(tells="the reply, without its content"),
        "message_object_trees": Field(tells="digests of the parts of the reply"),
        "clientapp_runtime_list": Field(tells="always 0"),
    },
    "PushObjectRequest": {
        "node": _NODE,
        "run_id": _RUN_ID,
        "object_id": _FLOWER_ID,
        "object_content": _texts(2**31, "a part of the sealed update: an array, or the metrics"),
        "session_id": _texts(NAME_BYTES, "in the SuperLink's words"),
    },
    "Node": {"node_id": _NODE},
    "Message": {
        "metadata": Field(tells="which message is answered"),
        "content": Field(tells="always empty: the update goes in parts"),
        "error": Field(tells="why there is no update"),
    },
    "RecordDict": {},
    "Metadata": {
        "run_id": _RUN_ID,
        "message_id": _FLOWER_ID,
        "src_node_id": _NODE,
        "dst_node_id": Field(tells="the SuperLink's id"),
        "reply_to_message_id": _FLOWER_ID,
        "group_id": _texts(NAME_BYTES, "in the coordinator's words"),
        "ttl": Field(tells="for how long the reply is good"),
        "message_type": _texts(NAME_BYTES, "in the coordinator's words"),
        "created_at": Field(tells="when the reply was made"),
    },
    "ObjectTree": {
        "object_id": _FLOWER_ID,
        "children": Field(tells="digests of the parts of the part"),
    },
    "Error": {
        "code": Field(tells="always the same"),
        "reason": _texts(DETAIL_BYTES, "which error; of a budget that is too small, also sizes"),
    },
}
"""The same for Flower's SuperLink, where a device that joins by itself sends these."""

_LISTS = {"fedpoet.v1": EGRESS, "flwr.proto": FLOWER_EGRESS}

Arrays = Mapping[str, NDArray[np.generic]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Dimensions and type of one of the model's arrays."""

    dims: tuple[int, ...]
    dtype: np.dtype[Any]

    def __str__(self) -> str:
        return f"{self.dtype}{list(self.dims)}"


Sent = TypeVar("Sent", bound=Message)
Manifest = Mapping[str, Shape]
"""The model's arrays by name: the only ones that may leave."""


@dataclass(frozen=True, kw_only=True)
class Update:
    """What a device sends after training; only `seal` makes one."""

    arrays: Arrays
    metrics: Mapping[str, int | float]


def manifest(model: Arrays) -> dict[str, Shape]:
    """The manifest of a model's arrays."""
    return {name: _shape(value) for name, value in model.items()}


def seal(arrays: Mapping[str, object], metrics: Mapping[str, object], allowed: Manifest) -> Update:
    """The update, copied, if all of it is on the list. Raises Refused with what is not."""
    if missing := sorted(allowed.keys() - arrays.keys()):
        raise Refused(f"the update lacks the model's array {missing[0]!r}; updates are sent whole")
    sealed: dict[str, NDArray[np.generic]] = {}
    for name, value in arrays.items():
        sealed[name] = _array(name, value, allowed)
    return Update(arrays=sealed, metrics=_numbers(metrics, METRICS))


def seal_standing(standing: Mapping[str, object]) -> dict[str, int | float]:
    """What the device says of itself, if all of it is on the list. Raises Refused with what is not."""
    return _numbers(standing, STANDING)


def failure(error: Exception) -> str:
    """What a device may say about why it has no update.

    That a budget is too small is told in sizes and names of operators. The texts of all other errors stay
    in the device's log: they could quote the data, a path on the device, or what tried to leave.
    """
    if isinstance(error, Infeasible | NoPlanInTime | BudgetExceeded):
        return f"{type(error).__name__}: {error}"
    return f"{type(error).__name__} on the device; its log says more"


def released(message: Sent) -> Sent:
    """The message, if all of it is on the list of its fabric. Raises Refused with what is not."""
    kind, listed_fields = message.DESCRIPTOR.name, _LISTS.get(message.DESCRIPTOR.file.package, {})
    if kind not in listed_fields:
        raise Refused(f"{message.DESCRIPTOR.full_name} is no message that a device may send")
    if len(UnknownFieldSet(message)):
        raise Refused(f"{kind} has fields that nobody here knows")
    for field, value in message.ListFields():
        if (listed := listed_fields[kind].get(field.name)) is None:
            raise Refused(f"{kind}.{field.name} is not on the list of what may leave")
        _require_listed(f"{kind}.{field.name}", value, listed)
    return message


def _require_listed(name: str, value: Any, listed: Field) -> None:
    if isinstance(value, str | bytes):
        size_bytes = len(value.encode() if isinstance(value, str) else value)
        if size_bytes > listed.most_bytes:
            raise Refused(f"{name} has {size_bytes} bytes; at most {listed.most_bytes} may leave")
    elif isinstance(value, Message):
        released(value)
    elif name == "UpdateHeader.metrics":
        for key, number in value.items():
            _number(key, getattr(number, number.WhichOneof("value") or "real"), METRICS)
    elif not isinstance(value, int | float):
        for item in value:
            _require_listed(name, item, listed)


def _array(name: str, value: object, allowed: Manifest) -> NDArray[np.generic]:
    if name not in allowed:
        raise Refused(
            f"{name!r} is not an array of the model; only the model's arrays may leave the device"
        )
    if not isinstance(value, np.ndarray):
        raise Refused(f"{name!r} is a {type(value).__name__}; only arrays may leave the device")
    if (got := _shape(value)) != allowed[name]:
        raise Refused(f"{name!r} is {got}, but the model's array is {allowed[name]}")
    return np.array(value, order="C", subok=False)


def _numbers(values: Mapping[str, object], listed: frozenset[str]) -> dict[str, int | float]:
    return {name: _number(name, value, listed) for name, value in values.items()}


def _number(name: str, value: object, listed: frozenset[str]) -> int | float:
    if name not in listed:
        raise Refused(
            f"{name!r} is not a declared metric; declared are {', '.join(sorted(listed))}"
        )
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Refused(f"metric {name!r} is a {type(value).__name__}; a metric is one number")
    return value


def _shape(value: NDArray[np.generic]) -> Shape:
    return Shape(dims=value.shape, dtype=value.dtype)
