"""The executor holds its budget, frees what it says, and a failed step changes nothing."""

from __future__ import annotations

import weakref
from dataclasses import replace
from functools import partial

import pytest
import torch

from client.executor import MEASURED_STEPS, Executor
from client.memory import undo_bytes
from client.page_store import PageStore
from client.program import Computation, Traced
from scheduler import Free, PageOut, page_all, replay
from scheduler.errors import (
    BadInput,
    BudgetExceeded,
    DamagedPage,
    FedpoetError,
    InvalidPlan,
    PageStoreFull,
)
from tests.client.models import Convolutional, Mlp, OwnBuffers
from tests.client.random_plans import random_plan
from tests.client.twins import Twin, outcome, require_same


def adam(parameters):
    return torch.optim.Adam(parameters, lr=0.01)


@pytest.fixture(scope="module")
def convolutional():
    return Twin.of(Convolutional, adam)


@pytest.fixture(scope="module")
def mlp():
    return Twin.of(Mlp, adam)


def store_at(tmp_path, **options):
    return PageStore(tmp_path / "pages", **options)


def changed(traced: Traced, number: int, **functions) -> Traced:
    bodies = list(traced.program.bodies)
    bodies[number] = replace(bodies[number], **functions)
    return replace(traced, program=replace(traced.program, bodies=tuple(bodies)))


# The budget


def test_less_budget_than_the_plan_needs_is_refused_by_the_law(mlp, tmp_path):
    problem, plan = mlp.fitted(mlp.keep_all())
    tight = mlp.problem(problem.budget.ram_bytes - 1)
    module, optimizer = mlp.fresh()
    with store_at(tmp_path) as store, pytest.raises(InvalidPlan, match="ram"):
        Executor(mlp.traced, tight, replace(plan, budget=tight.budget), store, module, optimizer)


def test_the_budget_is_a_limit_even_if_the_law_were_wrong(mlp, tmp_path, monkeypatch):
    monkeypatch.setattr("client.executor.check", lambda plan, problem: None)
    problem, plan = mlp.fitted(mlp.keep_all())
    tight = mlp.problem(problem.budget.ram_bytes - 1)
    module, optimizer = mlp.fresh()
    line = rf"step \d+ .*the budget is {tight.budget.ram_bytes}"
    with (
        store_at(tmp_path) as store,
        Executor(mlp.traced, tight, plan, store, module, optimizer) as step,
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


def test_memory_is_measured_in_the_first_steps_only(mlp, tmp_path):
    problem, plan = mlp.fitted(mlp.keep_all())
    module, optimizer = mlp.fresh()
    with (
        store_at(tmp_path) as store,
        Executor(mlp.traced, problem, plan, store, module, optimizer) as step,
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
        Executor(mlp.traced, problem, plan, store, module, optimizer) as step,
    ):
        losses = [step(*b) for b in mlp.batches]
        assert step.measured_peak_bytes == 0
    require_same(mlp.plainly(), outcome(module, optimizer, losses))


def test_memory_is_measured_exactly_after_a_failed_step(convolutional, tmp_path):
    problem, plan = convolutional.fitted(random_plan(convolutional.problem(), 4))
    module, optimizer = convolutional.fresh()
    x, y = convolutional.batches[0]
    with (
        store_at(tmp_path) as store,
        Executor(
            convolutional.traced, problem, plan, store, module, optimizer, measure_every=True
        ) as step,
    ):
        step(x, y)
        _failing_once(store, "read", 20, DamagedPage("damaged"))
        with pytest.raises(DamagedPage):
            step(x, y)
        step.measured_peak_bytes = 0
        step(x, y)
        assert step.measured_peak_bytes == problem.budget.ram_bytes


def test_what_is_freed_is_gone(convolutional, tmp_path, monkeypatch):
    seen = []
    resolve = Executor._resolve

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
        if reference is not None:
            seen.append(reference() is None)

    monkeypatch.setattr(Executor, "_resolve", watched)
    convolutional.by_plan(page_all(convolutional.problem()), tmp_path)
    assert len(seen) > 100
    assert all(seen)


def test_what_is_paged_out_is_empty_in_the_module(mlp, tmp_path):
    problem, plan = mlp.fitted(page_all(mlp.problem()))
    module, optimizer = mlp.fresh()
    names = {k: n for n, k in mlp.traced.program.parameters}
    with (
        store_at(tmp_path) as store,
        Executor(mlp.traced, problem, plan, store, module, optimizer) as step,
    ):
        for _ in range(2):
            step(*mlp.batches[0])
            for k in plan.paged_at_start:
                if k in names:
                    assert module.get_parameter(names[k]).numel() == 0
            assert not optimizer.state
    assert all(p.numel() for p in module.parameters())
    assert len(optimizer.state) == len(list(module.parameters()))


# Failed steps


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
        Executor(
            changed(mlp.traced, 0, first=first), problem, plan, store, module, optimizer
        ) as step,
        pytest.raises(RuntimeError) as raised,
    ):
        step(*mlp.batches[0])
    assert str(raised.value) == "broken"
    assert alive[0]() is None


