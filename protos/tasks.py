"""Tasks: what a coordinator asks of one device, signed; and the digest that says which workload is meant."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from google.protobuf.message import DecodeError

from scheduler.errors import BadMessage, Untrusted

from . import device_pb2
from .blobs import Blob
from .device_pb2 import SignedTask
from .trust import (
    PROTOCOL,
    SIGNATURE,
    Role,
    holder_of,
    read_certificate,
    require_signature,
    require_valid,
)
from .values import ScalarValue, from_scalar, to_scalar

TASK_TEXT = b"fedpoet.v1.Task\0"
TASK_ID_BYTES = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What one device shall do; the fields are told in device.proto. Times are seconds since 1970, UTC."""

    task_id: bytes
    device_id: int
    run_id: int
    kind: str
    round_number: int
    workload: str
    workload_digest: bytes
    config: Mapping[str, ScalarValue] = field(default_factory=dict)
    model: Blob
    plan_hints: bytes = b""
    issued_at_s: float
    expires_at_s: float

    def __post_init__(self) -> None:
        if len(self.task_id) != TASK_ID_BYTES:
            raise BadMessage(f"a task id has {TASK_ID_BYTES} bytes, not {len(self.task_id)}")
        if not math.isfinite(self.issued_at_s) or not math.isfinite(self.expires_at_s):
            raise BadMessage("a task is issued and expires at some time")


def encode_task(task: Task) -> bytes:
    """The bytes that are signed. Raises BadInput for a config value that cannot be sent."""
    message = device_pb2.Task(
        protocol=PROTOCOL,
        task_id=task.task_id,
        device_id=task.device_id,
        run_id=task.run_id,
        kind=task.kind,
        round=task.round_number,
        workload=task.workload,
        workload_digest=task.workload_digest,
        config={name: to_scalar(name, value) for name, value in task.config.items()},
        model_digest=task.model.digest,
        model_bytes=task.model.size_bytes,
        plan_hints=task.plan_hints,
        issued_at_s=task.issued_at_s,
        expires_at_s=task.expires_at_s,
    )
    return message.SerializeToString(deterministic=True)


def decode_task(data: bytes) -> Task:
    """The task in these bytes; whether it may be believed is for `open_task`. Raises BadMessage."""
    try:
        message = device_pb2.Task.FromString(data)
    except DecodeError as error:
        raise BadMessage(f"not a task: {error}") from error
    if message.protocol != PROTOCOL:
        raise BadMessage(f"a task of protocol {message.protocol}; this is {PROTOCOL}")
    return Task(
        task_id=message.task_id,
        device_id=message.device_id,
        run_id=message.run_id,
        kind=message.kind,
        round_number=message.round,
        workload=message.workload,
        workload_digest=message.workload_digest,
        config={name: from_scalar(name, message.config[name]) for name in sorted(message.config)},
        model=Blob(digest=message.model_digest, size_bytes=message.model_bytes),
        plan_hints=message.plan_hints,
        issued_at_s=message.issued_at_s,
        expires_at_s=message.expires_at_s,
    )


def sign_task(
    task: bytes, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate
) -> SignedTask:
    """An encoded task, signed with the key of a certificate for signing tasks."""
    return SignedTask(
        task=task,
        signature=key.sign(TASK_TEXT + task, SIGNATURE),
        certificate=certificate.public_bytes(serialization.Encoding.DER),
    )


def open_task(
    signed: SignedTask,
    *,
    authority: x509.Certificate,
    device_id: int,
    now_s: float,
    seen: Container[bytes],
) -> Task:
    """The task, if this device may act on it.

    `seen` are the ids of tasks that were opened before and have not expired since: older ones may be
    forgotten. Raises Untrusted when the task is not the coordinator's, not for this device, expired or
    seen; BadMessage when it is signed and still cannot be read.
    """
    certificate = read_certificate(signed.certificate)
    require_valid(certificate, authority, now_s)
    if (role := holder_of(certificate).role) is not Role.TASKS:
        raise Untrusted(f"a task signed with a certificate of role {role}")
    require_signature(certificate, signed.signature, TASK_TEXT + signed.task)
    task = decode_task(signed.task)
    if task.device_id != device_id:
        raise Untrusted(f"a task for device {task.device_id}; this is {device_id}")
    if now_s > task.expires_at_s:
        raise Untrusted(
            f"a task that expired {now_s - task.expires_at_s:.0f} s ago; check the clock"
        )
    if task.task_id in seen:
        raise Untrusted("a task that came before")
    return task


ArrayForm = tuple[str, str, tuple[int, ...]]
"""Name, type as safetensors writes it ("F32"), and dimensions of one of a model's arrays."""


def workload_digest(name: str, arrays: Iterable[ArrayForm]) -> bytes:
    """Which workload a task means: its name and the forms of the model's arrays, in any order."""
    texts = [name]
    for array, dtype, dims in sorted(arrays, key=lambda form: form[0].encode()):
        texts += [array, dtype, ",".join(map(str, dims))]
    return hashlib.sha256(b"".join(text.encode() + b"\0" for text in texts)).digest()
