"""Bad inputs against the codec and the running device service, while another device's rounds go on.

    python -m benchmarks.fuzz_service --codec 60000 --service 60000 --seed 1

Every input must end in one of the refusals that are documented, or be a message that is really in order.
Nothing may fail inside, no update may be counted that is not whole, and the other device must
finish its rounds with receipts. The command ends with 1 when any of this does not hold.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import hashlib
import itertools
import random
import socket
import ssl
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.message import Message

from protos import device_pb2 as pb
from protos.arrays import decode_arrays
from protos.tasks import Task
from protos.trust import PROTOCOL
from server.keyring import write_identity
from server.service.handlers import SERVICE
from server.service.limits import Limits
from server.service.refusals import REASON_KEY, Reason
from server.service.taskbook import State
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

from .fuzz_codec import fuzz_codec
from .fuzzing import bad_message, reordered

LIMITS = Limits(calls=10**9, calls_per_s=1e9, keep_alive_s=0.02, stall_s=0.2, transfer_s=2.0)
AT_ONCE = 8  # of the 16 streams of a connection; those that were given up count for a moment longer
LONG_S = 20.0
STREAMS = ("Wait", "FetchModel")
ENDING = ("Leave", "Decline")  # after which calls about a task get no further
UPDATE = update_blob(values=500)

Counted = collections.Counter[str]


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
            _require(Reason.FAULT not in host.counts.refusals, "a call failed inside; see above")
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
        for _ in range(100):
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


def fuzz_connections(count: int, seed: int) -> Counted:
    """`count` connections that carry noise somewhere; after them a device takes part in a round."""
    rng = random.Random(seed)
    ends: Counted = collections.Counter()
    with tempfile.TemporaryDirectory() as folder:
        keys = make_keyring(Path(folder) / "keys")
        with hosted(Path(folder) / "store", keys, LIMITS) as host:
            device_id, identity = enrolled(host.store, keys)
            write_identity(Path(folder), "device", identity)
            (Path(folder) / "authority.pem").write_bytes(keys.authority.certificate_pem)
            context = ssl.create_default_context(cafile=Path(folder) / "authority.pem")
            context.load_cert_chain(Path(folder) / "device.pem", Path(folder) / "device.key")
            context.set_alpn_protocols(["h2"])
            for _ in range(count):
                ends[_connect(host.port, context, rng)] += 1
            with Peer(device_id, keys, host.port, identity) as device:
                device.stub.Report(REPORT)
                task = push(host, device_id)
                device.fetch(task)
                device.send(task.task_id, UPDATE)
    return ends


def _connect(port: int, context: ssl.SSLContext, rng: random.Random) -> str:
    """One connection that sends noise, and how it is opened."""
    kind = rng.choice(("plain", "in TLS", "in HTTP/2"))
    noise = rng.randbytes(rng.choice((0, 1, 100, 5000)))
    with (
        contextlib.suppress(OSError),
        socket.create_connection(("localhost", port), LONG_S) as plain,
    ):
        if kind == "plain":
            plain.sendall(rng.choice((b"", b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01")) + noise)
            return kind
        with context.wrap_socket(plain, server_hostname="localhost") as secure:
            preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
            secure.sendall((preface if kind == "in HTTP/2" else b"") + noise)
    return kind


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
    parser.add_argument("--connections", type=int, default=2000, help="connections with noise")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    for title, run, count in (
        ("codec", fuzz_codec, args.codec),
        ("service", fuzz_service, args.service),
        ("connections", fuzz_connections, args.connections),
    ):
        began = time.monotonic()
        ends = run(count, args.seed)
        print(f"{title}: {count} bad inputs in {time.monotonic() - began:.0f} s")
        for end, number in sorted(ends.items()):
            print(f"  {number:8} {end}")


if __name__ == "__main__":
    main()
