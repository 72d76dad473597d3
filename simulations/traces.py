"""FedScale's published traces: when recorded phones were available, and how fast they compute and send.

Both files are pickled dictionaries, by client:
availability  {"duration": s, "active": [s, ...], "inactive": [s, ...], "finish_time": s, "model": text}
capacity      {"computation": ms for one inference, "communication": kbit/s, of 1024 bits}
They are read as data alone: nothing that they name is imported or called.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.workloads.inert import Named, read_inert
from scheduler.errors import BadFile

from .fleet import Fleet, Floats, Ints, Mask, Traces

Trace = NDArray[np.int32]

BYTES_PER_KBIT = 128.0
NUMPY_NUMBERS = frozenset(
    {
        "numpy.core.multiarray.scalar",
        "numpy._core.multiarray.scalar",
        "numpy.dtype",
        "_codecs.encode",
    }
)
_CODES = {"f4": "<f4", "f8": "<f8", "i4": "<i4", "i8": "<i8"}


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
    place = _place(fleet.traces, fleet.trace[rows[traced]], at_s[traced])
    end_s = np.where(place.begun, place.end_s(place.entry), -np.inf)
    until_s = otherwise_s.copy()
    until_s[traced] = np.maximum(end_s, at_s[traced])
    return until_s


def recorded_from_s(fleet: Fleet, rows: Ints, at_s: Floats, otherwise_s: Floats) -> Floats:
    """When the traces next have a device come online; `otherwise_s` for devices without a trace."""
    traced = np.flatnonzero(fleet.trace[rows] >= 0)
    if fleet.traces is None or not len(traced):
        return otherwise_s
    traces, which = fleet.traces, fleet.trace[rows[traced]]
    place = _place(traces, which, at_s[traced])
    first, beyond = traces.first[which], traces.first[which + 1]
    again = place.entry + 1 == beyond
    later = replace(place, cycle=place.cycle + again)
    begin_s = later.begin_s(np.where(again, first, place.entry + 1))
    from_s = otherwise_s.copy()
    from_s[traced] = np.where(first < beyond, begin_s, np.inf)
    return from_s


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Place:
    """Where devices are in their traces: how often each has been run through, and its last entry begun.

    A time of an entry is always the same sum of the same numbers, so that comparisons are exact. `entry`
    is one before a device's first where `begun` is not true.
    """

    traces: Traces
    period_s: Floats
    cycle: Floats
    entry: Ints
    begun: Mask

    def begin_s(self, entry: Ints) -> Floats:
        """When an entry begins in this cycle."""
        start_s: Floats = self.traces.start_s[np.clip(entry, 0, len(self.traces.start_s) - 1)]
        return self.cycle * self.period_s + start_s

    def end_s(self, entry: Ints) -> Floats:
        """When an entry ends in this cycle: at the end of a trace when the next begins, if ever."""
        entry = np.clip(entry, 0, len(self.traces.end_s) - 1)
        start_s: Floats = self.traces.start_s[entry]
        end_s: Floats = self.traces.end_s[entry]
        next_s = np.where(start_s == 0, np.inf, (self.cycle + 1) * self.period_s)
        return np.where(end_s == self.period_s, next_s, self.cycle * self.period_s + end_s)


def _place(traces: Traces, which: Trace, at_s: Floats) -> _Place:
    """Found by division and bisection, then put right where rounding led astray."""
    period_s, first = traces.period_s[which], traces.first[which]
    cycle = np.floor(at_s / period_s)
    cycle += (cycle + 1) * period_s <= at_s
    cycle -= cycle * period_s > at_s
    client = np.repeat(np.arange(len(traces)), np.diff(traces.first))
    wide_s = float(traces.period_s.max()) + 1.0
    phase_s = np.clip(at_s - cycle * period_s, 0.0, period_s)
    starts_s = client * wide_s + traces.start_s
    entry = np.searchsorted(starts_s, which * wide_s + phase_s, "right") - 1
    place = _Place(traces=traces, period_s=period_s, cycle=cycle, entry=entry, begun=entry >= first)
    entry = entry - (place.begun & (place.begin_s(entry) > at_s))
    following = (entry + 1 < traces.first[which + 1]) & (place.begin_s(entry + 1) <= at_s)
    entry = entry + following
    return replace(place, entry=entry, begun=entry >= first)


def _clients(path: Path, what: str) -> list[tuple[object, Mapping[str, Any]]]:
    try:
        with path.open("rb") as file:
            found = read_inert(file, NUMPY_NUMBERS, lambda whole: whole)
    except OSError as error:
        raise BadFile(f"trace {path} cannot be read: {error}") from error
    except BadFile as error:
        said = " ".join(str(error).split())
        raise BadFile(f"trace {path} is not {what}: {said}") from error
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
    number = _plain(value)
    if not (least <= number < math.inf):
        raise BadFile(f"{where} must be a number, {least:g} or more, not {value!r}")
    return number


def _plain(value: object) -> float:
    """A number, also one as text or of numpy's, which is pickled as a call with a type and bytes; else NaN.

    FedScale's own reader takes text, too.
    """
    try:
        if isinstance(value, int | float | str):
            return float(value)
        if isinstance(value, Named) and value.name.endswith(".scalar"):
            dtype, content = value.args
            raw = content if isinstance(content, bytes) else content.args[0].encode("latin1")
            return float(np.frombuffer(raw, _CODES[dtype.args[0]])[0])
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        pass  # of another make
    return math.nan
