"""Training that is killed, or shares its storage, leaves nothing behind and harms nobody."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.numpy import load_file

# Trains on little RAM, so that pages move; says when a step has ended, and saves as the command does.
TRAIN = """
import os, sys
from pathlib import Path
import torch
from safetensors.numpy import save
from client.local import train_locally
from client.state import get_arrays
from client.workload import load_workload, with_training
from scheduler import load_device
from scheduler.files import write_atomically

torch.set_num_threads(1)
workload = with_training(load_workload("digits"), batch_size=None, local_epochs=int(sys.argv[1]))
outcome = train_locally(
    workload, load_device("phone-pixel-6"), ram_bytes=int(sys.argv[2]), time_limit_s=5.0,
    on_step=lambda done, total, loss: print("step", done, flush=True),
)
write_atomically(Path(sys.argv[3]), save(get_arrays(outcome.model)))
"""


def training(folder: Path, model: Path, *, epochs: int, ram: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", TRAIN, str(epochs), str(ram), str(model)]
    environment = {"TMPDIR": str(folder), "PATH": "", "HOME": str(folder.parent)}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=environment, cwd=Path(__file__).parents[2]
    )


def wait_for_step(process: subprocess.Popen[str], number: int) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if line.split() == ["step", str(number)]:
            return
    pytest.fail("training ended before that step")


def left_behind(folder: Path) -> list[str]:
    """What is not torch's own cache of compiled code."""
    return [p.name for p in folder.iterdir() if not p.name.startswith("torchinductor")]


@pytest.fixture(scope="module")
def little_ram() -> int:
    """Between the floor and what keeping everything takes."""
    from client.prepare import pose
    from client.workload import load_workload
    from scheduler import floor, keep_all, load_device, replay

    problem = pose(load_workload("digits"), load_device("phone-pixel-6")).problem
    most = replay(keep_all(problem), problem).peak_bytes
    return (floor(problem).ram_bytes + most) // 2


@pytest.mark.slow
def test_killed_in_a_step_the_model_is_the_one_from_before(tmp_path, little_ram):
    folder, model = tmp_path / "pages", tmp_path / "model.safetensors"
    folder.mkdir()
    first = training(folder, model, epochs=1, ram=little_ram)
    first.communicate()
    before = model.read_bytes()
    with training(folder, model, epochs=10_000, ram=little_ram) as process:
        wait_for_step(process, 20)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert first.returncode == 0
    assert left_behind(folder) == []
    assert model.read_bytes() == before
    again = training(folder, model, epochs=1, ram=little_ram)
    again.communicate()
    assert again.returncode == 0
    assert model.read_bytes() == before


@pytest.mark.slow
def test_two_trainings_share_a_folder(tmp_path, little_ram):
    folder = tmp_path / "pages"
    folder.mkdir()
    models = [tmp_path / f"{n}.safetensors" for n in range(2)]
    both = [training(folder, m, epochs=2, ram=little_ram) for m in models]
    for process in both:
        process.communicate()
        assert process.returncode == 0
    one, other = (load_file(m) for m in models)
    assert one.keys() == other.keys()
    assert all((one[k] == other[k]).all() for k in one)
    assert left_behind(folder) == []
