"""Why a call is refused: a closed list, each with its gRPC status, and counted."""

from __future__ import annotations

import enum
from collections import Counter

import grpc

REASON_KEY = "fedpoet-reason"  # in the trailing metadata


class Reason(enum.StrEnum):
    """One word for why a call was refused."""

    MALFORMED = "malformed"
    PROTOCOL = "protocol"
    TOO_LARGE = "too-large"
    OUT_OF_ORDER = "out-of-order"
    DAMAGED = "damaged"
    INCOMPLETE = "incomplete"
    TOO_SLOW = "too-slow"
    TOO_MANY_CALLS = "too-many-calls"
    TOO_MANY_STREAMS = "too-many-streams"
    TOO_MANY_CONNECTIONS = "too-many-connections"
    UNTRUSTED = "untrusted"
    UNKNOWN_DEVICE = "unknown-device"
    REVOKED = "revoked"
    WRONG_ROLE = "wrong-role"
    NO_SUCH_TASK = "no-such-task"
    NO_SUCH_MODEL = "no-such-model"
    TASK_ENDED = "task-ended"
    WRONG_MODEL = "wrong-model"
    WRONG_PLAN = "wrong-plan"
    REPLAYED = "replayed"
    REPLACED = "replaced"
    NO_ROOM = "no-room"
    LEFT = "left"
    ENDING = "ending"
    FAULT = "fault"


_Code = grpc.StatusCode
STATUS = {
    Reason.MALFORMED: _Code.INVALID_ARGUMENT,
    Reason.PROTOCOL: _Code.FAILED_PRECONDITION,
    Reason.TOO_LARGE: _Code.INVALID_ARGUMENT,
    Reason.OUT_OF_ORDER: _Code.OUT_OF_RANGE,
    Reason.DAMAGED: _Code.DATA_LOSS,
    Reason.INCOMPLETE: _Code.DATA_LOSS,
    Reason.TOO_SLOW: _Code.DEADLINE_EXCEEDED,
    Reason.TOO_MANY_CALLS: _Code.RESOURCE_EXHAUSTED,
    Reason.TOO_MANY_STREAMS: _Code.RESOURCE_EXHAUSTED,
    Reason.TOO_MANY_CONNECTIONS: _Code.RESOURCE_EXHAUSTED,
    Reason.UNTRUSTED: _Code.UNAUTHENTICATED,
    Reason.UNKNOWN_DEVICE: _Code.UNAUTHENTICATED,
    Reason.REVOKED: _Code.PERMISSION_DENIED,
    Reason.WRONG_ROLE: _Code.PERMISSION_DENIED,
    Reason.NO_SUCH_TASK: _Code.NOT_FOUND,
    Reason.NO_SUCH_MODEL: _Code.NOT_FOUND,
    Reason.TASK_ENDED: _Code.FAILED_PRECONDITION,
    Reason.WRONG_MODEL: _Code.FAILED_PRECONDITION,
    Reason.WRONG_PLAN: _Code.FAILED_PRECONDITION,
    Reason.REPLAYED: _Code.ALREADY_EXISTS,
    Reason.REPLACED: _Code.ABORTED,
    Reason.LEFT: _Code.ABORTED,
    Reason.NO_ROOM: _Code.RESOURCE_EXHAUSTED,
    Reason.ENDING: _Code.UNAVAILABLE,
    Reason.FAULT: _Code.INTERNAL,
}


class Refusal(Exception):
    """A call that is not done; the device is told reason and message."""

    def __init__(self, reason: Reason, message: str) -> None:
        self.reason = reason
        super().__init__(message)

    @property
    def status(self) -> grpc.StatusCode:
        """The status that the call ends with."""
        return STATUS[self.reason]


class Counts:
    """How many calls were refused for each reason, and how many there were in all. One thread writes."""

    def __init__(self) -> None:
        self._calls: Counter[str] = Counter()
        self._refused: Counter[Reason] = Counter()

    def called(self, method: str) -> None:
        """A call of a method began."""
        self._calls[method] += 1

    def refused(self, reason: Reason) -> None:
        """A call was refused."""
        self._refused[reason] += 1

    @property
    def calls(self) -> dict[str, int]:
        """Calls by method."""
        return dict(self._calls)

    @property
    def refusals(self) -> dict[Reason, int]:
        """Refused calls by reason."""
        return dict(self._refused)
