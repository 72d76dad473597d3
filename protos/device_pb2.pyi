from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class NotReady(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    NOT_READY_UNSPECIFIED: _ClassVar[NotReady]
    NOT_READY_NOT_CHARGING: _ClassVar[NotReady]
    NOT_READY_NOT_IDLE: _ClassVar[NotReady]
    NOT_READY_METERED: _ClassVar[NotReady]
    NOT_READY_BATTERY_LOW: _ClassVar[NotReady]
    NOT_READY_QUIET_HOURS: _ClassVar[NotReady]
    NOT_READY_BUSY: _ClassVar[NotReady]

class DeclineReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DECLINE_REASON_UNSPECIFIED: _ClassVar[DeclineReason]
    DECLINE_REASON_POLICY: _ClassVar[DeclineReason]
    DECLINE_REASON_UNKNOWN_WORKLOAD: _ClassVar[DeclineReason]
    DECLINE_REASON_INFEASIBLE: _ClassVar[DeclineReason]
    DECLINE_REASON_BAD_TASK: _ClassVar[DeclineReason]
    DECLINE_REASON_FAILED: _ClassVar[DeclineReason]
    DECLINE_REASON_LEFT: _ClassVar[DeclineReason]
NOT_READY_UNSPECIFIED: NotReady
NOT_READY_NOT_CHARGING: NotReady
NOT_READY_NOT_IDLE: NotReady
NOT_READY_METERED: NotReady
NOT_READY_BATTERY_LOW: NotReady
NOT_READY_QUIET_HOURS: NotReady
NOT_READY_BUSY: NotReady
DECLINE_REASON_UNSPECIFIED: DeclineReason
DECLINE_REASON_POLICY: DeclineReason
DECLINE_REASON_UNKNOWN_WORKLOAD: DeclineReason
DECLINE_REASON_INFEASIBLE: DeclineReason
DECLINE_REASON_BAD_TASK: DeclineReason
DECLINE_REASON_FAILED: DeclineReason
DECLINE_REASON_LEFT: DeclineReason

class Ticket(_message.Message):
    __slots__ = ("protocol", "authority", "certificate", "private_key", "secret", "expires_at_s")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    AUTHORITY_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    PRIVATE_KEY_FIELD_NUMBER: _ClassVar[int]
    SECRET_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_S_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    authority: bytes
    certificate: bytes
    private_key: bytes
    secret: bytes
    expires_at_s: float
    def __init__(self, protocol: _Optional[int] = ..., authority: _Optional[bytes] = ..., certificate: _Optional[bytes] = ..., private_key: _Optional[bytes] = ..., secret: _Optional[bytes] = ..., expires_at_s: _Optional[float] = ...) -> None: ...

class HelloRequest(_message.Message):
    __slots__ = ("protocol", "client")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    client: str
    def __init__(self, protocol: _Optional[int] = ..., client: _Optional[str] = ...) -> None: ...

class HelloReply(_message.Message):
    __slots__ = ("protocol", "chunk_bytes", "update_bytes", "keep_alive_s", "stall_s", "upload_s")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    CHUNK_BYTES_FIELD_NUMBER: _ClassVar[int]
    UPDATE_BYTES_FIELD_NUMBER: _ClassVar[int]
    KEEP_ALIVE_S_FIELD_NUMBER: _ClassVar[int]
    STALL_S_FIELD_NUMBER: _ClassVar[int]
    UPLOAD_S_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    chunk_bytes: int
    update_bytes: int
    keep_alive_s: float
    stall_s: float
    upload_s: float
    def __init__(self, protocol: _Optional[int] = ..., chunk_bytes: _Optional[int] = ..., update_bytes: _Optional[int] = ..., keep_alive_s: _Optional[float] = ..., stall_s: _Optional[float] = ..., upload_s: _Optional[float] = ...) -> None: ...

class EnrollRequest(_message.Message):
    __slots__ = ("secret", "public_key", "proof", "protocol")
    SECRET_FIELD_NUMBER: _ClassVar[int]
    PUBLIC_KEY_FIELD_NUMBER: _ClassVar[int]
    PROOF_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    secret: bytes
    public_key: bytes
    proof: bytes
    protocol: int
    def __init__(self, secret: _Optional[bytes] = ..., public_key: _Optional[bytes] = ..., proof: _Optional[bytes] = ..., protocol: _Optional[int] = ...) -> None: ...

class EnrollReply(_message.Message):
    __slots__ = ("device_id", "certificate_chain", "expires_at_s")
    DEVICE_ID_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_CHAIN_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_S_FIELD_NUMBER: _ClassVar[int]
    device_id: int
    certificate_chain: bytes
    expires_at_s: float
    def __init__(self, device_id: _Optional[int] = ..., certificate_chain: _Optional[bytes] = ..., expires_at_s: _Optional[float] = ...) -> None: ...

class Capabilities(_message.Message):
    __slots__ = ("profile", "device_kind", "free_ram_bytes", "ram_budget_bytes", "battery", "charging", "idle", "unmetered", "workloads", "ready", "not_ready")
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    DEVICE_KIND_FIELD_NUMBER: _ClassVar[int]
    FREE_RAM_BYTES_FIELD_NUMBER: _ClassVar[int]
    RAM_BUDGET_BYTES_FIELD_NUMBER: _ClassVar[int]
    BATTERY_FIELD_NUMBER: _ClassVar[int]
    CHARGING_FIELD_NUMBER: _ClassVar[int]
    IDLE_FIELD_NUMBER: _ClassVar[int]
    UNMETERED_FIELD_NUMBER: _ClassVar[int]
    WORKLOADS_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    NOT_READY_FIELD_NUMBER: _ClassVar[int]
    profile: str
    device_kind: str
    free_ram_bytes: int
    ram_budget_bytes: int
    battery: float
    charging: bool
    idle: bool
    unmetered: bool
    workloads: _containers.RepeatedCompositeFieldContainer[KnownWorkload]
    ready: bool
    not_ready: NotReady
    def __init__(self, profile: _Optional[str] = ..., device_kind: _Optional[str] = ..., free_ram_bytes: _Optional[int] = ..., ram_budget_bytes: _Optional[int] = ..., battery: _Optional[float] = ..., charging: _Optional[bool] = ..., idle: _Optional[bool] = ..., unmetered: _Optional[bool] = ..., workloads: _Optional[_Iterable[_Union[KnownWorkload, _Mapping]]] = ..., ready: _Optional[bool] = ..., not_ready: _Optional[_Union[NotReady, str]] = ...) -> None: ...

class KnownWorkload(_message.Message):
    __slots__ = ("name", "digest")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    name: str
    digest: bytes
    def __init__(self, name: _Optional[str] = ..., digest: _Optional[bytes] = ...) -> None: ...

class ReportReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class WaitRequest(_message.Message):
    __slots__ = ("protocol", "held")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    held: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, protocol: _Optional[int] = ..., held: _Optional[_Iterable[bytes]] = ...) -> None: ...

