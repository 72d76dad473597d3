"""Tasks and models as a coordinator would have sent them, put into a device's vault."""

from __future__ import annotations

import hashlib

import numpy as np

from client.device import ask
from client.device.vault import Vault
from client.state import initial_arrays
from client.workload import load_workload
from protos.arrays import encode_arrays, forms
from protos.blobs import Blob
from protos.device_pb2 import SignedTask
from protos.tasks import Task, encode_task, workload_digest

SEED = 5


def model(workload: str = "digits") -> dict[str, np.ndarray]:
    return initial_arrays(load_workload(workload), SEED)


def a_task(
    arrays, *, number: int = 1, name: str = "digits", hints: bytes = b"", **config
) -> tuple[Task, bytes]:
    blob = encode_arrays(arrays)
    task = Task(
        task_id=number.to_bytes(16, "big"),
        device_id=7,
        run_id=1,
        kind="train",
        round_number=number,
        workload=name,
        workload_digest=workload_digest(name, forms(arrays)),
        config={"seed": SEED, "server-round": number, "local-epochs": 1, **config},
        plan_hints=hints,
        model=Blob(digest=hashlib.sha256(blob).digest(), size_bytes=len(blob)),
        issued_at_s=0.0,
        expires_at_s=1e12,
    )
    return task, blob


def keep(vault: Vault, task: Task, blob: bytes) -> str:
    """The task's id in hexadecimal, once it and its model lie in the vault."""
    vault.put(ask.model_record(task.model.digest.hex()), blob)
    signed = SignedTask(task=encode_task(task))
    vault.put(ask.task_record(task.task_id.hex()), signed.SerializeToString())
    return task.task_id.hex()
