"""Ways to break a training step, and the proof that it was undone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from client.interpreter import Interpreter
from client.page_store import PageStore
from client.program import Traced
from tests.client.random_plans import random_plan
from tests.client.twins import Twin, outcome, require_same


def store_at(tmp_path, **options):
    return PageStore(tmp_path / "pages", **options)


def changed(traced: Traced, number: int, **functions) -> Traced:
    bodies = list(traced.program.bodies)
    bodies[number] = replace(bodies[number], **functions)
    return replace(traced, program=replace(traced.program, bodies=tuple(bodies)))


def failing_once(store, method, nth, error):
    """Let the nth call of a store's method raise."""
    original, calls = getattr(store, method), iter(range(10**6))

    def failing(*arguments, **options):
        if next(calls) == nth:
            raise error
        return original(*arguments, **options)

    setattr(store, method, failing)


def always(error):
    def fail(*_):
        raise error

    return fail


def replace_batches(twin, batches):
    return Twin(module=twin.module, build=twin.build, batches=batches, traced=twin.traced)


def require_retry_is_exact(twin, traced, error, tmp_path, plan=None):
    """The second step fails once; done again, everything is as if it had not."""
    problem, plan = twin.fitted(plan or random_plan(twin.problem(), 4))
    module, optimizer = twin.fresh()
    losses = []
    with (
        store_at(tmp_path) as store,
        Interpreter(traced, problem, plan, store, module, optimizer) as step,
    ):
        losses.append(step(*twin.batches[0]))
        used = store.used_bytes
        with pytest.raises(error):
            step(*twin.batches[1])
        assert store.used_bytes == used
        losses += [step(*b) for b in twin.batches[1:]]
    require_same(twin.plainly(), outcome(module, optimizer, losses))
