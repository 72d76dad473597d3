"""A device believes nothing that its authority did not sign for it, once and in time."""

from __future__ import annotations

import secrets
import time
from dataclasses import replace

import pytest

from protos.device_pb2 import SignedTask
from protos.tasks import encode_task, sign_task
from server.service.taskbook import NewTask, State
from tests.client.device.joined import device, eventually, state, task_for
from tests.client.device.kept import model
from tests.client.device.test_join import done
from tests.server.service.peers import enrolled, make_keyring

pytestmark = pytest.mark.slow


def put(host, task, signed: SignedTask, device_id: int):
    """A task in the coordinator's store that its engine would never have put there."""
    listed = replace(task, device_id=device_id)
    host.store.tasks.push([NewTask(task=listed, signed=signed, group_id="1")])
    host.tell([device_id])
    return listed


def test_what_is_not_to_be_believed_is_never_run(host, keys, tmp_path):
    with device(host, tmp_path / "device") as joined:
        good = task_for(host, joined.id, model())
        assert done(host, good, joined) is State.DONE
        (child,) = joined.children()
        tasks = host.keys.tasks

        def fresh(**change):
            return replace(good, task_id=secrets.token_bytes(16), **change)

        def signed(task):
            return sign_task(encode_task(task), tasks.key, tasks.certificate)

        foreign = make_keyring(tmp_path / "foreign").tasks
        other_id, other = enrolled(host.store, keys)
        bad = []
        task = fresh()
        bad.append(
            put(
                host,
                task,
                sign_task(encode_task(task), foreign.key, foreign.certificate),
                joined.id,
            )
        )
        task = fresh()
        bad.append(
            put(host, task, sign_task(encode_task(task), other.key, other.certificate), joined.id)
        )
        task = fresh()
        torn = signed(task)
        torn.signature = torn.signature[:-1] + bytes([torn.signature[-1] ^ 1])
        bad.append(put(host, task, torn, joined.id))
        task = fresh()
        torn = signed(task)
        torn.task = encode_task(replace(task, config={"seed": 666}))
        bad.append(put(host, task, torn, joined.id))
        for each in bad:
            assert done(host, each, joined) is State.DECLINED
            assert "bad task" in host.store.tasks.find(each.task_id).reason
        task = fresh(device_id=other_id)
        put(host, task, signed(task), joined.id)
        eventually("its refusal", lambda: f"a task for device {other_id}" in joined.log)

        unknown = [fresh(workload="watch"), fresh(workload_digest=bytes(32)), fresh(kind="query")]
        for task in unknown:
            put(host, task, signed(task), joined.id)
            assert done(host, task, joined) is State.DECLINED
            assert "unknown workload" in host.store.tasks.find(task.task_id).reason

        # A task that was done comes again, under another name in the coordinator's book.
        again = put(host, fresh(), host.store.tasks.find(good.task_id).signed, joined.id)
        eventually("the replay to be refused", lambda: "came before" in joined.log)
        assert state(host, again) is State.OPEN

        after = task_for(host, joined.id, model(), number=2)
        assert done(host, after, joined) is State.DONE
        assert joined.children() == [child]
        assert joined.log.count(" trained in ") == 2


def test_a_task_that_expires_is_given_up(host, tmp_path):
    with device(host, tmp_path / "device") as joined:
        endless = task_for(host, joined.id, model(), **{"local-epochs": 10**8})
        eventually("training", lambda: "round 1" in joined.log)
        joined.end()
        short = replace(endless, task_id=secrets.token_bytes(16), expires_at_s=time.time() + 15)
        host.store.tasks.withdraw([endless.task_id], time.time())
        tasks = host.keys.tasks
        put(host, short, sign_task(encode_task(short), tasks.key, tasks.certificate), joined.id)
        joined.start()
        over = f"task {short.task_id.hex()} is withdrawn or expired"
        eventually("its expiry", lambda: over in joined.log, 40)
        assert time.time() < short.expires_at_s + 5
        eventually("the end of the child", lambda: not joined.children(), 5)
        assert not list(joined.state_folder.glob("task-*"))
