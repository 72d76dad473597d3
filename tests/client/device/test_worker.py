from __future__ import annotations

import asyncio
import hashlib
import os
import time
from pathlib import Path

import numpy as np
import pytest

from client.device import ask
from client.device.ask import Describe, Described, Failed, Fault, Owner, Train, Trained
from client.device.vault import Vault
from client.device.worker import ChildDied, Worker
from client.node import Node, Settings
from protos.arrays import decode_arrays, encode_arrays
from protos.compression import decode_update
from protos.device_pb2 import UpdateHeader
from protos.values import from_numbers
from tests.client.device.kept import SEED, a_task, keep, model

OWNER = Owner(device="phone-pixel-6", ram_bytes=64_000_000, partition=3)

# Trains for ever, and says in a file that it has begun.
ENDLESS = """
import time
from dataclasses import replace
from pathlib import Path
from client.workloads.digits import WORKLOAD

def data(partition):
    Path(__file__).with_suffix(".began").touch()
    return WORKLOAD.data(partition)

endless = replace(WORKLOAD, data=data, local_epochs=10**9)
"""


def run(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, 120))


def expected(arrays, number, **settings):
    """The update of the same device in this process."""
    node = Settings(
        workload="digits",
        seed=SEED,
        local_epochs=1,
        device=OWNER.device,
        ram_bytes=OWNER.ram_bytes,
        partition=OWNER.partition,
        **settings,
    )
    return Node(node, {}).train(arrays, number)


def update_in(vault: Vault, task: str):
    header = UpdateHeader.FromString(vault.get(ask.update_record(task)))
    blob = vault.get(ask.blob_record(task))
    assert header.digest == hashlib.sha256(blob).digest()
    assert header.size_bytes == len(blob)
    return from_numbers(header.metrics), blob