class Notice(_message.Message):
    __slots__ = ("task", "withdrawn", "keep_alive")
    TASK_FIELD_NUMBER: _ClassVar[int]
    WITHDRAWN_FIELD_NUMBER: _ClassVar[int]
    KEEP_ALIVE_FIELD_NUMBER: _ClassVar[int]
    task: SignedTask
    withdrawn: Withdrawn
    keep_alive: KeepAlive
    def __init__(self, task: _Optional[_Union[SignedTask, _Mapping]] = ..., withdrawn: _Optional[_Union[Withdrawn, _Mapping]] = ..., keep_alive: _Optional[_Union[KeepAlive, _Mapping]] = ...) -> None: ...

class Withdrawn(_message.Message):
    __slots__ = ("task_id",)
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    task_id: bytes
    def __init__(self, task_id: _Optional[bytes] = ...) -> None: ...

class KeepAlive(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class SignedTask(_message.Message):
    __slots__ = ("task", "signature", "certificate")
    TASK_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    task: bytes
    signature: bytes
    certificate: bytes
    def __init__(self, task: _Optional[bytes] = ..., signature: _Optional[bytes] = ..., certificate: _Optional[bytes] = ...) -> None: ...

class Task(_message.Message):
    __slots__ = ("protocol", "task_id", "device_id", "run_id", "kind", "round", "workload", "workload_digest", "config", "model_digest", "model_bytes", "plan_hints", "issued_at_s", "expires_at_s")
    class ConfigEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Scalar
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Scalar, _Mapping]] = ...) -> None: ...
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    DEVICE_ID_FIELD_NUMBER: _ClassVar[int]
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    WORKLOAD_FIELD_NUMBER: _ClassVar[int]
    WORKLOAD_DIGEST_FIELD_NUMBER: _ClassVar[int]
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    MODEL_DIGEST_FIELD_NUMBER: _ClassVar[int]
    MODEL_BYTES_FIELD_NUMBER: _ClassVar[int]
    PLAN_HINTS_FIELD_NUMBER: _ClassVar[int]
    ISSUED_AT_S_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_S_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    task_id: bytes
    device_id: int
    run_id: int
    kind: str
    round: int
    workload: str
    workload_digest: bytes
    config: _containers.MessageMap[str, Scalar]
    model_digest: bytes
    model_bytes: int
    plan_hints: bytes
    issued_at_s: float
    expires_at_s: float
    def __init__(self, protocol: _Optional[int] = ..., task_id: _Optional[bytes] = ..., device_id: _Optional[int] = ..., run_id: _Optional[int] = ..., kind: _Optional[str] = ..., round: _Optional[int] = ..., workload: _Optional[str] = ..., workload_digest: _Optional[bytes] = ..., config: _Optional[_Mapping[str, Scalar]] = ..., model_digest: _Optional[bytes] = ..., model_bytes: _Optional[int] = ..., plan_hints: _Optional[bytes] = ..., issued_at_s: _Optional[float] = ..., expires_at_s: _Optional[float] = ...) -> None: ...