@pytest.mark.parametrize("seed", range(6))
def test_between_steps_the_store_holds_what_lives_there(convolutional, seed, tmp_path):
    twin = convolutional
    problem, plan = twin.fitted(random_plan(twin.problem(), seed))
    module, optimizer = twin.fresh()
    size = [t.size_bytes for t in twin.traced.graph.tensors]
    with (
        store_at(tmp_path, block_bytes=512) as store,
        Executor(twin.traced, problem, plan, store, module, optimizer) as step,
    ):
        for x, y in twin.batches:
            step(x, y)
            assert store.used_bytes == sum(-(-size[k] // 512) * 512 for k in plan.paged_at_start)


def require_retry_is_exact(twin, traced, error, tmp_path, plan=None):
    """The second step fails once; done again, everything is as if it had not."""
    problem, plan = twin.fitted(plan or random_plan(twin.problem(), 4))
    module, optimizer = twin.fresh()
    losses = []
    with (
        store_at(tmp_path) as store,
        Executor(traced, problem, plan, store, module, optimizer) as step,
    ):
        losses.append(step(*twin.batches[0]))
        used = store.used_bytes
        with pytest.raises(error):
            step(*twin.batches[1])
        assert store.used_bytes == used
        losses += [step(*b) for b in twin.batches[1:]]
    require_same(twin.plainly(), outcome(module, optimizer, losses))


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
            Executor(twin.traced, problem, plan, store, module, optimizer) as step,
        ):
            losses.append(step(*twin.batches[0]))
            _failing_once(store, "write", nth, PageStoreFull("full"))
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
        Executor(mlp.traced, problem, plan, store, module, optimizer) as step,
    ):
        losses.append(step(*mlp.batches[0]))
        _failing_once(store, "read", nth, DamagedPage("damaged"))
        with pytest.raises(DamagedPage):
            step(*mlp.batches[1])
        losses += [step(*b) for b in mlp.batches[1:]]
    require_same(mlp.plainly(), outcome(module, optimizer, losses))


def _failing_once(store, method, nth, error):
    """Let the nth call of a store's method raise."""
    original, calls = getattr(store, method), iter(range(10**6))

    def failing(*arguments):
        if next(calls) == nth:
            raise error
        return original(*arguments)

    setattr(store, method, failing)


def test_a_store_too_small_fails_in_the_middle_and_leaves_the_model(mlp, tmp_path):
    """No simulated failure: every capacity from nothing up to enough."""
    problem, plan = mlp.fitted(mlp.keep_all())
    ends = []
    for blocks in range(0, 25, 3):
        module, optimizer = mlp.fresh()
        before = outcome(module, optimizer, [])
        with store_at(tmp_path, capacity_bytes=blocks * 512, block_bytes=512) as store:
            try:
                with Executor(mlp.traced, problem, plan, store, module, optimizer) as step:
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
            Executor(mlp.traced, problem, plan, store, module, optimizer) as step,
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
            Executor(mlp.traced, problem, plan, store, module, optimizer),
        ):
            pass
        require_same(before, outcome(module, optimizer, []))
        assert store.used_bytes == 0


# Ownership


def test_training_goes_on_from_existing_state_and_learning_rate(convolutional, tmp_path):
    twin = convolutional
    ends = []
    for planned in (False, True):
        module, optimizer = twin.fresh()
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
        for part in range(2):
            if planned and part:
                plan = random_plan(twin.problem(), 2)
                problem, plan = twin.fitted(plan)
                with (
                    store_at(tmp_path) as store,
                    Executor(twin.traced, problem, plan, store, module, optimizer) as step,
                ):
                    for x, y in twin.batches:
                        step(x, y)
                        schedule.step()
            else:
                for x, y in twin.batches:
                    optimizer.zero_grad()
                    torch.nn.functional.cross_entropy(module(x), y).backward()
                    optimizer.step()
                    schedule.step()
        ends.append(outcome(module, optimizer, []))
    require_same(*ends)


def test_gradients_of_the_user_are_left_alone(mlp, tmp_path):
    problem, plan = mlp.fitted(page_all(mlp.problem()))
    module, optimizer = mlp.fresh()
    for p in module.parameters():
        p.grad = torch.full_like(p, 3.0)
    with (
        store_at(tmp_path) as store,
        Executor(mlp.traced, problem, plan, store, module, optimizer) as step,
    ):
        step(*mlp.batches[0])
    assert all(torch.equal(p.grad, torch.full_like(p, 3.0)) for p in module.parameters())


