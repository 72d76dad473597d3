"""A step that fails, wherever it fails, changes nothing."""

from __future__ import annotations

import weakref

import pytest
import torch

from client.interpreter import EVERY_STEP, Interpreter
from client.program import Computation
from client.undo import undo_bytes
from scheduler import page_all
from scheduler.errors import (
    DamagedPage,
    FedpoetError,
    PageStoreFull,
)
from tests.client.faults import (
    always,
    changed,
    failing_once,
    require_retry_is_exact,
    store_at,
)
from tests.client.random_plans import random_plan
from tests.client.twins import outcome, require_same


def test_memory_is_measured_exactly_after_a_failed_step(convolutional, tmp_path):
    problem, plan = convolutional.fitted(random_plan(convolutional.problem(), 4))
    module, optimizer = convolutional.fresh()
    x, y = convolutional.batches[0]
    with (
        store_at(tmp_path) as store,
        Interpreter(
            convolutional.traced, problem, plan, store, module, optimizer, measured_steps=EVERY_STEP
        ) as step,
    ):
        step(x, y)
        failing_once(store, "read", 20, DamagedPage("damaged"))
        with pytest.raises(DamagedPage):
            step(x, y)
        step.measured_peak_bytes = 0
        step(x, y)
        assert step.measured_peak_bytes == problem.budget.ram_bytes


@pytest.mark.parametrize("operator", [0, 3, 7, 11])
@pytest.mark.parametrize("kind", [RuntimeError, KeyboardInterrupt])
def test_an_operator_that_fails_changes_nothing(convolutional, operator, kind, tmp_path):
    twin = convolutional
    numbers = [i for i, b in enumerate(twin.traced.program.bodies) if isinstance(b, Computation)]
    number = numbers[operator + 4 if operator == 11 else operator]
    body = twin.traced.program.bodies[number]
    fails = iter([False, True, False, False])

    def first(*inputs):
        outputs = body.first(*inputs)
        if next(fails):
            raise kind("broken")
        return outputs

    require_retry_is_exact(twin, changed(twin.traced, number, first=first), kind, tmp_path)


def test_a_failed_operator_keeps_no_tensor_alive(mlp, tmp_path):
    """Its frames would hold inputs and outputs while the old contents come back into RAM."""
    alive = []

    def first(*inputs):
        inside = torch.empty(100)
        alive.append(weakref.ref(inside))
        raise RuntimeError("broken")

    problem, plan = mlp.fitted(mlp.keep_all())
    module, optimizer = mlp.fresh()
    with (
        store_at(tmp_path) as store,
        Interpreter(
            changed(mlp.traced, 0, first=first), problem, plan, store, module, optimizer
        ) as step,
        pytest.raises(RuntimeError) as raised,
    ):
        step(*mlp.batches[0])
    assert str(raised.value) == "broken"
    assert alive[0]() is None


@pytest.mark.parametrize("twin_name", ["mlp", "convolutional"])
def test_a_full_store_at_any_write_changes_nothing(twin_name, request, tmp_path, monkeypatch):
    twin = request.getfixturevalue(twin_name)
    plan = random_plan(twin.problem(), 1)
    plain = twin.plainly()
    problem, plan = twin.fitted(plan)
    failures = 0
    for nth in range(0, 400, 3):
        module, optimizer = twin.fresh()
        losses = []
        with (
            store_at(tmp_path) as store,
            Interpreter(twin.traced, problem, plan, store, module, optimizer) as step,
        ):
            losses.append(step(*twin.batches[0]))
            failing_once(store, "write", nth, PageStoreFull("full"))
            try:
                losses.append(step(*twin.batches[1]))
            except PageStoreFull:
                failures += 1
                losses.append(step(*twin.batches[1]))
            else:
                break
            losses.append(step(*twin.batches[2]))
        require_same(plain, outcome(module, optimizer, losses))
    else:
        pytest.fail("the step never ran without a failure")
    assert failures >= 5