def is_running(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


async def until(true, within_s: float = 60) -> None:
    end = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < end
        await asyncio.sleep(0.01)


def test_updates_are_those_of_the_node_bit_for_bit(tmp_path):
    vault, arrays = Vault(tmp_path), model()

    async def two_rounds():
        worker = Worker(tmp_path, OWNER, keep_warm_s=60)
        described = await worker.ask(Describe(workload="digits"))
        first = keep(vault, *a_task(arrays))
        assert await worker.ask(Train(task=first, workload="digits")) == Trained(task=first)
        child = worker.pid
        metrics, blob = update_in(vault, first)
        trained = decode_arrays(blob)
        second = keep(vault, *a_task(trained, number=2))
        await worker.ask(Train(task=second, workload="digits"))
        assert worker.pid == child
        await worker.stop()
        assert not is_running(child)
        return described, metrics, trained, decode_arrays(update_in(vault, second)[1])

    described, metrics, trained, twice = run(two_rounds())
    plain = expected(arrays, 1)
    assert described == Described(name="digits", digest=a_task(arrays)[0].workload_digest.hex())
    assert metrics == plain.metrics
    assert {n: type(m) for n, m in metrics.items()} == {
        n: type(m) for n, m in plain.metrics.items()
    }
    for name, value in plain.arrays.items():
        np.testing.assert_array_equal(trained[name], value)
    for name, value in expected(trained, 2).arrays.items():
        np.testing.assert_array_equal(twice[name], value)
    assert vault.names("plan-")
    no_plain_text_on_disk(tmp_path, trained)


def test_an_update_says_which_model_it_began_with_and_whose_plan_was_followed(tmp_path):
    """The plan kept from the first task is the coordinator's from then on; noise is no plan."""
    arrays, headers = model(), []

    async def train(name: str, hints: bytes) -> bytes:
        vault, worker = Vault(tmp_path / name), Worker(tmp_path / name, OWNER, keep_warm_s=60)
        task = keep(vault, *a_task(arrays, hints=hints))
        await worker.ask(Train(task=task, workload="digits"))
        await worker.stop()
        (plan,) = vault.names("plan-")
        headers.append(UpdateHeader.FromString(vault.get(ask.update_record(task))))
        return vault.get(plan)

    plan = run(train("own", b"no plan"))
    assert run(train("hinted", plan)) == plan
    own, hinted = headers
    assert own.model_digest == hinted.model_digest == hashlib.sha256(encode_arrays(arrays)).digest()
    assert (own.plan_digest, hinted.plan_digest) == (b"", hashlib.sha256(plan).digest())


def no_plain_text_on_disk(folder: Path, arrays) -> None:
    secrets = [value.tobytes()[:64] for value in arrays.values() if value.nbytes > 63]
    secrets += [b"digits", b"graph_digest", b"local-epochs"]
    for path in folder.rglob("*"):
        if path.is_file():
            assert path.stat().st_mode & 0o077 == 0
            content = path.read_bytes()
            assert not any(secret in content for secret in secrets), path


@pytest.mark.slow
def test_a_child_without_work_gives_its_memory_back(tmp_path):
    async def one():
        worker = Worker(tmp_path, OWNER, keep_warm_s=0.2)
        await worker.ask(Describe(workload="digits"))
        child = worker.pid
        assert is_running(child)
        await until(lambda: not is_running(child), 5)
        assert worker.pid is None
        assert isinstance(await worker.ask(Describe(workload="digits")), Described)
        await worker.stop()

    run(one())


def test_training_that_is_stopped_is_over_within_two_seconds(tmp_path):
    (tmp_path / "own.py").write_text(ENDLESS)
    vault = Vault(tmp_path / "state")
    task, blob = a_task(model(), **{"local-epochs": 10**9})
    name = keep(vault, task, blob)

    async def stop_it():
        worker = Worker(vault.folder, OWNER, keep_warm_s=60)
        workload = f"{tmp_path / 'own.py'}:endless"
        training = asyncio.create_task(worker.ask(Train(task=name, workload=workload)))
        await until((tmp_path / "own.began").exists)
        await asyncio.sleep(3)  # into planning, or training
        child, began = worker.pid, time.monotonic()
        training.cancel()
        with pytest.raises(asyncio.CancelledError):
            await training
        assert time.monotonic() - began < 2
        assert not is_running(child)

    run(stop_it())
    assert vault.get(ask.model_record(task.model.digest.hex())) == blob
    assert vault.get(ask.update_record(name)) is None
    assert not list((vault.folder / "pages").iterdir())


@pytest.mark.slow
def test_a_child_that_is_killed_is_an_error_and_the_next_one_works(tmp_path):
    async def kill_it():
        worker = Worker(tmp_path, OWNER, keep_warm_s=60)
        asking = asyncio.create_task(worker.ask(Describe(workload="digits")))
        await until(lambda: worker.pid is not None)
        os.kill(worker.pid, 9)
        with pytest.raises(ChildDied, match="SIGKILL"):
            await asking
        assert isinstance(await worker.ask(Describe(workload="digits")), Described)
        await worker.stop()

    run(kill_it())


@pytest.mark.slow
def test_the_child_ends_with_its_parent(tmp_path):
    async def lose_the_parent():
        worker = Worker(tmp_path, OWNER, keep_warm_s=60)
        await worker.ask(Describe(workload="digits"))
        child = worker.pid
        worker._child.questions.close()  # what the end of a process does to its pipes
        await until(lambda: not is_running(child) or zombie(child), 5)
        await worker.stop()

    def zombie(pid):
        return " Z " in Path(f"/proc/{pid}/stat").read_text()

    run(lose_the_parent())


@pytest.mark.slow
def test_what_fails_is_told_without_the_text_of_the_error(tmp_path, capfd):
    vault = Vault(tmp_path)
    small, large = a_task(model()), a_task(model(), number=2, seed="patient Jane")

    async def fail_twice():
        poor = Worker(tmp_path, Owner(device="phone-pixel-6", ram_bytes=1000), keep_warm_s=60)
        first = await poor.ask(Train(task=keep(vault, *small), workload="digits"))
        second = await poor.ask(Train(task=keep(vault, *large), workload="digits"))
        await poor.stop()
        return first, second

    first, second = run(fail_twice())
    assert isinstance(first, Failed)
    assert first.fault is Fault.INFEASIBLE
    assert "1000" in first.detail or "1,000" in first.detail
    assert second == Failed(fault=Fault.FAILED, detail="BadInput on the device; its log says more")
    assert "patient Jane" in capfd.readouterr().err


@pytest.mark.slow
def test_compressed_updates_keep_what_they_lose(tmp_path):
    vault, arrays = Vault(tmp_path), model()
    task, blob = a_task(arrays, compression="top-k:0.05")

    async def one():
        worker = Worker(tmp_path, OWNER, keep_warm_s=60)
        await worker.ask(Train(task=keep(vault, task, blob), workload="digits"))
        await worker.stop()

    run(one())
    _, sent = update_in(vault, task.task_id.hex())
    plain = expected(arrays, 1)
    assert len(sent) < len(blob) / 4
    received = decode_update(sent, arrays)
    lost = decode_arrays(vault.get(ask.lost_record(task.task_id.hex())))
    for name, value in plain.arrays.items():
        np.testing.assert_allclose(received[name] + lost[name], value, rtol=0, atol=1e-6)
