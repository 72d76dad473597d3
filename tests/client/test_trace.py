"""What tracing finds in a model, and that it leaves the model alone."""

from __future__ import annotations

import copy
import random

import pytest
import torch
from torch import nn

from client.allocator import AllocatorTrace
from client.measure import with_workspace
from client.program import Computation
from client.trace import trace
from scheduler import Kind, Phase, keep_all, replay
from tests.client.models import MODELS, Convolutional, Mlp, Recurrent, Residual, Tied, batch
from tests.client.twins import LOSS, Twin


def traced(kind, optimizer=torch.optim.Adam):
    module = kind()
    return trace(module, LOSS, optimizer(module.parameters()), sample(kind))


def sample(kind):
    return batch(kind.shape, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", MODELS)
def test_module_optimizer_and_generators_stay_as_they_are(kind):
    module = kind()
    module.calls = 0
    module.register_forward_pre_hook(lambda m, _: setattr(m, "calls", m.calls + 1))
    optimizer = torch.optim.Adam(module.parameters())
    x, y = sample(kind)
    LOSS(module(x), y).backward()
    optimizer.step()
    before = copy.deepcopy((module.state_dict(), optimizer.state_dict()))
    gradients = [None if p.grad is None else p.grad.clone() for p in module.parameters()]
    memory = [t.data_ptr() for t in module.state_dict().values()]
    states = torch.get_rng_state(), random.getstate()
    trace(module, LOSS, optimizer, (x, y))
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert module.calls == 1
    assert [t.data_ptr() for t in module.state_dict().values()] == memory
    after = module.state_dict(), optimizer.state_dict()
    assert str(after) == str(before)
    for parameter, gradient in zip(module.parameters(), gradients, strict=True):
        assert (parameter.grad is None) == (gradient is None)
        assert gradient is None or torch.equal(parameter.grad, gradient)


def test_every_persistent_tensor_is_in_the_graph_once():
    module = Convolutional()
    graph = traced(Convolutional).graph
    size = {t.name: t.size_bytes for t in graph.tensors if graph.is_persistent(t.id)}
    for name, tensor in module.state_dict().items():
        assert size[name] == tensor.numel() * tensor.element_size()
    trained = dict(module.named_parameters())
    states = [t for t in graph.tensors if t.kind is Kind.OPTIMIZER_STATE]
    assert len(states) == 3 * len(trained)
    assert sum(t.size_bytes for t in states) == sum(8 * p.numel() + 4 for p in trained.values())


def test_frozen_and_unused_parameters_get_no_update_and_tied_ones_get_one():
    found = traced(Tied)
    updated = {u.name for u in found.program.updates}
    assert updated == {"one.weight", "one.bias", "two.bias", "scale"}


def test_parameters_that_the_optimizer_does_not_hold_get_no_update():
    module = Mlp()
    optimizer = torch.optim.SGD(module[4].parameters(), lr=0.1)
    found = trace(module, LOSS, optimizer, sample(Mlp))
    assert {u.name for u in found.program.updates} == {"4.weight", "4.bias"}
    # Nothing below the last layer is differentiated.
    assert sum(op.phase is Phase.BACKWARD for op in found.graph.operators) <= 2


def test_an_update_follows_the_last_reader_of_the_old_parameter():
    graph = traced(Residual).graph
    for op in graph.operators:
        for k in op.mutates:
            readers = [u for u in graph.users[k] if u != op.id]
            assert all(u < op.id for u in readers), graph.tensors[k].name


def test_gradients_die_early():
    graph = traced(Residual).graph
    for tensor in graph.tensors:
        if tensor.kind is Kind.GRADIENT and tensor.size_bytes > 1000:
            made = graph.producer[tensor.id]
            between = graph.operators[made + 1 : graph.users[tensor.id][-1]]
            assert sum(op.phase is not Phase.UPDATE for op in between) <= 1


def test_dropout_is_not_recomputed_but_what_it_multiplies_is():
    graph = traced(Convolutional).graph
    drawn = [op for op in graph.operators if "bernoulli" in op.name]
    assert len(drawn) == 2
    for op in drawn:
        assert not op.recomputable
        assert op.inputs == ()
    others = [op for op in graph.operators if op.phase is not Phase.UPDATE and op not in drawn]
    assert all(op.recomputable for op in others)


def test_ordinary_nets_have_few_operators():
    for kind in MODELS:
        assert len(traced(kind).graph.operators) <= 90, kind


def test_operators_are_joined_down_to_the_number_asked_for():
    module, optimizer = Recurrent(), torch.optim.SGD
    posed = [
        trace(module, LOSS, optimizer(module.parameters()), sample(Recurrent), max_operators=n)
        for n in (1000, 40, 30)
    ]
    counts = [sum(op.phase is not Phase.UPDATE for op in p.graph.operators) for p in posed]
    assert counts[0] > 40
    assert counts[1:] == [40, 30]
    needs = [max(p.graph.need_bytes(op.id) for op in p.graph.operators) for p in posed]
    assert needs[0] == needs[1] == needs[2]


def test_no_operator_needs_more_than_the_largest_node():
    graph = traced(Convolutional).graph
    pooled = 4 * 6 * 64 * 4
    # Batch norm's backward pass: gradient in and out, its input, and next to nothing.
    largest = max(graph.need_bytes(op.id) for op in graph.operators if op.phase is not Phase.UPDATE)
    assert largest <= 3 * pooled + 1024


def test_evaluation_mode_is_kept():
    module = Convolutional().eval()
    found = trace(module, LOSS, torch.optim.SGD(module.parameters(), lr=0.1), sample(Convolutional))
    assert not found.program.random
    buffers = {t.id for t in found.graph.tensors if t.kind is Kind.BUFFER}
    assert not any(buffers.intersection(op.mutates) for op in found.graph.operators)


def test_flops_are_torchs_formulas_or_one_per_element():
    found = traced(Mlp, lambda p: torch.optim.SGD(p, lr=0.1))
    graph = found.graph
    first = next(op for op in graph.operators if "addmm" in op.name)
    assert first.flops in (2 * 6 * 12 * 16, 2 * 6 * 12 * 16 + 6 * 16)
    products = 2 * 6 * (12 * 16 + 16 * 16 + 16 * 5)
    # Each product is done once forward and twice backward, but for the input's gradient.
    least = 3 * products - 2 * 6 * 12 * 16
    assert least < graph_flops(graph) < 1.3 * least


@pytest.mark.parametrize("groups", [1, 2, 8])
@pytest.mark.parametrize("kind", [nn.Conv2d, nn.ConvTranspose2d])
def test_each_gradient_of_a_convolution_costs_what_its_forward_pass_does(kind, groups):
    convolution = kind(8, 8, 3, stride=2, groups=groups, bias=False)
    module = nn.Sequential(nn.Conv2d(1, 8, 1), convolution, nn.Flatten(), nn.LazyLinear(5))
    data = torch.zeros(3, 1, 9, 9), torch.zeros(3, dtype=torch.int64)
    module(data[0])
    found = trace(module, LOSS, torch.optim.SGD(module.parameters(), lr=0.1), data)
    positions = 3 * (4 * 4 if kind is nn.Conv2d else 9 * 9)
    once = 2 * positions * 9 * 8 * 8 // groups
    forward = next(op for op in found.graph.operators if "convolution_1" in op.name)
    backward = next(op for op in found.graph.operators if "convolution_backward" in op.name)
    assert once <= forward.flops < 1.6 * once
    assert 2 * once <= backward.flops < 2.6 * once


def graph_flops(graph):
    return sum(op.flops for op in graph.operators if op.phase is not Phase.UPDATE)


def test_tracing_holds_no_training_sized_memory():
    module = nn.Sequential(*[nn.Linear(256, 256) for _ in range(4)])
    optimizer = torch.optim.Adam(module.parameters())
    data = torch.zeros(2000, 256), torch.zeros(2000, dtype=torch.int64)
    with AllocatorTrace() as watched:
        found = trace(module, LOSS, optimizer, data)
    twin = Twin(module=module, build=torch.optim.Adam, batches=[], traced=found)
    peak = replay(keep_all(twin.problem()), twin.problem()).peak_bytes
    assert watched.usage.peak_bytes < 8 * 256 * 257 * 4 < peak / 4


def test_a_slice_of_the_data_set_is_a_batch_only():
    module = Mlp()
    x, y = torch.zeros(100, 12), torch.zeros(100, dtype=torch.int64)
    found = trace(module, LOSS, torch.optim.Adam(module.parameters()), (x[6:12], y[6:12]))
    sizes = {t.name: t.size_bytes for t in found.graph.tensors if t.kind is Kind.INPUT}
    assert sizes == {"x": 6 * 12 * 4, "y": 6 * 8}


def test_an_autoencoder_is_given_its_input_as_y():
    module, x = nn.Linear(6, 6), torch.zeros(4, 6)
    optimizer = torch.optim.Adam(module.parameters())
    found = trace(module, nn.functional.mse_loss, optimizer, (x, x))
    found = with_workspace(found, module, optimizer)
    assert sum(t.kind is Kind.INPUT for t in found.graph.tensors) == 2


def test_two_traces_are_the_same():
    one, other = traced(Residual), traced(Residual)
    assert one.graph.digest == other.graph.digest
    for a, b in zip(one.program.bodies, other.program.bodies, strict=True):
        if isinstance(a, Computation):
            assert a.first.__self__.code == b.first.__self__.code
