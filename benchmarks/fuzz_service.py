"""Bad inputs against the codec and the running device service, while another device's rounds go on.

    python -m benchmarks.fuzz_service --codec 60000 --service 60000 --seed 1

Every input must end in one of the refusals that are documented, or be a message that is really in order.
Nothing may fail inside, no update may be counted that is not whole, and the other device must
finish its rounds with receipts. The command ends with 1 when any of this does not hold.
"""

from __future__ import annotations

import argparse
import collections
import hashlib
import io
import itertools
import random
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from google.protobuf.message import DecodeError, Message

from protos import device_pb2 as pb
from protos.arrays import decode_arrays, encode_arrays, read_arrays
from protos.blobs import Arriving, Blob, blob_of, chunks
from protos.tasks import Task, decode_task, open_task
from protos.trust import PROTOCOL, read_ticket, write_ticket
from protos.values import from_numbers
from scheduler.errors import BadMessage, Untrusted
from server.identity import device_public_key
from server.service.handlers import SERVICE
from server.service.limits import Limits
from server.service.refusals import REASON_KEY, Reason, Refusal
from server.service.taskbook import State
from server.service.uploads import check_header
from tests.server.service.peers import (
    REPORT,
    Peer,
    enrolled,
    hosted,
    make_keyring,
    parts,
    push,
    update_blob,
)

from .fuzzing import bad_input, bad_message, reordered

LIMITS = Limits(calls=10**9, calls_per_s=1e9, keep_alive_s=0.02, stall_s=0.2, transfer_s=2.0)
ALLOWED = (BadMessage, Untrusted, Refusal)
AT_ONCE = 8  # of the 16 streams of a connection; those that were given up count for a moment longer
LONG_S = 20.0
STREAMS = ("Wait", "FetchModel")
ENDING = ("Leave", "Decline")  # after which calls about a task get no further
UPDATE = update_blob(values=500)

Counted = collections.Counter[str]


def fuzz_codec(count: int, seed: int) -> Counted:
    """`count` bad inputs to everything that reads bytes from outside. Raises what must not be raised."""
    rng = random.Random(seed)
    ends: Counted = collections.Counter()
    with tempfile.TemporaryDirectory() as folder:
        targets = list(codec_targets(Path(folder)).items())
        for number in range(count):
            name, (good, read) = targets[number % len(targets)]
            try:
                read(bad_input(good, rng))
            except ALLOWED as error:
                ends[f"{name}: {type(error).__name__}"] += 1
            else:
                ends[f"{name}: in order"] += 1
    return ends


def codec_targets(folder: Path) -> dict[str, tuple[list[bytes], Callable[[bytes], object]]]:
    """What reads bytes from outside, with bytes that it can read."""
    keys = make_keyring(folder / "keys")
    with hosted(folder / "store", keys, LIMITS) as host:
        device_id, identity = enrolled(host.store, keys)
        task = push(host, device_id)
        (signed,) = host.store.tasks.open_for(device_id, time.time()).values()
    now_s = time.time()
    authority = keys.authority.certificate
    ticket = pb.Ticket(protocol=PROTOCOL, secret=bytes(32), expires_at_s=now_s + 1e6)
    header = next(parts(task.task_id, UPDATE, a=1, b=0.5)).header
    blob = blob_of(io.BytesIO(UPDATE))
    chunk = next(chunks(io.BytesIO(UPDATE)))
    path = folder / "blob"

    def arrays(data: bytes) -> None:
        path.write_bytes(data)
        read_arrays(path)

    def opened(data: bytes) -> None:
        message = parsed(pb.SignedTask, data)
        found = open_task(message, authority=authority, device_id=device_id, now_s=now_s, seen=())
        _require(found == task, "a changed task was opened")

    def arriving(data: bytes) -> None:
        Arriving(blob).take(parsed(pb.Chunk, data))

    def announced(data: bytes) -> Blob:
        message = parsed(pb.UpdateHeader, data)
        from_numbers(message.metrics)
        return check_header(message, LIMITS)

    return {
        "task": ([signed.task], decode_task),
        "signed task": ([signed.SerializeToString()], opened),
        "chunk": ([chunk.SerializeToString()], arriving),
        "header": ([header.SerializeToString()], announced),
        "arrays": (
            [UPDATE, encode_arrays({"a": np.ones((2, 3)), "b": np.array(1)})],
            decode_arrays,
        ),
        "arrays in a file": ([UPDATE], arrays),
        "public key": ([identity.public_key], device_public_key),
        "ticket": (
            [write_ticket(ticket).encode()],
            lambda data: read_ticket(data.decode("latin-1"), now_s),
        ),
    }


def parsed(kind: Any, data: bytes) -> Any:
    """As the service reads a message."""
    try:
        return kind.FromString(data)
    except DecodeError as error:
        raise BadMessage("no such message") from error


def fuzz_service(count: int, seed: int) -> Counted:
    """`count` bad calls and streams from one device, while another takes part in rounds."""
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        keys = make_keyring(Path(folder) / "keys")
        with hosted(Path(folder) / "store", keys, LIMITS) as host:
            bad, good = (
                Peer(device_id, keys, host.port, identity)
                for device_id, identity in (enrolled(host.store, keys) for _ in range(2))
            )
            ended = threading.Event()
            with bad, good:
                for device in (bad, good):
                    device.stub.Report(REPORT)
                rounds = _Rounds(host, good, ended)
                rounds.start()
                ends = _attack(host, bad, rng, count)
                ended.set()
                rounds.join()
            _require_whole(host)
            _require(
                rounds.done > 0 and not rounds.failed,
                f"the other device was harmed: {rounds.failed}",
            )
            ends["rounds of the other device"] = rounds.done
            ends |= {f"counted: {r}": n for r, n in host.counts.refusals.items()}
    return ends


