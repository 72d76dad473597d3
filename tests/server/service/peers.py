"""A coordinator on loopback, and devices that call it with the generated code."""

from __future__ import annotations

import contextlib
import hashlib
import io
import secrets
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import numpy as np
import pytest

from protos import device_pb2 as pb
from protos import device_pb2_grpc
from protos.arrays import encode_arrays
from protos.blobs import Blob, blob_of, chunks
from protos.tasks import Task, encode_task, open_task, sign_task
from protos.trust import PROTOCOL
from server.identity import Identity
from server.keyring import Keyring, make_coordinator, make_device, make_keys, read_keys
from server.service.host import ServiceHost
from server.service.limits import Limits
from server.service.store import Store, open_store
from server.service.taskbook import NewTask

MODEL = b"model" * 1000
MODEL_DIGEST = hashlib.sha256(MODEL).digest()
REPORT = pb.Capabilities(
    profile="raspberry-pi-4b",
    device_kind="test",
    free_ram_bytes=10**9,
    ram_budget_bytes=10**8,
    charging=True,
    idle=True,
    unmetered=True,
    ready=True,
)


def new_id() -> int:
    return secrets.randbelow(2**63 - 1) + 1


def make_keyring(folder: Path, now_s: float | None = None) -> Keyring:
    now_s = time.time() if now_s is None else now_s
    make_keys(folder, now_s=now_s)
    make_coordinator(folder, ["localhost", "127.0.0.1"], now_s=now_s)
    return read_keys(folder)


@contextlib.contextmanager
def hosted(
    folder: Path, keys: Keyring, limits: Limits | None = None, port: int = 0
) -> Iterator[ServiceHost]:
    """The service on a store in `folder`."""
    store = open_store(folder)
    try:
        with ServiceHost(
            store=store,
            keys=keys,
            address=f"127.0.0.1:{port}",
            limits=limits or Limits(calls=10_000, calls_per_s=1e6),
            now_s=time.time,
            new_id=new_id,
        ) as host:
            yield host
    finally:
        store.close()


def enrolled(store: Store, keys: Keyring, label: str = "device") -> tuple[int, Identity]:
    """A device whose certificate was made by hand."""
    device_id, now_s = new_id(), time.time()
    identity = make_device(keys.authority, device_id, now_s=now_s)
    store.roster.add(device_id, label, identity.public_key, identity.certificate, now_s)
    return device_id, identity


def channel(port: int, keys: Keyring, identity: Identity | None) -> grpc.Channel:
    credentials = grpc.ssl_channel_credentials(
        root_certificates=keys.authority.certificate_pem,
        private_key=None if identity is None else identity.key_pem,
        certificate_chain=None if identity is None else identity.certificate_pem,
    )
    # Else channels of one process to one port with equal credentials share a connection.
    options = [("grpc.use_local_subchannel_pool", 1)]
    return grpc.secure_channel(f"localhost:{port}", credentials, options)


@dataclass
class Peer:
    """A device. `stub` calls the service with its certificate."""

    device_id: int
    keys: Keyring
    port: int
    identity: Identity
    seen: set[bytes] = field(default_factory=set)
    models: dict[bytes, bytes] = field(default_factory=dict)

    def __enter__(self) -> Peer:
        self.channel = channel(self.port, self.keys, self.identity)
        self.stub = device_pb2_grpc.DeviceServiceStub(self.channel)
        return self

    def __exit__(self, *_: object) -> None:
        self.channel.close()

    def wait(self, held: tuple[bytes, ...] = (), timeout_s: float = 20) -> grpc.Future:
        return self.stub.Wait(pb.WaitRequest(protocol=PROTOCOL, held=held), timeout=timeout_s)

    def next_task(self, waiting) -> Task:
        for notice in waiting:
            if notice.WhichOneof("notice") == "task":
                return self.opened(notice.task)
        raise AssertionError("the stream ended without a task")

    def opened(self, signed: pb.SignedTask) -> Task:
        task = open_task(
            signed,
            authority=self.keys.authority.certificate,
            device_id=self.device_id,
            now_s=time.time(),
            seen=self.seen,
        )
        self.seen.add(task.task_id)
        self.models[task.task_id] = task.model.digest
        return task

    def fetch(self, task: Task, offset_bytes: int = 0) -> bytes:
        self.models[task.task_id] = task.model.digest
        request = pb.FetchModelRequest(digest=task.model.digest, offset_bytes=offset_bytes)
        return b"".join(c.data for c in self.stub.FetchModel(request, timeout=60))

    def send(self, task_id: bytes, data: bytes, offset_bytes: int = 0, **metrics) -> pb.Receipt:
        digest = self.models.get(task_id, MODEL_DIGEST)
        sent = parts(task_id, data, offset_bytes, model_digest=digest, **metrics)
        return self.stub.SendUpdate(sent, timeout=60)


