from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from client.device import ask
from client.device.ledger import Ledger
from client.device.vault import CHUNK_BYTES, Vault
from protos.device_pb2 import DeclineReason, DeclineRequest, SignedTask, UpdateHeader
from protos.tasks import encode_task
from tests.client.device.kept import a_task

MODEL = {"w": np.ones(4, np.float32)}


def taken(vault: Vault, number: int, *, arrays=MODEL, now_s: float = 10.0):
    """A task that was accepted, with its model."""
    task, blob = a_task(arrays, number=number)
    task = replace(task, issued_at_s=float(number), expires_at_s=100.0 + number)
    Ledger(vault).accept(SignedTask(task=encode_task(task)), task, now_s)
    vault.put(ask.model_record(task.model.digest.hex()), blob)
    return task


def trained(vault: Vault, task, *, lost: bytes | None = None, blob: bytes = b"update"):
    name = task.task_id.hex()
    if lost is not None:
        vault.put(ask.lost_record(name), lost)
    vault.put(ask.blob_record(name), blob)
    header = UpdateHeader(task_id=task.task_id, digest=bytes(32), size_bytes=len(blob))
    vault.put(ask.update_record(name), header.SerializeToString())


def of_tasks(vault: Vault) -> set[str]:
    return {n for n in vault.names() if not n.startswith(("seen", "owed"))}


def test_tasks_are_there_again_after_a_restart_the_oldest_first(tmp_path):
    vault = Vault(tmp_path)
    tasks = [taken(vault, number) for number in (3, 1, 2)]
    again = Ledger(Vault(tmp_path))
    assert again.tasks() == (tasks[1], tasks[2], tasks[0])
    assert again.seen() == {task.task_id for task in tasks}


def test_a_task_that_is_over_leaves_only_its_id(tmp_path):
    vault = Vault(tmp_path)
    ledger, task = Ledger(vault), taken(vault, 1)
    trained(vault, task)
    assert ledger.update(task).size_bytes == 6
    ledger.received(task, 20.0)
    assert ledger.tasks() == ()
    assert of_tasks(vault) == set()
    assert task.task_id in ledger.seen()


def test_ids_are_kept_until_their_task_has_expired(tmp_path):
    vault = Vault(tmp_path)
    ledger, first = Ledger(vault), taken(vault, 1)
    ledger.forget(first, 20.0)
    second = taken(vault, 50, now_s=101.0)  # the first expires at 101
    assert ledger.seen() == {first.task_id, second.task_id}
    ledger.forget(second, 102.0)
    assert ledger.seen() == {second.task_id}
    assert set(json.loads(vault.get("seen"))) == {second.task_id.hex()}


def test_a_decline_waits_to_be_sent_and_gives_up_the_rest(tmp_path):
    vault = Vault(tmp_path)
    ledger, task = Ledger(vault), taken(vault, 1)
    trained(vault, task, lost=b"lost")
    request = DeclineRequest(task_id=task.task_id, reason=DeclineReason.DECLINE_REASON_POLICY)
    ledger.decline(task, request)
    assert Ledger(Vault(tmp_path)).declined(task) == request
    name = task.task_id.hex()
    assert of_tasks(vault) == {ask.task_record(name), ask.decline_record(name)}
    ledger.forget(task, 20.0)
    assert of_tasks(vault) == set()


def test_a_model_stays_as_long_as_a_task_needs_it(tmp_path):
    vault = Vault(tmp_path)
    ledger, first, second = Ledger(vault), taken(vault, 1), taken(vault, 2)
    model = ask.model_record(first.model.digest.hex())
    ledger.forget(first, 20.0)
    assert model in vault
    ledger.forget(second, 20.0)
    assert model not in vault


def test_what_compression_lost_is_owed_once_the_update_has_arrived(tmp_path):
    vault = Vault(tmp_path)
    ledger, first, second, third = Ledger(vault), *(taken(vault, n) for n in (1, 2, 3))
    owed = ask.owed_record(first.workload_digest.hex())
    trained(vault, first, lost=b"first")
    ledger.received(first, 20.0)
    assert vault.get(owed) == first.task_id.hex().encode()
    trained(vault, second, lost=b"second")
    ledger.forget(second, 20.0)  # withdrawn: what it would have told was never told
    assert vault.get(ask.lost_record(first.task_id.hex())) == b"first"
    trained(vault, third, lost=b"third")
    ledger.received(third, 20.0)
    assert vault.get(owed) == third.task_id.hex().encode()
    assert vault.names(ask.lost_record("")) == (ask.lost_record(third.task_id.hex()),)


def test_what_a_killed_process_left_is_swept(tmp_path):
    vault = Vault(tmp_path)
    ledger, task = Ledger(vault), taken(vault, 1)
    trained(vault, task, lost=b"lost")
    before = of_tasks(vault)
    for kind in (ask.update_record, ask.blob_record, ask.decline_record, ask.lost_record):
        vault.put(kind("ab" * 16), b"orphan")
    vault.put(ask.model_record("cd" * 32), b"orphan")
    vault.put("identity", b"mine")
    vault.put(ask.plan_record("ef" * 32), b"plan")
    ledger.sweep()
    assert of_tasks(vault) == before | {"identity", ask.plan_record("ef" * 32)}


@pytest.mark.parametrize("offset", [0, 5, 1000, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 7])
@pytest.mark.parametrize("most", [1000, CHUNK_BYTES])
def test_updates_leave_from_any_byte_in_pieces_of_any_size(tmp_path, offset, most):
    vault = Vault(tmp_path)
    ledger, task = Ledger(vault), taken(vault, 1)
    blob = bytes(range(256)) * (CHUNK_BYTES // 256) + b"and a little more"
    trained(vault, task, blob=blob)
    pieces = list(ledger.pieces(task, offset, most))
    assert b"".join(pieces) == blob[offset:]
    assert max(map(len, pieces)) <= most
