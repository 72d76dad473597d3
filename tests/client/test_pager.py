"""Pages move beside compute, in an order that loses nothing, however slow the storage is."""

from __future__ import annotations

import threading
import time

import pytest
import torch

from client.allocator import AllocatorTrace
from client.interpreter import EVERY_STEP, Interpreter
from client.pager import Pager
from scheduler import page_all, replay
from scheduler.errors import PageStoreFull
from tests.client.faults import failing_once, store_at
from tests.client.random_plans import random_plan
from tests.client.twins import outcome, require_same

A_WHILE_S = 20.0


def slowed(store, method, seconds):
    """Storage that takes its time."""
    original = getattr(store, method)

    def slow(*arguments):
        time.sleep(seconds)
        return original(*arguments)

    setattr(store, method, slow)


@pytest.fixture
def store(tmp_path):
    with store_at(tmp_path, block_bytes=512) as opened:
        yield opened


@pytest.fixture
def pager(store):
    pager = Pager(store)
    yield pager
    pager.close()


def test_the_caller_does_not_wait_and_a_read_waits_for_its_write(store, pager):
    may_write = threading.Event()
    original = store.write

    def held(*arguments):
        assert may_write.wait(A_WHILE_S)
        return original(*arguments)

    store.write = held
    given, back = torch.rand(1000), torch.zeros(1000)
    writing = pager.write(1, given)
    reading = pager.read(writing, back, drop=True)
    assert not writing.done()
    assert not reading.done()
    may_write.set()
    pager.require_done()
    assert torch.equal(given, back)
    assert store.used_bytes == 0


def test_a_write_waits_for_the_room_that_an_earlier_read_gives(tmp_path):
    """In plan order both pages never lie there at once, and the store has room for one."""
    with store_at(tmp_path, capacity_bytes=4096, block_bytes=512) as store:
        pager = Pager(store)
        slowed(store, "read", 0.05)
        first, other = torch.rand(1024), torch.rand(1024)
        back = [torch.zeros(1024), torch.zeros(1024)]
        pager.read(pager.write(1, first), back[0], drop=True)
        pager.read(pager.write(2, other), back[1], drop=True)
        pager.require_done()
        pager.close()
    assert torch.equal(torch.stack(back), torch.stack([first, other]))


def test_what_failed_is_raised_once_and_nothing_of_it_stays(store, pager):
    failing_once(store, "write", 1, PageStoreFull("full"))
    tensors = [torch.rand(100) for _ in range(3)]
    pages = [pager.write(k, t) for k, t in enumerate(tensors)]
    with pytest.raises(PageStoreFull):
        pager.require_done()
    pager.require_done()
    for page in pages:
        pager.drop(page)
    assert store.used_bytes == 0


def test_memory_is_free_when_its_writing_is_done(pager):
    """Nothing of the worker's may still hold it: the next operator counts on the room."""
    with AllocatorTrace() as trace:
        for _ in range(200):
            tensor = torch.rand(10_000)
            pager.write(1, tensor).result()
            del tensor
    assert (trace.usage.peak_bytes, trace.usage.kept_bytes) == (40_000, 0)


@pytest.mark.parametrize("method", ["read", "write"])
@pytest.mark.parametrize("seed", [0, 3])
def test_slow_storage_changes_neither_values_nor_the_peak(convolutional, method, seed, tmp_path):
    twin = convolutional
    problem, plan = twin.fitted(random_plan(twin.problem(), seed))
    module, optimizer = twin.fresh()
    with (
        store_at(tmp_path) as store,
        Interpreter(
            twin.traced, problem, plan, store, module, optimizer, measured_steps=EVERY_STEP
        ) as step,
    ):
        slowed(store, method, 0.002)
        losses = [step(*b) for b in twin.batches]
        assert step.measured_peak_bytes == replay(plan, problem).peak_bytes
    require_same(twin.plainly(), outcome(module, optimizer, losses))


def test_threads_end_with_the_interpreter(mlp, tmp_path):
    problem, plan = mlp.fitted(page_all(mlp.problem()))
    module, optimizer = mlp.fresh()
    before = set(threading.enumerate())
    with (
        store_at(tmp_path) as store,
        Interpreter(mlp.traced, problem, plan, store, module, optimizer) as step,
    ):
        step(*mlp.batches[0])
        started = set(threading.enumerate()) - before
        assert {t.name.split("_")[0] for t in started} == {"page-reader", "page-writer"}
    assert set(threading.enumerate()) <= before
