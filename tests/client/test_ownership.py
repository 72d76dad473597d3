"""What the executor takes over, it gives back; and it takes only what it was traced for."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from client.interpreter import Interpreter
from client.trace import trace
from scheduler import keep_all, page_all, replay
from scheduler.errors import (
    BadInput,
    FedpoetError,
    InvalidPlan,
)
from tests.client.faults import (
    replace_batches,
    store_at,
)
from tests.client.models import OwnBuffers
from tests.client.random_plans import random_plan
from tests.client.twins import LOSS, outcome, require_same


def test_what_is_paged_out_is_empty_in_the_module(mlp, tmp_path):
    problem, plan = mlp.fitted(page_all(mlp.problem()))
    module, optimizer = mlp.fresh()
    names = {k: n for n, k in mlp.traced.program.parameters}
    with (
        store_at(tmp_path) as store,
        Interpreter(mlp.traced, problem, plan, store, module, optimizer) as step,
    ):
        for _ in range(2):
            step(*mlp.batches[0])
            for k in plan.paged_at_start:
                if k in names:
                    assert module.get_parameter(names[k]).numel() == 0
            assert not optimizer.state
    assert all(p.numel() for p in module.parameters())
    assert len(optimizer.state) == len(list(module.parameters()))


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
                    Interpreter(twin.traced, problem, plan, store, module, optimizer) as step,
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
        Interpreter(mlp.traced, problem, plan, store, module, optimizer) as step,
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


@pytest.mark.parametrize(
    "wrong",
    [
        lambda x, y: (x[:-1], y),
        lambda x, y: (x.double(), y),
        lambda x, y: (x, y.int()),
        lambda x, y: (x, y[:, None]),
        lambda x, y: (x.t().contiguous().t(), y),
        lambda x, y: (x.numpy(), y),
        lambda x, y: (x.to_sparse(), y),
        lambda x, y: (x, None),
    ],
)
def test_a_batch_of_another_shape_or_type(mlp, wrong, tmp_path):
    problem, plan = mlp.fitted(mlp.keep_all())
    module, optimizer = mlp.fresh()
    with (
        store_at(tmp_path) as store,
        Interpreter(mlp.traced, problem, plan, store, module, optimizer) as step,
        pytest.raises(BadInput, match=r"the plan was made for|strides|must be a dense tensor"),
    ):
        step(*wrong(*mlp.batches[0]))


def test_another_module_or_optimizer_than_the_traced_one(mlp, tmp_path):
    problem, plan = mlp.fitted(mlp.keep_all())
    module, _ = mlp.fresh()
    other = OwnBuffers()
    few = torch.optim.Adam(module[0].parameters())
    other_state = torch.optim.Adam(module.parameters())
    for p in module.parameters():
        other_state.state[p] = {"momentum_buffer": torch.zeros_like(p)}
    with store_at(tmp_path) as store:
        with pytest.raises(BadInput, match="traced was"):
            Interpreter(
                mlp.traced, problem, plan, store, other, torch.optim.Adam(other.parameters())
            )
        with pytest.raises(BadInput, match="was traced as trained"):
            Interpreter(mlp.traced, problem, plan, store, module, few)
        with (
            pytest.raises(BadInput, match="momentum_buffer"),
            Interpreter(mlp.traced, problem, plan, store, module, other_state),
        ):
            pass
    assert all(p.numel() for p in module.parameters())


SETTINGS = {
    "weight_decay was off for 0.weight": lambda m, o: o.param_groups[0].update(weight_decay=0.1),
    "amsgrad was off": lambda m, o: o.param_groups[0].update(amsgrad=True),
    "0.weight was traced as trained": lambda m, o: m[0].weight.requires_grad_(False),
    "the module was traced in training mode": lambda m, o: m.eval(),
    "1 was traced in training mode": lambda m, o: m[1].eval(),
    "hook on its step": lambda m, o: o.register_step_pre_hook(lambda *_: None),
}


@pytest.mark.parametrize("line", SETTINGS)
@pytest.mark.parametrize("between", [False, True])
def test_another_setting_than_the_traced_one(mlp, line, between, tmp_path):
    """Plain training would heed it; a plan cannot, and does not train on in silence."""
    problem, plan = mlp.fitted(page_all(mlp.problem()))
    module, optimizer = mlp.fresh()
    with store_at(tmp_path) as store:
        if between:
            with Interpreter(mlp.traced, problem, plan, store, module, optimizer) as step:
                step(*mlp.batches[0])
                SETTINGS[line](module, optimizer)
                with pytest.raises(BadInput, match=line):
                    step(*mlp.batches[1])
        else:
            SETTINGS[line](module, optimizer)
            with pytest.raises(BadInput, match=line):
                Interpreter(mlp.traced, problem, plan, store, module, optimizer)
    assert all(p.numel() for p in module.parameters())


def test_another_optimizer_or_more_parameters_than_traced(mlp, tmp_path):
    problem, plan = mlp.fitted(mlp.keep_all())
    module, _ = mlp.fresh()
    sgd = torch.optim.SGD(module.parameters(), lr=0.1)
    with store_at(tmp_path) as store, pytest.raises(BadInput, match="traced was Adam"):
        Interpreter(mlp.traced, problem, plan, store, module, sgd)
    mlp.module[0].requires_grad_(False)
    try:
        head = trace(mlp.module, LOSS, mlp.build(mlp.module.parameters()), mlp.batches[0])
    finally:
        mlp.module[0].requires_grad_(True)
    twin = replace(mlp, traced=head)
    problem, plan = twin.fitted(twin.keep_all())
    module, optimizer = twin.fresh()
    with store_at(tmp_path) as store, pytest.raises(BadInput, match="was not traced as trained"):
        Interpreter(head, problem, plan, store, module, optimizer)


@pytest.mark.parametrize("change", [nn.Module.half, nn.Module.double])
@pytest.mark.parametrize("plan_of", [keep_all, page_all])
def test_a_module_that_is_converted_between_steps(mlp, change, plan_of, tmp_path):
    problem, plan = mlp.fitted(plan_of(mlp.problem()))
    module, optimizer = mlp.fresh()
    with (
        store_at(tmp_path) as store,
        Interpreter(mlp.traced, problem, plan, store, module, optimizer) as step,
    ):
        step(*mlp.batches[0])
        change(module)
        with pytest.raises(BadInput, match=r"0\.weight was moved or converted"):
            step(*mlp.batches[1])


@pytest.mark.parametrize("same", [True, False])
def test_a_module_that_is_taken_already(mlp, same, tmp_path):
    """Taking it again would find its parameters empty and give those back."""
    problem, plan = mlp.fitted(page_all(mlp.problem()))
    module, optimizer = mlp.fresh()
    losses = []
    with store_at(tmp_path) as store:
        one, other = (
            Interpreter(mlp.traced, problem, plan, store, module, optimizer) for _ in range(2)
        )
        with one as step:
            losses.append(step(*mlp.batches[0]))
            again = pytest.raises(FedpoetError, match="open already" if same else "traced was")
            with again, one if same else other:
                pass
            losses += [step(*b) for b in mlp.batches[1:]]
    require_same(mlp.plainly(), outcome(module, optimizer, losses))


def test_a_problem_of_another_trace(mlp, convolutional, tmp_path):
    problem, plan = convolutional.fitted(convolutional.keep_all())
    module, optimizer = mlp.fresh()
    with store_at(tmp_path) as store, pytest.raises(InvalidPlan, match="another trace"):
        Interpreter(mlp.traced, problem, plan, store, module, optimizer)


def test_another_number_of_threads(mlp, tmp_path):
    """Kernels take scratch memory per thread."""
    problem, plan = mlp.fitted(mlp.keep_all())
    module, optimizer = mlp.fresh()
    torch.set_num_threads(2)
    try:
        with store_at(tmp_path) as store, pytest.raises(BadInput, match=r"set_num_threads\(1\)"):
            Interpreter(mlp.traced, problem, plan, store, module, optimizer)
    finally:
        torch.set_num_threads(1)


def test_a_closed_executor_does_nothing(mlp, tmp_path):
    problem, plan = mlp.fitted(mlp.keep_all())
    module, optimizer = mlp.fresh()
    with store_at(tmp_path) as store:
        step = Interpreter(mlp.traced, problem, plan, store, module, optimizer)
        with pytest.raises(FedpoetError, match="closed"):
            step(*mlp.batches[0])
