"""Where the budget has room, a failed step is undone from RAM."""

from __future__ import annotations

import pytest

from client.interpreter import EVERY_STEP, Interpreter
from client.undo import changed_in_ram, shared_out
from scheduler import replay
from tests.client.faults import store_at
from tests.client.random_plans import random_plan
from tests.client.twins import outcome, require_same


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("seed", [None, 2, 5])
def test_a_failed_step_changes_nothing_however_much_room_there_is(
    convolutional, share, seed, tmp_path
):
    twin = convolutional
    plan = twin.keep_all() if seed is None else random_plan(twin.problem(), seed)
    home_paged = frozenset(plan.paged_at_start)
    layouts = twin.traced.program.layouts
    wanted = sum(layouts[k].storage_bytes for k in changed_in_ram(twin.traced.graph, home_paged))
    problem, plan = twin.fitted(plan, spare_bytes=int(share * wanted))
    module, optimizer = twin.fresh()
    losses = []
    with (
        store_at(tmp_path) as store,
        Interpreter(
            twin.traced, problem, plan, store, module, optimizer, measured_steps=EVERY_STEP
        ) as step,
    ):
        assert step.undo_ram_bytes <= share * wanted
        losses.append(step(*twin.batches[0]))
        used = store.used_bytes
        last = step._ownership.optimizers[twin.traced.program.updates[-1].name]
        original = last.step

        def broken(*arguments):
            original(*arguments)
            raise RuntimeError("broken")

        last.step = broken
        with pytest.raises(RuntimeError, match="broken"):
            step(*twin.batches[1])
        last.step = original
        assert store.used_bytes == used
        losses += [step(*b) for b in twin.batches[1:]]
        assert step.measured_peak_bytes == step.predicted_peak_bytes <= problem.budget.ram_bytes
        assert step.predicted_peak_bytes == replay(plan, problem).peak_bytes + step.undo_ram_bytes
        assert (step.undo_written_bytes == 0) == (share == 1.0)
    require_same(twin.plainly(), outcome(module, optimizer, losses))


def test_room_goes_to_those_that_find_it_in_their_order():
    assert shared_out({7: 3, 1: 5, 4: 2}, 5) == ([7, 4], [1])
    assert shared_out({7: 3, 1: 5}, 0) == ([], [7, 1])
    assert shared_out({7: 0}, 0) == ([7], [])
