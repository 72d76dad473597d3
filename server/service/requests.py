"""What a request must be, beyond a message that can be read. Everything here raises Refusal or BadMessage."""

from __future__ import annotations

import hashlib

from protos import device_pb2 as pb
from protos.blobs import DIGEST_BYTES, Blob
from protos.tasks import TASK_ID_BYTES, Task
from protos.trust import PROTOCOL
from protos.values import from_numbers

from .limits import Limits
from .refusals import Reason, Refusal


def check_report(report: pb.Capabilities, limits: Limits) -> None:
    """Names, numbers and digests that a device can have."""
    for text in (report.profile, report.device_kind, *(w.name for w in report.workloads)):
        require_text(text, limits.name_chars, "a name in the report")
    if len(report.workloads) > limits.workloads:
        raise Refusal(Reason.TOO_LARGE, f"{limits.workloads} workloads are allowed")
    if any(len(w.digest) != DIGEST_BYTES for w in report.workloads):
        raise Refusal(Reason.MALFORMED, f"a workload's digest has {DIGEST_BYTES} bytes")
    if report.HasField("battery") and not 0 <= report.battery <= 1:
        raise Refusal(Reason.MALFORMED, f"a battery is 0 to 1 full, not {report.battery:g}")
    if max(report.free_ram_bytes, report.ram_budget_bytes) >= 2**63:
        raise Refusal(Reason.MALFORMED, "no device has so much RAM")


def check_wait(request: pb.WaitRequest, limits: Limits) -> None:
    """Ids of tasks, not too many."""
    require_protocol(request.protocol)
    if len(request.held) > limits.held_tasks:
        raise Refusal(Reason.TOO_LARGE, f"{limits.held_tasks} held tasks are allowed")
    if any(len(task_id) != TASK_ID_BYTES for task_id in request.held):
        raise Refusal(Reason.MALFORMED, f"a task id has {TASK_ID_BYTES} bytes")


def check_header(header: pb.UpdateHeader, limits: Limits) -> Blob:
    """The blob that a header announces. Raises Refusal or BadMessage when it is not acceptable."""
    blob = Blob(digest=header.digest, size_bytes=header.size_bytes)
    if blob.size_bytes > limits.update_bytes:
        raise Refusal(
            Reason.TOO_LARGE,
            f"an update of {blob.size_bytes} bytes; {limits.update_bytes} are allowed",
        )
    if header.offset_bytes > blob.size_bytes:
        raise Refusal(Reason.OUT_OF_ORDER, "the update goes on behind its end")
    if len(header.metrics) > limits.metrics:
        raise Refusal(
            Reason.TOO_LARGE, f"{len(header.metrics)} metrics; {limits.metrics} are allowed"
        )
    if any(len(name) > limits.name_chars for name in header.metrics):
        raise Refusal(
            Reason.TOO_LARGE, f"a metric's name has more than {limits.name_chars} characters"
        )
    from_numbers(header.metrics)
    if len(header.model_digest) != DIGEST_BYTES or len(header.plan_digest) not in (0, DIGEST_BYTES):
        raise Refusal(Reason.MALFORMED, f"digests of model and plan have {DIGEST_BYTES} bytes")
    return blob


def require_as_asked(header: pb.UpdateHeader, task: Task) -> None:
    """Raise Refusal unless the update was made from the task's model, and by no plan but the task's."""
    if header.model_digest != task.model.digest:
        raise Refusal(Reason.WRONG_MODEL, "the update began with another model than the task's")
    if header.plan_digest and header.plan_digest != hashlib.sha256(task.plan_hints).digest():
        raise Refusal(Reason.WRONG_PLAN, "the update followed another plan than the task's")


def declined(reason: int, detail: str) -> str:
    """Why there is no update, in words: what the device says, else the name of its reason."""
    if detail:
        return detail
    known = pb.DeclineReason.DESCRIPTOR.values_by_number.get(reason)
    name = known.name if known else "DECLINE_REASON_UNSPECIFIED"
    return "declined: " + name.removeprefix("DECLINE_REASON_").lower().replace("_", " ")


def require_protocol(protocol: int) -> None:
    """Raise Refusal unless both sides speak the same protocol."""
    if protocol != PROTOCOL:
        raise Refusal(
            Reason.PROTOCOL,
            f"protocol {protocol}; this coordinator speaks {PROTOCOL}. Update fedpoet",
        )


def require_text(text: str, most: int, what: str) -> None:
    """Raise Refusal when a text has too many characters."""
    if len(text) > most:
        raise Refusal(Reason.TOO_LARGE, f"{what} has more than {most} characters")
