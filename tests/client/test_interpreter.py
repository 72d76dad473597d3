"""The interpreter holds its budget and really frees what it says."""

from __future__ import annotations

import weakref
from dataclasses import replace
from functools import partial

import pytest
import torch

from client.interpreter import MEASURED_STEPS, Interpreter
from scheduler import Free, PageOut, page_all, replay
from scheduler.errors import (
    BudgetExceeded,
    InvalidPlan,
)
from tests.client.faults import (
    changed,
    replace_batches,
    store_at,
)
from tests.client.random_plans import random_plan
from tests.client.twins import outcome, require_same


def test_less_budget_than_the_plan_needs_is_refused_by_the_law(mlp, tmp_path):
    problem, plan = mlp.fitted(mlp.keep_all())
    tight = mlp.problem(problem.budget.ram_bytes - 1)
    module, optimizer = mlp.fresh()
    with store_at(tmp_path) as store, pytest.raises(InvalidPlan, match="ram"):
        Interpreter(mlp.traced, tight, replace(plan, budget=tight.budget), store, module, optimizer)


def test_the_budget_is_a_limit_even_if_the_law_were_wrong(mlp, tmp_path, monkeypatch):
    monkeypatch.setattr("client.interpreter.check", replay)
    problem, plan = mlp.fitted(mlp.keep_all())
    tight = mlp.problem(problem.budget.ram_bytes - 1)
    module, optimizer = mlp.fresh()
    line = rf"step \d+ .*the budget is {tight.budget.ram_bytes}"
    with (
        store_at(tmp_path) as store,
        Interpreter(mlp.traced, tight, plan, store, module, optimizer) as step,
    ):
        loss = step(*mlp.batches[0])  # before the optimizer's state exists
        with pytest.raises(BudgetExceeded, match=line):
            step(*mlp.batches[1])
    once = replace_batches(mlp, mlp.batches[:1])
    require_same(once.plainly(), outcome(module, optimizer, [loss]))


def test_an_output_of_another_size_is_an_error(mlp, tmp_path):
    body = mlp.traced.program.bodies[0]
    traced = changed(mlp.traced, 0, first=lambda *a: (body.first(*a)[0].double(),))
    with pytest.raises(BudgetExceeded, match=r"takes \d+ bytes"):
        mlp.by_plan(mlp.keep_all(), tmp_path, traced)


def test_an_operator_that_takes_more_than_was_measured(mlp, tmp_path):
    """As kernels do whose scratch memory depends on the data."""
    body = mlp.traced.program.bodies[0]
    traced = changed(mlp.traced, 0, first=lambda *a: (torch.empty(10**4), body.first(*a))[1])
    with pytest.raises(BudgetExceeded, match="more memory than was measured"):
        mlp.by_plan(mlp.keep_all(), tmp_path, traced)


def test_memory_is_measured_in_the_first_steps_only(mlp, tmp_path):
    problem, plan = mlp.fitted(mlp.keep_all())
    module, optimizer = mlp.fresh()
    with (
        store_at(tmp_path) as store,
        Interpreter(mlp.traced, problem, plan, store, module, optimizer) as step,
    ):
        for _ in range(MEASURED_STEPS):
            step(*mlp.batches[0])
        assert step.measured_peak_bytes == problem.budget.ram_bytes
        step.measured_peak_bytes = 0
        step(*mlp.batches[0])
        assert step.measured_peak_bytes == 0


def test_a_profiler_of_the_user_gets_no_way_barred(mlp, tmp_path):
    problem, plan = mlp.fitted(page_all(mlp.problem()))
    module, optimizer = mlp.fresh()
    with (
        torch.autograd.profiler.profile(use_kineto=False),
        store_at(tmp_path) as store,
        Interpreter(mlp.traced, problem, plan, store, module, optimizer) as step,
    ):
        losses = [step(*b) for b in mlp.batches]
        assert step.measured_peak_bytes == 0
    require_same(mlp.plainly(), outcome(module, optimizer, losses))


def test_what_is_freed_is_gone(convolutional, tmp_path, monkeypatch):
    seen = []
    resolve = Interpreter._resolve

    def watched(self, plan):
        for planned, run in zip(plan.steps, resolve(self, plan), strict=True):
            yield (
                partial(freeing, self._memory, planned.tensor, run)
                if isinstance(planned, Free)
                else run
            )

    def freeing(memory, k, run):
        reference = None if memory[k] is None else weakref.ref(memory[k])
        run()
        memory.require_room(0, "the test")  # what is being written goes when that has ended
        if reference is not None:
            seen.append(reference() is None)

    monkeypatch.setattr(Interpreter, "_resolve", watched)
    convolutional.by_plan(page_all(convolutional.problem()), tmp_path)
    assert len(seen) > 100
    assert all(seen)


@pytest.mark.parametrize("seed", range(6))
def test_between_steps_the_store_holds_what_lives_there(convolutional, seed, tmp_path):
    twin = convolutional
    problem, plan = twin.fitted(random_plan(twin.problem(), seed))
    module, optimizer = twin.fresh()
    size = [t.size_bytes for t in twin.traced.graph.tensors]
    with (
        store_at(tmp_path, block_bytes=512) as store,
        Interpreter(twin.traced, problem, plan, store, module, optimizer) as step,
    ):
        for x, y in twin.batches:
            step(x, y)
            assert store.used_bytes == sum(-(-size[k] // 512) * 512 for k in plan.paged_at_start)


def test_a_page_that_a_plan_leaves_behind_goes_with_the_step(mlp, tmp_path):
    plan = mlp.keep_all()
    plan = replace(plan, steps=(*plan.steps, PageOut(0)))
    problem, plan = mlp.fitted(plan)
    module, optimizer = mlp.fresh()
    with (
        store_at(tmp_path) as store,
        Interpreter(mlp.traced, problem, plan, store, module, optimizer) as step,
    ):
        step(*mlp.batches[0])
        assert store.used_bytes == 0
