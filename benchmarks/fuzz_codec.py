"""Bad inputs to everything that reads bytes from outside: the codec's part of `benchmarks.fuzz_service`."""

from __future__ import annotations

import collections
import io
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from protos import device_pb2 as pb
from protos.arrays import decode_arrays, encode_arrays, read_arrays
from protos.blobs import Arriving, Blob, blob_of, chunks
from protos.tasks import decode_task, open_task
from protos.trust import PROTOCOL, read_ticket, write_ticket
from protos.values import from_numbers
from scheduler.errors import BadMessage, Untrusted
from server.identity import device_public_key
from server.service.limits import Limits
from server.service.refusals import Refusal
from server.service.requests import check_header
from tests.server.service.peers import enrolled, hosted, make_keyring, parts, push, update_blob

from .fuzzing import bad_input

ALLOWED = (BadMessage, Untrusted, Refusal)
LIMITS = Limits()
UPDATE = update_blob(values=500)


def fuzz_codec(count: int, seed: int) -> collections.Counter[str]:
    """`count` bad inputs to everything that reads bytes from outside. Raises what must not be raised."""
    rng = random.Random(seed)
    ends: collections.Counter[str] = collections.Counter()
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
        if found != task:
            raise AssertionError("a changed task was opened")

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