class Scalar(_message.Message):
    __slots__ = ("truth", "integer", "real", "text", "data")
    TRUTH_FIELD_NUMBER: _ClassVar[int]
    INTEGER_FIELD_NUMBER: _ClassVar[int]
    REAL_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    truth: bool
    integer: int
    real: float
    text: str
    data: bytes
    def __init__(self, truth: _Optional[bool] = ..., integer: _Optional[int] = ..., real: _Optional[float] = ..., text: _Optional[str] = ..., data: _Optional[bytes] = ...) -> None: ...

class Number(_message.Message):
    __slots__ = ("integer", "real")
    INTEGER_FIELD_NUMBER: _ClassVar[int]
    REAL_FIELD_NUMBER: _ClassVar[int]
    integer: int
    real: float
    def __init__(self, integer: _Optional[int] = ..., real: _Optional[float] = ...) -> None: ...

class FetchModelRequest(_message.Message):
    __slots__ = ("digest", "offset_bytes")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    OFFSET_BYTES_FIELD_NUMBER: _ClassVar[int]
    digest: bytes
    offset_bytes: int
    def __init__(self, digest: _Optional[bytes] = ..., offset_bytes: _Optional[int] = ...) -> None: ...

class Chunk(_message.Message):
    __slots__ = ("offset_bytes", "data", "crc32")
    OFFSET_BYTES_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    CRC32_FIELD_NUMBER: _ClassVar[int]
    offset_bytes: int
    data: bytes
    crc32: int
    def __init__(self, offset_bytes: _Optional[int] = ..., data: _Optional[bytes] = ..., crc32: _Optional[int] = ...) -> None: ...

class UpdateOffsetRequest(_message.Message):
    __slots__ = ("task_id", "digest")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    task_id: bytes
    digest: bytes
    def __init__(self, task_id: _Optional[bytes] = ..., digest: _Optional[bytes] = ...) -> None: ...

class UpdateOffsetReply(_message.Message):
    __slots__ = ("offset_bytes", "receipt")
    OFFSET_BYTES_FIELD_NUMBER: _ClassVar[int]
    RECEIPT_FIELD_NUMBER: _ClassVar[int]
    offset_bytes: int
    receipt: Receipt
    def __init__(self, offset_bytes: _Optional[int] = ..., receipt: _Optional[_Union[Receipt, _Mapping]] = ...) -> None: ...

class UpdatePart(_message.Message):
    __slots__ = ("header", "chunk")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    header: UpdateHeader
    chunk: Chunk
    def __init__(self, header: _Optional[_Union[UpdateHeader, _Mapping]] = ..., chunk: _Optional[_Union[Chunk, _Mapping]] = ...) -> None: ...

class UpdateHeader(_message.Message):
    __slots__ = ("task_id", "digest", "size_bytes", "offset_bytes", "metrics", "model_digest", "plan_digest")
    class MetricsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Number
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Number, _Mapping]] = ...) -> None: ...
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    OFFSET_BYTES_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    MODEL_DIGEST_FIELD_NUMBER: _ClassVar[int]
    PLAN_DIGEST_FIELD_NUMBER: _ClassVar[int]
    task_id: bytes
    digest: bytes
    size_bytes: int
    offset_bytes: int
    metrics: _containers.MessageMap[str, Number]
    model_digest: bytes
    plan_digest: bytes
    def __init__(self, task_id: _Optional[bytes] = ..., digest: _Optional[bytes] = ..., size_bytes: _Optional[int] = ..., offset_bytes: _Optional[int] = ..., metrics: _Optional[_Mapping[str, Number]] = ..., model_digest: _Optional[bytes] = ..., plan_digest: _Optional[bytes] = ...) -> None: ...

class Receipt(_message.Message):
    __slots__ = ("task_id", "digest", "received_at_s")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_AT_S_FIELD_NUMBER: _ClassVar[int]
    task_id: bytes
    digest: bytes
    received_at_s: float
    def __init__(self, task_id: _Optional[bytes] = ..., digest: _Optional[bytes] = ..., received_at_s: _Optional[float] = ...) -> None: ...

class DeclineRequest(_message.Message):
    __slots__ = ("task_id", "reason", "detail")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    task_id: bytes
    reason: DeclineReason
    detail: str
    def __init__(self, task_id: _Optional[bytes] = ..., reason: _Optional[_Union[DeclineReason, str]] = ..., detail: _Optional[str] = ...) -> None: ...

class DeclineReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class HeartbeatRequest(_message.Message):
    __slots__ = ("task_id",)
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    task_id: bytes
    def __init__(self, task_id: _Optional[bytes] = ...) -> None: ...

class HeartbeatReply(_message.Message):
    __slots__ = ("open",)
    OPEN_FIELD_NUMBER: _ClassVar[int]
    open: bool
    def __init__(self, open: _Optional[bool] = ...) -> None: ...

class LeaveRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class LeaveReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
