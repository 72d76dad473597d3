from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Budget(_message.Message):
    __slots__ = ("ram_bytes", "time_s", "page_store_bytes")
    RAM_BYTES_FIELD_NUMBER: _ClassVar[int]
    TIME_S_FIELD_NUMBER: _ClassVar[int]
    PAGE_STORE_BYTES_FIELD_NUMBER: _ClassVar[int]
    ram_bytes: int
    time_s: float
    page_store_bytes: int
    def __init__(self, ram_bytes: _Optional[int] = ..., time_s: _Optional[float] = ..., page_store_bytes: _Optional[int] = ...) -> None: ...

class Plan(_message.Message):
    __slots__ = ("version", "graph_digest", "budget", "paged_at_start", "steps", "digest")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    GRAPH_DIGEST_FIELD_NUMBER: _ClassVar[int]
    BUDGET_FIELD_NUMBER: _ClassVar[int]
    PAGED_AT_START_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    version: int
    graph_digest: str
    budget: Budget
    paged_at_start: _containers.RepeatedScalarFieldContainer[int]
    steps: _containers.RepeatedScalarFieldContainer[int]
    digest: str
    def __init__(self, version: _Optional[int] = ..., graph_digest: _Optional[str] = ..., budget: _Optional[_Union[Budget, _Mapping]] = ..., paged_at_start: _Optional[_Iterable[int]] = ..., steps: _Optional[_Iterable[int]] = ..., digest: _Optional[str] = ...) -> None: ...
