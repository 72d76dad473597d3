"""Pages in host memory: the same bits and bytes as from a file, whenever the device copies."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from client.host_store import HostStore, Immediate
from client.interpreter import Interpreter
from client.measure import with_scratch
from client.program import Computation
from scheduler import page_all, replay
from scheduler.errors import BudgetExceeded, PageStoreFull
from tests.client.faults import changed, failing_once
from tests.client.late import LateLanes, LetGo, drawn
from tests.client.random_plans import random_plan, uses
from tests.client.twins import Twin, outcome, require_same

LANES = {"at once": Immediate, "as late as may be": LateLanes}


@pytest.fixture(params=LANES, ids=list(LANES))
def host(request):
    return lambda **options: HostStore(LANES[request.param](), **options)


@given(
    actions=st.lists(
        st.tuples(st.sampled_from(("write", "copy", "read", "drop")), st.integers(0, 3)),
        max_size=40,
    ),
    seed=st.integers(0, 10**6),
)
def test_what_comes_back_is_what_was_written_whenever_it_was_copied(actions, seed):
    """Against a dictionary; tensors change as soon as they may, and pages of one size get mixed up."""
    generator = torch.Generator().manual_seed(seed)
    store, pages, contents = HostStore(LateLanes(drawn(seed))), {}, {}
    for action, k in actions:
        if action in ("write", "copy") and k not in pages:
            tensor = torch.rand(10 + k % 2, generator=generator)
            contents[k] = tensor.clone()
            pages[k] = (store.write if action == "write" else store.copy_out)(k, tensor)
            pages[k].result()
            tensor.zero_()
        elif action in ("read", "drop") and k in pages:
            if action == "drop":
                store.drop(pages.pop(k))
            else:
                tensor = torch.zeros(10 + k % 2)
                reading = store.read(pages[k], tensor, drop=k == 0)
                if k == 0:
                    del pages[k]
                assert reading.exception() is None
                reading.result()
                assert torch.equal(tensor, contents[k])
        assert store.used_bytes == sum(contents[k].nbytes for k in pages)
    store.close()


def test_a_read_waits_for_its_write_and_a_write_for_who_had_its_memory():
    store = HostStore(LateLanes())
    first, second, back, later = torch.rand(9), torch.rand(9), torch.zeros(9), torch.zeros(9)
    page = store.write(1, first)
    assert not page.done()
    reading = store.read(page, back, drop=True)
    again = store.write(2, second)  # gets the memory of the first page, which is still to be read
    store.read(again, later, drop=False).result()
    assert reading.done()
    assert torch.equal(back, first)
    assert torch.equal(later, second)


def test_memory_that_is_let_go_too_early_is_noticed():
    """The test's own device; else the tests below could not fail."""
    store = HostStore(LateLanes())
    tensor = torch.rand(9)
    store.write(1, tensor)
    del tensor
    with pytest.raises(LetGo):
        store.require_done()


@pytest.mark.parametrize("twin_name", ["mlp", "convolutional"])
@pytest.mark.parametrize("seed", range(5))
def test_any_plan_gives_the_same_bits_and_the_predicted_peak(twin_name, seed, request, tmp_path):
    twin: Twin = request.getfixturevalue(twin_name)
    plan = random_plan(twin.problem(), seed)
    assert uses(plan, twin.traced.graph)[1]
    for lanes in (Immediate(), LateLanes(), LateLanes(drawn(seed))):
        store = HostStore(lanes)
        found = twin.by_plan(plan, tmp_path, pages=store)
        require_same(twin.plainly(), found)
        peak_bytes = replay(plan, twin.problem()).peak_bytes
        assert found.peaks[1:] == [peak_bytes] * (len(found.peaks) - 1)
        assert store.used_bytes == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("seed", range(3))
def test_between_steps_it_holds_what_lives_there(convolutional, seed, host):
    twin = convolutional
    problem, plan = twin.fitted(random_plan(twin.problem(), seed))
    module, optimizer = twin.fresh()
    size = [t.size_bytes for t in twin.traced.graph.tensors]
    with (
        host() as store,
        Interpreter(twin.traced, problem, plan, store, module, optimizer) as step,
    ):
        for x, y in twin.batches:
            step(x, y)
            assert store.used_bytes == sum(size[k] for k in plan.paged_at_start)


