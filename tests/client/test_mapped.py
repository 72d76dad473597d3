"""Training from a file into a file, for models that are larger than the RAM."""

from __future__ import annotations

import json
import struct

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from client.mapped import (
    MODEL_FILE,
    OPTIMIZER_FILE,
    SavingInterpreter,
    TensorWriter,
    mapped,
    tensors_of,
)
from client.page_store import PageStore
from scheduler import page_all
from scheduler.errors import BadFile, BadInput, PageStoreError
from tests.client.models import Convolutional
from tests.client.twins import outcome, require_same


@pytest.fixture
def start(convolutional, tmp_path):
    save_file(convolutional.module.state_dict(), tmp_path / "start.safetensors")
    return tmp_path / "start.safetensors"


def trained(twin, start, folder, plan):
    problem, plan = twin.fitted(plan)
    module = mapped(Convolutional, start).train()
    optimizer = twin.build(module.parameters())
    torch.manual_seed(twin.seed)
    with (
        PageStore(start.parent / "pages") as store,
        SavingInterpreter(
            twin.traced, problem, plan, store, module, optimizer, folder=folder
        ) as step,
    ):
        losses = [step(x, y) for x, y in twin.batches]
    return module, optimizer, losses


@pytest.mark.parametrize("paged", [False, True])
def test_training_between_files_is_plain_training(convolutional, start, tmp_path, paged):
    plan = page_all(convolutional.problem()) if paged else convolutional.keep_all()
    module, optimizer, losses = trained(convolutional, start, tmp_path, plan)
    plain = convolutional.plainly()
    assert losses == plain.losses
    model, state = load_file(tmp_path / MODEL_FILE), load_file(tmp_path / OPTIMIZER_FILE)
    assert model.keys() == plain.tensors.keys()
    assert all(torch.equal(model[name], plain.tensors[name]) for name in model)
    named = {" ".join(name.rsplit(".", 1)): t for name, t in state.items()}
    assert named.keys() == plain.state.keys()
    assert all(torch.equal(named[name], plain.state[name]) for name in named)
    assert not any(p.numel() for p in module.parameters())
    assert not any(
        isinstance(v, torch.Tensor) for s in optimizer.state.values() for v in s.values()
    )
    assert dict(tensors_of(start)).keys() == model.keys()


def test_without_a_place_to_save_everything_comes_back(convolutional, start, tmp_path):
    plan = page_all(convolutional.problem())
    problem, plan = convolutional.fitted(plan)
    module = mapped(Convolutional, start).train()
    optimizer = convolutional.build(module.parameters())
    torch.manual_seed(convolutional.seed)
    with (
        PageStore(tmp_path / "pages") as store,
        pytest.raises(PageStoreError, match="cannot be written"),
        SavingInterpreter(
            convolutional.traced, problem, plan, store, module, optimizer, folder=tmp_path / "none"
        ) as step,
    ):
        losses = [step(x, y) for x, y in convolutional.batches]
    require_same(convolutional.plainly(), outcome(module, optimizer, losses))


def test_writing_that_fails_leaves_no_half_file(tmp_path):
    def fail():
        with TensorWriter(tmp_path / "t", ["a"]) as writer:
            writer.add("a", torch.ones(2))
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        fail()
    assert not list(tmp_path.iterdir())


def test_types_shapes_and_strides_are_written_as_they_are(tmp_path):
    tensors = {
        "half": torch.ones(2, 3, dtype=torch.bfloat16),
        "turned": torch.arange(6.0).reshape(2, 3).t(),
        "part": torch.arange(6.0)[2:4],
        "count": torch.tensor(3),
        "empty": torch.empty(0, 4),
    }
    with TensorWriter(tmp_path / "t", tensors) as writer:
        writer.add("missing", None)
        for name, tensor in tensors.items():
            writer.add(name, tensor)
    for found in (load_file(tmp_path / "t"), dict(tensors_of(tmp_path / "t"))):
        assert found.keys() == tensors.keys()
        assert all(torch.equal(found[name], tensors[name]) for name in found)
        assert all(found[name].dtype is tensors[name].dtype for name in found)


def header(entry):
    text = json.dumps({"weight": entry}).encode()
    return struct.pack("<Q", len(text)) + text + bytes(8)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"1234",
        b"\xff" * 20,
        header({"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}),
        header({"dtype": "F99", "shape": [1], "data_offsets": [0, 4]}),
        header({"dtype": "F32", "shape": [1]}),
    ],
)
def test_what_is_no_safetensors_file_is_refused(tmp_path, content):
    (tmp_path / "t").write_bytes(content)
    with pytest.raises(BadFile, match="not a safetensors file"):
        dict(tensors_of(tmp_path / "t"))


def test_a_file_that_is_not_there_or_of_another_model(start, tmp_path):
    with pytest.raises(BadFile, match="cannot be read"):
        mapped(Convolutional, tmp_path / "none")
    with pytest.raises(BadInput, match="not this model"):
        mapped(lambda: nn.Linear(2, 2), start)


def test_a_buffer_that_no_file_has(tmp_path):
    class Kept(nn.Linear):
        def __init__(self):
            super().__init__(2, 2)
            self.register_buffer("scale", torch.ones(2), persistent=False)

    save_file(Kept().state_dict(), tmp_path / "t")
    with pytest.raises(BadInput, match="scale"):
        mapped(Kept, tmp_path / "t")