@contextlib.contextmanager
def peer(host: ServiceHost, *, report: bool = True, label: str = "device") -> Iterator[Peer]:
    """An enrolled device that has reported."""
    device_id, identity = enrolled(host.store, host.keys, label)
    with Peer(device_id, host.keys, host.port, identity) as found:
        if report:
            found.stub.Report(REPORT, timeout=60)
        yield found


def parts(
    task_id: bytes,
    data: bytes,
    offset_bytes: int = 0,
    chunk_bytes: int = 2**18,
    model_digest: bytes = MODEL_DIGEST,
    plan_digest: bytes = b"",
    **metrics,
) -> Iterator[pb.UpdatePart]:
    """The messages of an update, from an offset on."""
    file = io.BytesIO(data)
    blob = blob_of(file)
    numbers = {
        name: pb.Number(integer=v) if isinstance(v, int) else pb.Number(real=v)
        for name, v in metrics.items()
    }
    yield pb.UpdatePart(
        header=pb.UpdateHeader(
            task_id=task_id,
            digest=blob.digest,
            size_bytes=blob.size_bytes,
            offset_bytes=offset_bytes,
            metrics=numbers,
            model_digest=model_digest,
            plan_digest=plan_digest,
        )
    )
    for chunk in chunks(file, offset_bytes=offset_bytes, chunk_bytes=chunk_bytes):
        yield pb.UpdatePart(chunk=chunk)


def update_blob(values: int = 100, seed: int = 0) -> bytes:
    """An update of one array."""
    return encode_arrays({"w": np.random.default_rng(seed).random(values)})


def push(host: ServiceHost, device_id: int, model=MODEL, **change) -> Task:
    """A signed task for a device. `model` is its bytes, or what writes them to a path."""
    write = model if callable(model) else lambda path: path.write_bytes(model)
    blob: Blob = host.store.blobs.add_model(write)
    now_s = time.time()
    given = {
        "task_id": secrets.token_bytes(16),
        "device_id": device_id,
        "run_id": 1,
        "kind": "train",
        "round_number": 1,
        "workload": "watch",
        "workload_digest": bytes(32),
        "config": {"seed": 3, "deadline-factor": 1.5},
        "model": blob,
        "issued_at_s": now_s,
        "expires_at_s": now_s + 3600,
    }
    task = Task(**(given | change))
    tasks = host.keys.tasks
    signed = sign_task(encode_task(task), tasks.key, tasks.certificate)
    host.store.tasks.push([NewTask(task=task, signed=signed, group_id="1")])
    host.tell([device_id])
    return task


@contextlib.contextmanager
def refused(*reasons: str) -> Iterator[None]:
    """The call inside is refused for one of these reasons."""
    with pytest.raises(grpc.RpcError) as caught:
        yield
    trailing = dict(caught.value.trailing_metadata() or ())
    assert trailing.get("fedpoet-reason") in reasons, (caught.value.code(), caught.value.details())


def eventually(what: str, done, timeout_s: float = 30) -> None:
    until = time.monotonic() + timeout_s
    while not done():
        if time.monotonic() > until:
            raise TimeoutError(what)
        threading.Event().wait(0.01)
