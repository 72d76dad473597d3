"""One training in a process of its own, under a hard limit if asked; `prove_ram` starts it.

    python -m benchmarks.prove_child plain|planned JOB_FOLDER OUT_FOLDER [BYTES]

Start-up is: import torch and client, read the planned step, and train a tiny network for two steps, which
makes torch's libraries allocate what they keep. What the process then has is its start-up footprint. From
there on it may have BYTES more, in which the model comes into being and is trained. The initial model and
the batches are files that are mapped read-only; the trained tensors become files. The last line of the
output is the result as JSON. Exit code 3: the memory did not suffice.
"""

from __future__ import annotations

import ctypes
import gc
import json
import resource
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from torch import nn

from benchmarks import handover
from benchmarks.outcomes import digest
from client.mapped import (
    MODEL_FILE,
    OPTIMIZER_FILE,
    SavingInterpreter,
    TensorWriter,
    mapped,
    tensors_of,
)
from client.page_store import PageStore
from client.program import Traced
from scheduler import Plan, Problem

JOB_FILE, START_FILE, BATCHES_FILE = "step.pickle", "start.safetensors", "batches.safetensors"
OUT_OF_MEMORY = 3
# What torch's allocator says, and oneDNN when it has no memory for a kernel. The same training without the
# limit goes first and succeeds, so that the second has no other cause here.
NO_MEMORY_WORDS = ("allocate memory", "could not create a primitive")
LOSS = nn.functional.cross_entropy


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A planned training step and what it was planned for; without a plan, for plain training."""

    build: Callable[[], nn.Module]
    optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
    steps: int
    traced: Traced
    problem: Problem
    plan: Plan | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a training did; `free_heap_bytes` of the start-up footprint were free to use again."""

    startup_bytes: int
    free_heap_bytes: int
    losses: tuple[str, ...]
    generator: str
    step_s: float


class _HeapInfo(ctypes.Structure):
    """glibc's mallinfo2."""

    _fields_ = [
        *((f"other{n}", ctypes.c_size_t) for n in range(8)),
        ("fordblks", ctypes.c_size_t),
        ("keepcost", ctypes.c_size_t),
    ]


def data_bytes() -> int:
    """All private writable memory of this process: what RLIMIT_DATA limits."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmData:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/self/status has no VmData")


def _free_heap_bytes() -> int:
    """After giving back what can be given back."""
    libc = ctypes.CDLL(None)
    libc.malloc_trim(0)
    libc.mallinfo2.restype = _HeapInfo
    return int(libc.mallinfo2().fordblks)


def _warm_up() -> None:
    """Use once what the libraries set up once, on data of a few kilobytes."""
    with torch.random.fork_rng(devices=[]):
        net = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
        )
        net.append(nn.Linear(128, 10))
        optimizer = torch.optim.Adam(net.parameters())
        for _ in range(2):
            optimizer.zero_grad()
            LOSS(net(torch.randn(2, 3, 8, 8)), torch.tensor([0, 1])).backward()
            optimizer.step()
    AESGCM(AESGCM.generate_key(256)).encrypt(bytes(12), bytes(16), None)


def _batches(folder: Path, steps: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    found = dict(tensors_of(folder / BATCHES_FILE))
    count = len(found) // 2
    return [(found[f"x{n % count}"], found[f"y{n % count}"]) for n in range(steps)]


def _plain(job: Job, folder: Path, out: Path) -> tuple[list[float], float]:
    module = job.build().train()
    module.load_state_dict(dict(tensors_of(folder / START_FILE)))
    optimizer = job.optimizer(module.parameters())
    torch.manual_seed(7)
    began_s, losses = time.monotonic(), []
    for x, y in _batches(folder, job.steps):
        optimizer.zero_grad()
        loss = LOSS(module(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    seconds = time.monotonic() - began_s
    model = module.state_dict()
    state = {
        f"{name}.{key}": value
        for name, p in module.named_parameters()
        for key, value in optimizer.state[p].items()
    }
    for file, tensors in ((MODEL_FILE, model), (OPTIMIZER_FILE, state)):
        named = sorted(tensors, key=lambda name: -tensors[name].itemsize)
        with TensorWriter(out / file, named) as writer:
            for name in named:
                writer.add(name, tensors[name].detach())
    return losses, seconds


def _planned(job: Job, folder: Path, out: Path) -> tuple[list[float], float]:
    assert job.plan is not None  # noqa: S101
    module = mapped(job.build, folder / START_FILE).train()
    optimizer = job.optimizer(module.parameters())
    torch.manual_seed(7)
    with (
        PageStore(out / "pages") as store,
        SavingInterpreter(
            job.traced, job.problem, job.plan, store, module, optimizer, folder=out
        ) as step,
    ):
        began_s = time.monotonic()
        losses = [step(x, y) for x, y in _batches(folder, job.steps)]
        return losses, time.monotonic() - began_s


def main() -> None:
    torch.set_num_threads(1)
    kind, folder, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    job: Job = handover.read(folder / JOB_FILE)
    _warm_up()
    gc.collect()
    free_heap_bytes, startup_bytes = _free_heap_bytes(), data_bytes()
    if len(sys.argv) > 4:
        limit = startup_bytes + int(sys.argv[4])
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    try:
        losses, seconds = (_plain if kind == "plain" else _planned)(job, folder, out)
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not any(w in str(error) for w in NO_MEMORY_WORDS):
            raise
        sys.stderr.write(f"{str(error).splitlines()[0] if str(error) else 'MemoryError'}\n")
        sys.exit(OUT_OF_MEMORY)
    result = Result(
        startup_bytes=startup_bytes,
        free_heap_bytes=free_heap_bytes,
        losses=tuple(map(float.hex, losses)),
        generator=digest(torch.get_rng_state()),
        step_s=seconds / job.steps,
    )
    print(json.dumps(asdict(result)))


if __name__ == "__main__":
    main()
