"""Training from a file into a file, for models that are larger than the RAM."""

from __future__ import annotations

import dataclasses
import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from benchmarks.prove_ram import ENVIRONMENT
from client.mapped import (
    MODEL_FILE,
    OPTIMIZER_FILE,
    SavingInterpreter,
    TensorWriter,
    mapped,
    tensors_of,
)
from client.page_store import PageStore
from client.prepare import Posed, planned
from client.trainer import train
from client.workload import batches, load_workload
from scheduler import load_device, page_all
from scheduler.errors import BadFile, BadInput, PageStoreError
from tests.client.models import Convolutional
from tests.client.test_cli import assert_one_line, fedpoet
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


def plainly(workload, start):
    """One epoch of plain training from a file, with the seed that the command takes by itself."""
    torch.manual_seed(0)
    module = workload.model().train()
    module.load_state_dict(load_file(start))
    optimizer = workload.optimizer(module.parameters())
    losses = []
    for x, y in batches(workload.examples(0), workload, np.random.default_rng(0)):
        optimizer.zero_grad()
        loss = workload.loss(module(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return module, optimizer, losses


def test_the_command_trains_from_a_file_into_a_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    workload = dataclasses.replace(load_workload("digits"), local_epochs=1)
    start, folder = tmp_path / "start.safetensors", tmp_path / "trained"
    save_file(workload.model().state_dict(), start)
    before = start.read_bytes()
    folder.mkdir()
    options = ("--workload", "digits", "--epochs", "1", "--ram", "200KB", "--time-limit", "2")
    done = fedpoet("train", *options, "--mapped", start, "--out", folder)
    assert done.returncode == 0, done.stderr
    assert "not measured" in done.stdout
    module, optimizer, losses = plainly(workload, start)
    assert f"{losses[-1]:.4f} in the last step" in done.stdout
    model, state = load_file(folder / MODEL_FILE), load_file(folder / OPTIMIZER_FILE)
    assert model.keys() == module.state_dict().keys()
    assert all(torch.equal(model[name], value) for name, value in module.state_dict().items())
    kept = {
        f"{name}.{key}": value
        for name, parameter in module.named_parameters()
        for key, value in optimizer.state[parameter].items()
    }
    assert state.keys() == kept.keys()
    assert all(torch.equal(state[name], value) for name, value in kept.items())
    assert sorted(p.name for p in folder.iterdir()) == [MODEL_FILE, OPTIMIZER_FILE]
    assert start.read_bytes() == before


@pytest.mark.parametrize("error", [KeyboardInterrupt, BadInput])
def test_training_that_ends_early_has_saved_what_it_did(convolutional, start, tmp_path, error):
    def interrupted():
        yield convolutional.batches[0]
        raise error("enough")

    problem, plan = convolutional.fitted(convolutional.keep_all())
    posed = Posed(
        traced=convolutional.traced, problem=problem, device=load_device("raspberry-pi-4b")
    )
    prepared = planned(posed, plan=plan)
    module = mapped(Convolutional, start).train()
    optimizer = convolutional.build(module.parameters())
    torch.manual_seed(convolutional.seed)
    with pytest.raises(error, match="enough"):
        train(prepared, module, optimizer, interrupted(), tmp_path / "pages", saved_to=tmp_path)
    plain = dataclasses.replace(convolutional, batches=convolutional.batches[:1]).plainly()
    model = load_file(tmp_path / MODEL_FILE)
    assert model.keys() == plain.tensors.keys()
    assert all(torch.equal(model[name], plain.tensors[name]) for name in model)


def test_the_command_says_what_is_missing(tmp_path):
    start = tmp_path / "start.safetensors"
    for out in ((), ("--out", tmp_path / "none")):
        done = fedpoet("train", "--workload", "digits", "--mapped", start, *out)
        assert_one_line(done, 2, "--mapped needs --out FOLDER")
    done = fedpoet("train", "--workload", "digits", "--mapped", start, "--out", tmp_path)
    assert_one_line(done, 2, "start.safetensors", "cannot be read")
    assert list(tmp_path.iterdir()) == []


DEEP = """
import torch
from torch import nn
from client.workload import Examples, Workload

def model():
    layers = [m for _ in range(6) for m in (nn.Linear(1024, 1024), nn.ReLU())]
    return nn.Sequential(*layers, nn.Linear(1024, 10))

def data(_):
    return Examples(x=torch.ones(16, 1024), y=torch.arange(16) % 10)

deep = Workload(
    name="deep", model=model, loss=nn.functional.cross_entropy, optimizer=torch.optim.Adam,
    partitions=1, data=data, test=lambda: data(0), batch_size=8, local_epochs=1,
)
"""
LIMITED = """
import resource, sys, time, torch
import rich, typer
from benchmarks.prove_child import data_bytes
from client.local import train_locally
from client.overhead import tiny_step, tiny_step_s
from simulations.cli import main

tiny_step_s(*tiny_step(torch.device("cpu")), time.perf_counter)  # loads what tracing and training load
limit = data_bytes() + int(sys.argv.pop(1))
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
main()
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA counts what is used on Linux only")
def test_the_command_trains_what_the_system_has_no_ram_for(tmp_path):
    """Planned before and cached: the solver, which needs RAM of its own, does not run under the limit."""
    (tmp_path / "own.py").write_text(DEEP)
    workload = load_workload(f"{tmp_path / 'own.py'}:deep")
    start, folder = tmp_path / "start.safetensors", tmp_path / "trained"
    save_file(workload.model().state_dict(), start)
    folder.mkdir()
    arguments = ("train", "--workload", f"{tmp_path / 'own.py'}:deep", "--epochs", "1")
    arguments += ("--ram", "30MB", "--time-limit", "1")
    environment = {**os.environ, **ENVIRONMENT, "XDG_CACHE_HOME": str(tmp_path / "cache")}

    def run(limit_bytes, *more):
        return subprocess.run(
            [sys.executable, "-c", LIMITED, str(limit_bytes), *arguments, *map(str, more)],
            env=environment,
            check=False,
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
        )

    between = ("--mapped", start, "--out", folder)
    done = run(10**10, *between)
    assert done.returncode == 0, done.stderr
    first = (folder / MODEL_FILE).read_bytes()
    (folder / MODEL_FILE).unlink()
    enough = 30_000_000 + 16 * 2**20
    done = run(enough, *between)
    assert done.returncode == 0, done.stderr
    assert (folder / MODEL_FILE).read_bytes() == first
    assert "allocate memory" in run(enough).stderr
