"""Plans as bytes (plan.proto)."""

from __future__ import annotations

from google.protobuf.message import DecodeError

from scheduler import Budget, Compute, Free, PageIn, PageOut, Plan, Step
from scheduler.errors import BadFile
from scheduler.files import require_digest

from . import plan_pb2

_KINDS: tuple[type[Compute | Free | PageOut | PageIn], ...] = (Compute, Free, PageOut, PageIn)


def encode_plan(plan: Plan) -> bytes:
    """The plan as a serialized `fedpoet.v1.Plan`; the same plan always gives the same bytes."""
    budget = plan_pb2.Budget(
        ram_bytes=plan.budget.ram_bytes,
        time_s=plan.budget.time_s,
        page_store_bytes=plan.budget.page_store_bytes,
    )
    message = plan_pb2.Plan(
        version=plan.version,
        graph_digest=plan.graph_digest,
        budget=budget,
        paged_at_start=plan.paged_at_start,
        steps=map(_step_to_int, plan.steps),
        digest=plan.digest,
    )
    return message.SerializeToString(deterministic=True)


def decode_plan(data: bytes) -> Plan:
    """The plan; it still has to pass `scheduler.check`. Raises BadFile when the bytes are damaged."""
    try:
        message = plan_pb2.Plan.FromString(data)
    except DecodeError as error:
        raise BadFile(f"not a plan: {error}; plan again") from error
    limits = message.budget
    plan = Plan(
        version=message.version,
        graph_digest=message.graph_digest,
        budget=Budget(
            ram_bytes=limits.ram_bytes,
            time_s=limits.time_s if limits.HasField("time_s") else None,
            page_store_bytes=limits.page_store_bytes
            if limits.HasField("page_store_bytes")
            else None,
        ),
        paged_at_start=tuple(message.paged_at_start),
        steps=tuple(map(_step_from_int, message.steps)),
    )
    require_digest(plan, message.digest, "the plan")
    return plan


def _step_to_int(step: Step) -> int:
    return 4 * (step.operator if isinstance(step, Compute) else step.tensor) + _KINDS.index(
        type(step)
    )


def _step_from_int(number: int) -> Step:
    return _KINDS[number % 4](number // 4)
