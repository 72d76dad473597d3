"""How a step on a GPU is recorded and accounted for, on tensors without data."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch._subclasses import FakeTensorMode

from client.capture import Capture, capture
from client.dataflow import Dataflow
from client.grouping import MAX_OPERATORS
from client.layout import DEVICE_BLOCK_BYTES, Layout, ram_bytes
from client.lower import lower
from client.optimizer import Probe
from client.setting import Setting, trained
from scheduler import Phase
from scheduler.errors import Untraceable
from tests.client.models import CLASSES, MODELS, Convolutional, Mlp, batch
from tests.client.twins import LOSS

# Autograd asks CUDA for a device, even on tensors that only say they are on it.
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
pytestmark = pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")

GPU = torch.device("cuda", 0)


def on_gpu(kind):
    """The model with parameters and buffers that say they are on a GPU, and hold nothing."""
    with FakeTensorMode():
        module = kind()
        for part in module.modules():
            for own in (part._parameters, part._buffers):
                for name, tensor in own.items():
                    if tensor is not None:
                        moved = torch.empty(tensor.shape, dtype=tensor.dtype, device=GPU)
                        trains = isinstance(tensor, nn.Parameter)
                        own[name] = nn.Parameter(moved, tensor.requires_grad) if trains else moved
    return module.train()


def captured(kind) -> tuple[Capture, nn.Module, torch.optim.Optimizer]:
    module = on_gpu(kind)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    given = batch(kind.shape, torch.Generator().manual_seed(0))
    return capture(module, LOSS, tuple(trained(module, optimizer)), given), module, optimizer


# What these make in their forward pass is on the CPU, wherever the model is.
ON_THE_CPU = {"Attention", "Sliced", "PlainTensors"}
# cuDNN lays the weights of these into one storage: they are refused.
RECURRENT = {"Recurrent", "Lstm"}


@needs_cuda
@pytest.mark.parametrize("kind", [k for k in MODELS if k.__name__ not in ON_THE_CPU | RECURRENT])
def test_every_model_is_recorded_on_the_gpu(kind):
    found, module, optimizer = captured(kind)
    probes = {n: Probe(state={}, changes_gradient=False) for n in found.gradients}
    setting = Setting.of(module, optimizer)
    traced = lower(found, probes, setting, kind.__name__, MAX_OPERATORS)
    assert traced.program.device == GPU
    assert {layout.device for layout in traced.program.layouts} == {GPU}
    for item, layout in zip(traced.graph.tensors, traced.program.layouts, strict=True):
        assert item.size_bytes % DEVICE_BLOCK_BYTES == 0
        assert 0 <= item.size_bytes - layout.storage_bytes < DEVICE_BLOCK_BYTES
    assert {op.phase for op in traced.graph.operators} == set(Phase)


@needs_cuda
def test_what_a_gpu_draws_is_never_drawn_twice():
    """Dropout is another operator on a GPU; whatever draws must not be recomputed."""
    found, _, _ = captured(Convolutional)
    drawing = {str(n.node.target) for n in Dataflow(found).nodes if n.random}
    assert "aten.native_dropout.default" in drawing


@needs_cuda
@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize(
    "operator",
    ["_scaled_dot_product_flash_attention", "_scaled_dot_product_efficient_attention"],
)
def test_attention_draws_only_where_it_drops_out(operator, dropout):
    """Else no plan could recompute the attention of a transformer."""
    attend = getattr(torch.ops.aten, operator).default
    more = (None, True) if "efficient" in operator else ()

    class Attending(nn.Module):
        shape = (2, 3, 4, 8)

        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(8, 8)
            self.head = nn.Linear(8, CLASSES)

        def forward(self, x):
            y = self.linear(x)
            return self.head(attend(y, y, y, *more, dropout)[0].mean((1, 2)))

    found, _, _ = captured(Attending)
    (node,) = [n for n in Dataflow(found).nodes if n.node.target is attend]
    assert node.random == (dropout > 0)


@needs_cuda
@pytest.mark.parametrize("kind", ["cudnn_batch_norm", "miopen_batch_norm"])
def test_a_gpu_s_batch_norm_changes_its_statistics(kind):
    normalize = getattr(torch.ops.aten, kind).default

    class Normalized(nn.Module):
        shape = (6, 3, 2, 2)

        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm2d(3)
            self.head = nn.Linear(3, CLASSES)

        def forward(self, x):
            n = self.norm
            given = (x, n.weight, n.bias, n.running_mean, n.running_var, self.training, 0.1, 1e-5)
            return self.head(normalize(*given)[0].mean((2, 3)))

    found, _, _ = captured(Normalized)
    flow = Dataflow(found)
    (node,) = [n for n in flow.nodes if n.node.target is normalize]
    changed = {found.buffers["norm.running_mean"], found.buffers["norm.running_var"]}
    assert set(node.writes) == changed
    back = [n for n in flow.nodes if str(n.node.target) == f"aten.{kind}_backward.default"]
    assert len(back) == 1
    assert not changed.intersection(back[0].reads)


@pytest.mark.parametrize(("elements", "expected"), [(0, 0), (1, 512), (128, 512), (129, 1024)])
def test_a_gpu_s_allocator_gives_out_blocks(elements, expected):
    with FakeTensorMode():
        there, here = torch.empty(elements, device=GPU), torch.empty(elements)
        assert (ram_bytes(there), Layout.of(there).ram_bytes) == (expected, expected)
        assert (ram_bytes(here), Layout.of(here).ram_bytes) == (4 * elements, 4 * elements)


def test_a_model_on_two_devices_is_refused():
    module = on_gpu(Mlp)
    module.append(nn.Linear(CLASSES, CLASSES))
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    given = batch(Mlp.shape, torch.Generator().manual_seed(0))
    with pytest.raises(Untraceable, match=r"on cuda:0 and .* on cpu; move it to one device"):
        capture(module, LOSS, tuple(trained(module, optimizer)), given)


def test_a_model_on_a_device_that_we_do_not_know_is_refused():
    with torch.device("meta"):
        module = Mlp()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    given = batch(Mlp.shape, torch.Generator().manual_seed(0))
    with pytest.raises(Untraceable, match="is on meta; move the model to the CPU or a CUDA device"):
        capture(module, LOSS, tuple(trained(module, optimizer)), given)