@pytest.mark.parametrize("operator", [0, 4, 9])
def test_an_operator_that_fails_changes_nothing(convolutional, operator, host):
    twin = convolutional
    bodies = twin.traced.program.bodies
    number = [i for i, b in enumerate(bodies) if isinstance(b, Computation)][operator]
    fails = iter([False, True, *[False] * 10])

    def first(*inputs):
        outputs = bodies[number].first(*inputs)
        if next(fails):
            raise RuntimeError("broken")
        return outputs

    problem, plan = twin.fitted(random_plan(twin.problem(), 4))
    module, optimizer = twin.fresh()
    traced = changed(twin.traced, number, first=first)
    with host() as store, Interpreter(traced, problem, plan, store, module, optimizer) as step:
        losses = [step(*twin.batches[0])]
        used_bytes = store.used_bytes
        with pytest.raises(RuntimeError, match="broken"):
            step(*twin.batches[1])
        assert store.used_bytes == used_bytes
        losses += [step(*b) for b in twin.batches[1:]]
    require_same(twin.plainly(), outcome(module, optimizer, losses))


@pytest.mark.parametrize("method", ["write", "copy_out", "read"])
def test_a_move_that_is_refused_changes_nothing(mlp, method, host):
    plain, refused = mlp.plainly(), 0
    problem, plan = mlp.fitted(random_plan(mlp.problem(), 1))
    for nth in range(0, 100, 5):
        module, optimizer = mlp.fresh()
        with (
            host() as store,
            Interpreter(mlp.traced, problem, plan, store, module, optimizer) as step,
        ):
            losses = [step(*mlp.batches[0])]
            failing_once(store, method, nth, PageStoreFull("full"))
            try:
                losses.append(step(*mlp.batches[1]))
            except PageStoreFull:
                refused += 1
                losses.append(step(*mlp.batches[1]))
            else:
                delattr(store, method)  # else it may fail when everything is given back
                break
            losses.append(step(*mlp.batches[2]))
        require_same(plain, outcome(module, optimizer, losses))
    assert refused


def test_memory_too_small_fails_in_the_middle_and_leaves_the_model(mlp, host):
    """Every capacity from nothing up to enough."""
    problem, plan = mlp.fitted(page_all(mlp.problem()))
    ends = []
    for capacity_bytes in range(0, 16_000, 1_000):
        module, optimizer = mlp.fresh()
        before = outcome(module, optimizer, [])
        with host(capacity_bytes=capacity_bytes) as store:
            try:
                with Interpreter(mlp.traced, problem, plan, store, module, optimizer) as step:
                    step(*mlp.batches[0])
            except PageStoreFull:
                ends.append("full")
                require_same(before, outcome(module, optimizer, []))
            else:
                ends.append("done")
    assert ends == sorted(ends, reverse=True)
    assert {"full", "done"} == set(ends)


def test_a_full_store_says_how_much_is_in_use_of_what():
    store = HostStore(Immediate(), capacity_bytes=100)
    store.write(1, torch.zeros(20))
    with pytest.raises(PageStoreFull, match=r"40 bytes for tensor 7 .* the 80 in use of 100"):
        store.write(7, torch.zeros(10))
    assert store.used_bytes == 80


def test_a_system_without_memory_for_a_page_is_a_full_store(mlp):
    class Exhausted(Immediate):
        def buffer(self, size_bytes):
            raise RuntimeError("CUDA error: out of memory\nand more")

    with pytest.raises(PageStoreFull, match=r"no host memory of 36 bytes .*out of memory\)"):
        HostStore(Exhausted()).write(1, torch.zeros(9))


def test_what_libraries_keep_is_in_the_peak_and_in_the_budget(mlp, tmp_path):
    kept_bytes = 5_000
    twin = Twin(mlp.module, mlp.build, mlp.batches, with_scratch(mlp.traced, kept_bytes))
    for make in (
        twin.keep_all,
        lambda: page_all(twin.problem()),
        lambda: random_plan(twin.problem(), 2),
    ):
        plan = make()
        found = twin.by_plan(plan, tmp_path)
        require_same(twin.plainly(), found)
        assert found.peaks[-1] == replay(plan, twin.problem()).peak_bytes
    assert replay(twin.keep_all(), twin.problem()).peak_bytes == (
        kept_bytes + replay(mlp.keep_all(), mlp.problem()).peak_bytes
    )


def test_what_libraries_keep_is_held_against_the_limit_too(mlp, tmp_path, monkeypatch):
    monkeypatch.setattr("client.interpreter.check", replay)
    twin = Twin(mlp.module, mlp.build, mlp.batches, with_scratch(mlp.traced, 5_000))
    problem, plan = twin.fitted(twin.keep_all())
    tight = twin.problem(problem.budget.ram_bytes - 1)
    module, optimizer = twin.fresh()
    with (
        HostStore(Immediate()) as store,
        Interpreter(twin.traced, tight, plan, store, module, optimizer) as step,
    ):
        step(*twin.batches[0])  # before the optimizer's state exists
        with pytest.raises(BudgetExceeded, match=f"the budget is {tight.budget.ram_bytes}"):
            step(*twin.batches[1])