class _Rounds(threading.Thread):
    """A device that trains, one task after the other."""

    def __init__(self, host: Any, device: Peer, ended: threading.Event) -> None:
        super().__init__(daemon=True)
        self.host, self.device, self.ended = host, device, ended
        self.done, self.failed = 0, ""

    def run(self) -> None:
        """Take part until the end."""
        try:
            while not self.ended.is_set():
                task = push(self.host, self.device.device_id, b"model" * 50_000)
                _require(len(self.device.fetch(task)) == 250_000, "another model came")
                update = update_blob(values=20_000, seed=self.done)
                self.device.send(task.task_id, update)
                kept = self.host.store.blobs.update(task.task_id)
                _require(kept.read_bytes() == update, "another update was stored")
                kept.unlink()
                self.done += 1
        except (grpc.RpcError, AssertionError, OSError) as error:
            self.failed = repr(error)


def _attack(host: Any, device: Peer, rng: random.Random, count: int) -> Counted:
    ends: Counted = collections.Counter()
    calls: collections.deque[tuple[str, Any]] = collections.deque()
    for name, call in itertools.islice(_calls(host, device, rng), count):
        calls.append((name, call))
        if len(calls) >= AT_ONCE:
            ends[_end_of(*calls.popleft())] += 1
    while calls:
        ends[_end_of(*calls.popleft())] += 1
    return ends


def _calls(host: Any, device: Peer, rng: random.Random) -> Iterator[tuple[str, Any]]:
    """Bad calls without end, about tasks that are renewed now and then since some calls end them."""
    while True:
        tasks = [push(host, device.device_id) for _ in range(4)]
        good = _good(device, tasks)
        for _ in range(500):
            name = rng.choices(
                [*good, "SendUpdate"], [*(1 if n in ENDING else 20 for n in good), 60]
            )[0]
            path = f"/{SERVICE}/{name}"
            if name == "SendUpdate":
                whole = parts(rng.choice(tasks).task_id, UPDATE, chunk_bytes=900)
                sent = reordered(list(whole), rng)
                yield name, device.channel.stream_unary(path).future(iter(sent), timeout=LONG_S)
            elif name in STREAMS:
                data = bad_message(good[name], rng)
                yield name, device.channel.unary_stream(path)(data, timeout=LONG_S)
            else:
                data = bad_message(good[name], rng)
                yield name, device.channel.unary_unary(path).future(data, timeout=LONG_S)


def _good(device: Peer, tasks: list[Task]) -> dict[str, list[Message]]:
    """Requests that are in order, by method."""
    ids = [task.task_id for task in tasks]
    digest = next(parts(ids[0], UPDATE)).header.digest
    report = pb.Capabilities()
    report.CopyFrom(REPORT)
    report.workloads.add(name="watch", digest=bytes(32))
    return {
        "Hello": [pb.HelloRequest(protocol=PROTOCOL, client="fuzz")],
        "Enroll": [
            pb.EnrollRequest(
                secret=bytes(32),
                public_key=device.identity.public_key,
                proof=bytes(70),
                protocol=PROTOCOL,
            )
        ],
        "Report": [report],
        "Wait": [pb.WaitRequest(protocol=PROTOCOL, held=ids)],
        "FetchModel": [pb.FetchModelRequest(digest=tasks[0].model.digest, offset_bytes=1)],
        "UpdateOffset": [pb.UpdateOffsetRequest(task_id=i, digest=digest) for i in ids],
        "Decline": [pb.DeclineRequest(task_id=i, reason=1, detail="no") for i in ids],
        "Heartbeat": [pb.HeartbeatRequest(task_id=i) for i in ids],
        "Leave": [pb.LeaveRequest()],
    }


def _end_of(name: str, call: Any) -> str:
    """How a call ended. Raises AssertionError when it ended as none may."""
    try:
        if name in STREAMS:
            for _ in zip(call, range(3), strict=False):
                pass
            call.cancel()
        else:
            call.result()
    except grpc.RpcError as error:
        reason = dict(error.trailing_metadata() or ()).get(REASON_KEY)
        if reason in set(Reason) - {Reason.FAULT}:
            return f"{name}: {reason}"
        if error.code() is grpc.StatusCode.UNAVAILABLE and "RST_STREAM" in (error.details() or ""):
            return f"{name}: refused by gRPC itself, too many streams"
        raise AssertionError(f"{name} ended with {error.code()}: {error.details()}") from error
    return f"{name}: in order"


def _require_whole(host: Any) -> None:
    """Every update that was counted is one: all its bytes, with its digest, and readable."""
    for kept in host.store.tasks.kept():
        entry = host.store.tasks.find(kept.id)
        path = host.store.blobs.update(kept.id)
        if entry.state is State.DONE and path.exists():
            data = path.read_bytes()
            whole = hashlib.sha256(data).digest() == entry.update.digest
            _require(whole, "an update was counted that is not whole")
            decode_arrays(data)


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise AssertionError(what)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--codec", type=int, default=60_000, help="inputs to the codec")
    parser.add_argument("--service", type=int, default=60_000, help="calls to the service")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    for title, run, count in (
        ("codec", fuzz_codec, args.codec),
        ("service", fuzz_service, args.service),
    ):
        began = time.monotonic()
        ends = run(count, args.seed)
        print(f"{title}: {count} bad inputs in {time.monotonic() - began:.0f} s")
        for end, number in sorted(ends.items()):
            print(f"  {number:8} {end}")


if __name__ == "__main__":
    main()
