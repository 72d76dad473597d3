"""Tasks: a device opens what the coordinator signed for it, once, and nothing else."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protos.blobs import Blob
from protos.device_pb2 import SignedTask
from protos.tasks import (
    Task,
    decode_task,
    encode_task,
    open_task,
    sign_task,
    workload_digest,
)
from protos.trust import Role
from scheduler.errors import BadInput, BadMessage, Untrusted
from server.identity import issue_new, make_authority
from tests.strategies import tasks

NOW_S = 1_800_000_000.0
DAY_S = 86_400.0
AUTHORITY = make_authority("a", now_s=NOW_S, valid_s=10 * DAY_S)
SIGNER = issue_new(AUTHORITY, Role.TASKS, "tasks", now_s=NOW_S, valid_s=5 * DAY_S)
TASK = Task(
    task_id=bytes(range(16)),
    device_id=7,
    run_id=1,
    kind="train",
    round_number=3,
    workload="watch",
    workload_digest=bytes(32),
    config={"seed": 1, "deadline-factor": 1.5, "name": "x", "flag": True, "data": b"\0"},
    model=Blob(digest=bytes(32), size_bytes=10),
    issued_at_s=NOW_S,
    expires_at_s=NOW_S + 100,
)


def signed(task: Task = TASK, by=SIGNER) -> SignedTask:
    return sign_task(encode_task(task), by.key, by.certificate)


def opened(task: SignedTask, **change) -> Task:
    given = {"authority": AUTHORITY.certificate, "device_id": 7, "now_s": NOW_S, "seen": ()}
    return open_task(task, **(given | change))


SIGNED = signed().SerializeToString()


@given(tasks())
def test_a_task_arrives_as_it_was(task):
    assert decode_task(encode_task(task)) == task
    assert encode_task(decode_task(encode_task(task))) == encode_task(task)
    task = dataclasses.replace(task, expires_at_s=NOW_S)
    arrived = opened(signed(task), device_id=task.device_id)
    assert arrived == task
    # 1, 1.0 and True are equal and still three things.
    assert {k: type(v) for k, v in arrived.config.items()} == {
        k: type(v) for k, v in task.config.items()
    }


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"device_id": 8}, "for device 7"),
        ({"now_s": NOW_S + 101}, "expired 1 s ago"),
        ({"seen": {TASK.task_id}}, "came before"),
        ({"now_s": NOW_S + 6 * DAY_S}, "valid from"),
        ({"now_s": NOW_S - DAY_S}, "valid from"),
    ],
)
def test_what_a_device_does_not_open(change, says):
    assert opened(signed()) == TASK
    with pytest.raises(Untrusted, match=says):
        opened(signed(), **change)


def test_a_task_of_another_authority():
    other = make_authority("a", now_s=NOW_S, valid_s=DAY_S)
    signer = issue_new(other, Role.TASKS, "tasks", now_s=NOW_S, valid_s=DAY_S)
    with pytest.raises(Untrusted, match="another authority"):
        opened(signed(by=signer))


@pytest.mark.parametrize("role", [Role.DEVICE, Role.COORDINATOR, Role.ENROLLMENT])
def test_nobody_but_the_holder_of_the_role_signs_tasks(role):
    signer = issue_new(AUTHORITY, role, "7", now_s=NOW_S, valid_s=DAY_S)
    with pytest.raises(Untrusted, match=f"role {role}"):
        opened(signed(by=signer))


def test_the_authority_itself_signs_no_tasks():
    with pytest.raises(Untrusted):
        opened(signed(by=AUTHORITY))


@given(st.data())
def test_no_changed_byte_is_opened(data):
    message = SignedTask.FromString(SIGNED)
    name = data.draw(st.sampled_from(["task", "signature", "certificate"]))
    changed = bytearray(getattr(message, name))
    where = data.draw(st.integers(0, len(changed) - 1))
    changed[where] ^= 1 << data.draw(st.integers(0, 7))
    setattr(message, name, bytes(changed))
    with pytest.raises((Untrusted, BadMessage)):
        opened(message)


@given(st.binary(max_size=200), st.binary(max_size=80), st.binary(max_size=200))
def test_noise_is_not_opened(task, signature, certificate):
    with pytest.raises((Untrusted, BadMessage)):
        opened(SignedTask(task=task, signature=signature, certificate=certificate))
    with contextlib.suppress(BadMessage):
        decode_task(task)


def test_a_list_cannot_be_sent():
    with pytest.raises(BadInput, match="lr"):
        encode_task(dataclasses.replace(TASK, config={"lr": [1.0]}))


def test_the_digest_of_a_workload_depends_on_all_of_it_and_not_on_the_order():
    arrays = [("b", "F32", (2, 3)), ("a", "I64", ())]
    digest = workload_digest("watch", arrays)
    assert digest == workload_digest("watch", reversed(arrays))
    # From device.proto, by hand.
    assert digest == hashlib.sha256(b"watch\0a\0I64\0\0b\0F32\x002,3\0").digest()
    others = [
        ("wotch", arrays),
        ("watch", arrays[:1]),
        ("watch", [("b", "F32", (3, 2)), arrays[1]]),
        ("watch", [("b", "F64", (2, 3)), arrays[1]]),
        ("watch", [("c", "F32", (2, 3)), arrays[1]]),
    ]
    assert len({workload_digest(*o) for o in others} | {digest}) == 6