def test_a_batch_that_is_a_slice_of_the_data_set(mlp, tmp_path):
    """Its memory is the whole data set's; the step takes a batch's worth only."""
    rows = torch.cat([x for x, _ in mlp.batches])
    size = len(mlp.batches[0][0])
    twin = replace_batches(
        mlp, [(rows[i * size : (i + 1) * size], y) for i, (_, y) in enumerate(mlp.batches)]
    )
    planned = twin.by_plan(twin.keep_all(), tmp_path)
    require_same(twin.plainly(), planned)
    assert planned.peaks[-1] == replay(twin.keep_all(), twin.problem()).peak_bytes


def replace_batches(twin, batches):
    return Twin(module=twin.module, build=twin.build, batches=batches, traced=twin.traced)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda x, y: (x[:-1], y),
        lambda x, y: (x.double(), y),
        lambda x, y: (x, y.int()),
        lambda x, y: (x, y[:, None]),
    ],
)
def test_a_batch_of_another_shape_or_type(mlp, wrong, tmp_path):
    problem, plan = mlp.fitted(mlp.keep_all())
    module, optimizer = mlp.fresh()
    with (
        store_at(tmp_path) as store,
        Executor(mlp.traced, problem, plan, store, module, optimizer) as step,
        pytest.raises(BadInput, match="the plan was made for"),
    ):
        step(*wrong(*mlp.batches[0]))


def test_another_module_or_optimizer_than_the_traced_one(mlp, tmp_path):
    problem, plan = mlp.fitted(mlp.keep_all())
    module, _ = mlp.fresh()
    other = OwnBuffers()
    few = torch.optim.Adam(module[0].parameters())
    other_state = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
    for p in module.parameters():
        p.grad = torch.zeros_like(p)
    other_state.step()
    with store_at(tmp_path) as store:
        with pytest.raises(BadInput, match="traced was"):
            Executor(mlp.traced, problem, plan, store, other, adam(other.parameters()))
        with pytest.raises(BadInput, match="does not hold"):
            Executor(mlp.traced, problem, plan, store, module, few)
        with (
            pytest.raises(BadInput, match="momentum_buffer"),
            Executor(mlp.traced, problem, plan, store, module, other_state),
        ):
            pass
    assert all(p.numel() for p in module.parameters())


def test_a_problem_of_another_trace(mlp, convolutional, tmp_path):
    problem, plan = convolutional.fitted(convolutional.keep_all())
    module, optimizer = mlp.fresh()
    with store_at(tmp_path) as store, pytest.raises(InvalidPlan, match="another trace"):
        Executor(mlp.traced, problem, plan, store, module, optimizer)


def test_another_number_of_threads(mlp, tmp_path):
    """Kernels take scratch memory per thread."""
    problem, plan = mlp.fitted(mlp.keep_all())
    module, optimizer = mlp.fresh()
    torch.set_num_threads(2)
    try:
        with store_at(tmp_path) as store, pytest.raises(BadInput, match=r"set_num_threads\(1\)"):
            Executor(mlp.traced, problem, plan, store, module, optimizer)
    finally:
        torch.set_num_threads(1)


def test_a_closed_executor_does_nothing(mlp, tmp_path):
    problem, plan = mlp.fitted(mlp.keep_all())
    module, optimizer = mlp.fresh()
    with store_at(tmp_path) as store:
        step = Executor(mlp.traced, problem, plan, store, module, optimizer)
        with pytest.raises(FedpoetError, match="closed"):
            step(*mlp.batches[0])


def test_a_way_back_that_is_damaged_too_ends_the_training(mlp, tmp_path):
    """Undo pages that cannot be read: no further step runs on half a model."""
    problem, plan = mlp.fitted(random_plan(mlp.problem(), 3))
    module, optimizer = mlp.fresh()
    with (  # noqa: PT012
        store_at(tmp_path) as store,
        pytest.raises(DamagedPage),
        Executor(mlp.traced, problem, plan, store, module, optimizer) as step,
    ):
        step(*mlp.batches[0])
        store.read = _always(DamagedPage("damaged"))
        with pytest.raises(DamagedPage):
            step(*mlp.batches[1])
        with pytest.raises(FedpoetError, match="could not be undone"):
            step(*mlp.batches[1])


def _always(error):
    def fail(*_):
        raise error

    return fail


def test_a_page_that_a_plan_leaves_behind_goes_with_the_step(mlp, tmp_path):
    plan = mlp.keep_all()
    plan = replace(plan, steps=(*plan.steps, PageOut(0)))
    problem, plan = mlp.fitted(plan)
    module, optimizer = mlp.fresh()
    with (
        store_at(tmp_path) as store,
        Executor(mlp.traced, problem, plan, store, module, optimizer) as step,
    ):
        step(*mlp.batches[0])
        assert store.used_bytes == 0