@pytest.mark.parametrize("nth", [0, 4, 9, 15])
def test_a_damaged_page_changes_nothing(mlp, nth, tmp_path):
    problem, plan = mlp.fitted(page_all(mlp.problem()))
    module, optimizer = mlp.fresh()
    losses = []
    with (
        store_at(tmp_path) as store,
        Interpreter(mlp.traced, problem, plan, store, module, optimizer) as step,
    ):
        losses.append(step(*mlp.batches[0]))
        failing_once(store, "read", nth, DamagedPage("damaged"))
        with pytest.raises(DamagedPage):
            step(*mlp.batches[1])
        losses += [step(*b) for b in mlp.batches[1:]]
    require_same(mlp.plainly(), outcome(module, optimizer, losses))


def test_a_store_too_small_fails_in_the_middle_and_leaves_the_model(mlp, tmp_path):
    """No simulated failure: every capacity from nothing up to enough."""
    problem, plan = mlp.fitted(mlp.keep_all())
    ends = []
    for blocks in range(0, 25, 3):
        module, optimizer = mlp.fresh()
        before = outcome(module, optimizer, [])
        with store_at(tmp_path, capacity_bytes=blocks * 512, block_bytes=512) as store:
            try:
                with Interpreter(mlp.traced, problem, plan, store, module, optimizer) as step:
                    step(*mlp.batches[0])
            except PageStoreFull:
                ends.append("full")
                require_same(before, outcome(module, optimizer, []))
            else:
                ends.append("done")
                assert not torch.equal(before.tensors["0.weight"], module[0].weight)
    assert ends == sorted(ends, reverse=True)
    assert {"full", "done"} == set(ends)


def test_the_way_back_costs_what_is_said(mlp, tmp_path):
    """Writes of every changed tensor without a page, and of none that has one."""
    changed_bytes = sum(
        t.size_bytes
        for t in mlp.traced.graph.tensors
        if any(t.id in op.mutates for op in mlp.traced.graph.operators)
    )
    assert changed_bytes <= undo_bytes(mlp.traced.graph, 512)
    written = {}
    for make in (mlp.keep_all, lambda: page_all(mlp.problem())):
        problem, plan = mlp.fitted(make())
        module, optimizer = mlp.fresh()
        with (
            store_at(tmp_path) as store,
            Interpreter(mlp.traced, problem, plan, store, module, optimizer) as step,
        ):
            step(*mlp.batches[0])
            first = step.undo_written_bytes
            step(*mlp.batches[0])
            written[len(plan.paged_at_start) > 0] = step.undo_written_bytes - first
    assert written == {False: changed_bytes, True: 0}


def test_a_full_store_when_opening_leaves_the_model(mlp, tmp_path):
    problem, plan = mlp.fitted(page_all(mlp.problem()))
    module, optimizer = mlp.fresh()
    for p in module.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    before = outcome(module, optimizer, [])
    with store_at(tmp_path, capacity_bytes=8192, block_bytes=512) as store:
        with (
            pytest.raises(PageStoreFull),
            Interpreter(mlp.traced, problem, plan, store, module, optimizer),
        ):
            pass
        require_same(before, outcome(module, optimizer, []))
        assert store.used_bytes == 0


def test_a_way_back_that_is_damaged_too_ends_the_training(mlp, tmp_path):
    """Undo pages that cannot be read: no further step runs on half a model."""
    problem, plan = mlp.fitted(random_plan(mlp.problem(), 3))
    module, optimizer = mlp.fresh()
    with (  # noqa: PT012
        store_at(tmp_path) as store,
        pytest.raises(DamagedPage),
        Interpreter(mlp.traced, problem, plan, store, module, optimizer) as step,
    ):
        step(*mlp.batches[0])
        store.read = always(DamagedPage("damaged"))
        with pytest.raises(DamagedPage):
            step(*mlp.batches[1])
        with pytest.raises(FedpoetError, match="could not be undone"):
            step(*mlp.batches[1])
