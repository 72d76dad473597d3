"""FedScale's published traces: when recorded phones were available, and how fast they compute and send.

Both files are pickled dictionaries, by client:
availability  {"duration": s, "active": [s, ...], "inactive": [s, ...], "finish_time": s, "model": text}
capacity      {"computation": ms for one inference, "communication": kbit/s, of 1024 bits}
They are read by an unpickler that makes numbers, texts, lists and dictionaries, and nothing else.
"""

from __future__ import annotations

import io
import math
import numbers
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scheduler.errors import BadFile

from .fleet import Fleet, Floats, Ints, Traces

Trace = NDArray[np.int32]

BYTES_PER_KBIT = 128.0
_NUMPY_NUMBERS = {
    ("numpy.core.multiarray", "scalar"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
}
_JOIN_S = 1e-3  # as near to it as this, a device is online already


def read_availability(path: Path) -> Traces:
    """Recorded days, in the order of the file. Raises BadFile."""
    first, period_s = [0], list[float]()
    start_s, end_s = list[float](), list[float]()
    for client, entry in _clients(path, "an availability trace"):
        where = f"trace {path}: client {client}"
        finish_s = _number(entry.get("finish_time"), f"{where}: finish_time", least=1.0)
        spans = _spans(entry, finish_s, where)
        start_s += [begin_s for begin_s, _ in spans]
        end_s += [stop_s for _, stop_s in spans]
        first.append(len(start_s))
        period_s.append(finish_s)
    if not start_s:
        raise BadFile(f"trace {path}: no client was ever available")
    return Traces(
        first=np.array(first, dtype=np.int64),
        start_s=np.array(start_s, dtype=np.float64),
        end_s=np.array(end_s, dtype=np.float64),
        period_s=np.array(period_s, dtype=np.float64),
    )


def read_capacity(path: Path) -> tuple[Floats, Floats]:
    """Of each client, (slowness: 1 for the median; bytes per second), in the order of the file.

    Raises BadFile.
    """
    found = [
        (
            _number(entry.get("computation"), f"trace {path}: client {client}: computation"),
            _number(entry.get("communication"), f"trace {path}: client {client}: communication"),
        )
        for client, entry in _clients(path, "a capacity trace")
    ]
    computation, communication = np.array(found, dtype=np.float64).T
    return computation / np.median(computation), communication * BYTES_PER_KBIT


def joined(traces: list[Traces]) -> Traces | None:
    """Several files' traces as one; None for none."""
    if not traces:
        return None
    counts = np.concatenate([np.diff(t.first) for t in traces])
    return Traces(
        first=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        start_s=np.concatenate([t.start_s for t in traces]),
        end_s=np.concatenate([t.end_s for t in traces]),
        period_s=np.concatenate([t.period_s for t in traces]),
    )


def recorded_until_s(fleet: Fleet, rows: Ints, at_s: Floats, otherwise_s: Floats) -> Floats:
    """Until when the traces have a device online that is so at its time, and that time if it is not.

    `otherwise_s` stays for devices without a trace.
    """
    traced = np.flatnonzero(fleet.trace[rows] >= 0)
    if fleet.traces is None or not len(traced):
        return otherwise_s
    traces, which, now_s = fleet.traces, fleet.trace[rows[traced]], at_s[traced]
    phase_s = _phase_s(traces, which, now_s)
    entry = _last_started(traces, which, phase_s)
    there = entry >= traces.first[which]
    end_s = np.where(there, traces.end_s[np.where(there, entry, 0)], -np.inf)
    until_s = otherwise_s.copy()
    until_s[traced] = np.where(phase_s < end_s, now_s + (end_s - phase_s), now_s)
    return until_s


def recorded_from_s(fleet: Fleet, rows: Ints, at_s: Floats, otherwise_s: Floats) -> Floats:
    """When the traces next have a device come online; `otherwise_s` for devices without a trace."""
    traced = np.flatnonzero(fleet.trace[rows] >= 0)
    if fleet.traces is None or not len(traced):
        return otherwise_s
    traces, which, now_s = fleet.traces, fleet.trace[rows[traced]], at_s[traced]
    period_s = traces.period_s[which]
    phase_s = _phase_s(traces, which, now_s)
    after = _last_started(traces, which, phase_s) + 1
    first, beyond = traces.first[which], traces.first[which + 1]
    again = after == beyond
    entry = np.where(again, first, after)
    some = first < beyond
    wait_s = traces.start_s[np.where(some, entry, 0)] - phase_s + np.where(again, period_s, 0.0)
    from_s = otherwise_s.copy()
    from_s[traced] = np.where(some, now_s + wait_s, np.inf)
    return from_s


def _phase_s(traces: Traces, which: Trace, at_s: Floats) -> Floats:
    """Seconds since each trace last began; a little less than 0 just before it does again."""
    return (at_s + _JOIN_S) % traces.period_s[which] - _JOIN_S


def _last_started(traces: Traces, which: Trace, phase_s: Floats) -> Ints:
    """The last entry of each client that has begun by its phase; one before its first if none has."""
    client = np.repeat(np.arange(len(traces)), np.diff(traces.first))
    wide_s = float(traces.period_s.max()) + 1.0
    starts_s, now_s = client * wide_s + traces.start_s, which * wide_s + phase_s
    return np.searchsorted(starts_s, now_s + _JOIN_S, "right") - 1


class _Plain(pickle.Unpickler):
    """Knows the names that numpy's numbers need, and refuses all others: they could run code."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _NUMPY_NUMBERS:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it needs {module}.{name}, which a trace does not")


def _clients(path: Path, what: str) -> list[tuple[object, Mapping[str, Any]]]:
    try:
        found = _Plain(io.BytesIO(path.read_bytes())).load()
    except OSError as error:
        raise BadFile(f"trace {path} cannot be read: {error}") from error
    except Exception as error:
        raise BadFile(f"trace {path} is not {what}: {' '.join(str(error).split())}") from error
    if not (isinstance(found, dict) and found):
        raise BadFile(f"trace {path} is not {what}: it has no clients")
    if not all(isinstance(entry, dict) for entry in found.values()):
        raise BadFile(f"trace {path} is not {what}: a client is not a dictionary")
    return list(found.items())


def _spans(entry: Mapping[str, Any], finish_s: float, where: str) -> list[tuple[float, float]]:
    """Times online, sorted, joined where they overlap, and cut at the end of the trace.

    A client that was still online then has no last time in `inactive`.
    """
    begins = _times(entry.get("active"), f"{where}: active")
    ends = _times(entry.get("inactive"), f"{where}: inactive")
    if len(begins) == len(ends) + 1:
        ends.append(finish_s)
    if len(begins) != len(ends):
        raise BadFile(f"{where}: {len(begins)} times in active but {len(ends)} in inactive")
    spans: list[tuple[float, float]] = []
    for begin_s, end_s in sorted(zip(begins, ends, strict=True)):
        end_s = min(end_s, finish_s)
        if spans and begin_s <= spans[-1][1]:
            spans[-1] = (spans[-1][0], max(spans[-1][1], end_s))
        elif begin_s < end_s:
            spans.append((begin_s, end_s))
    return spans


def _times(value: object, where: str) -> list[float]:
    if not isinstance(value, list):
        raise BadFile(f"{where} must be a list of seconds")
    return [_number(t, where, least=0.0) for t in value]


def _number(value: object, where: str, least: float = 1e-9) -> float:
    number = float(value) if isinstance(value, numbers.Real) else math.nan
    if not (least <= number < math.inf):
        raise BadFile(f"{where} must be a number, {least:g} or more, not {value!r}")
    return number
