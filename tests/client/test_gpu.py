"""Training by a plan on a GPU. Where there is none, nothing here can run."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")

# The allocator's settings are read when torch is loaded, so each case is a process of its own.
CASE = """
import gc
import sys
import torch
from torch import nn

from benchmarks.outcomes import differences, outcome
from client.executor import plan_step
from scheduler import floor
from tests.client.models import Convolutional, Encoder, batch

torch.use_deterministic_algorithms(True)
torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
LOSS = nn.functional.cross_entropy
kind = {"Convolutional": Convolutional, "Encoder": Encoder}[sys.argv[1]]
STEPS, FAILS = 5, 2


def start():
    torch.manual_seed(3)
    module = kind().train().cuda()
    return module, torch.optim.Adam(module.parameters(), lr=0.01)




generator = torch.Generator().manual_seed(5)
batches = [batch(kind.shape, generator) for _ in range(STEPS)]
module, optimizer = start()
losses = []
for x, y in batches:
    optimizer.zero_grad()
    loss = LOSS(module(x.cuda()), y.cuda())
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
plain = outcome(module, optimizer, losses)

module, optimizer = start()
probe = plan_step(module, LOSS, optimizer, batches[0], ram=10**9, time_limit_s=20)
everything = probe.predicted_peak_bytes
least = floor(probe._newest.problem).ram_bytes
probe.close()
del probe, loss, module, optimizer
gc.collect()
module, optimizer = start()
ram = least + int(float(sys.argv[2]) * (everything - least))
with plan_step(module, LOSS, optimizer, batches[0], ram=ram, time_limit_s=20) as step:
    losses = []
    for n, pair in enumerate(batches):
        if n == FAILS:
            instructions = step._session.interpreter._instructions
            middle = len(instructions) // 2

            def broken():
                raise RuntimeError("broken")

            step._session.interpreter._instructions = (*instructions[:middle], broken)
            try:
                step(pair)
            except RuntimeError as error:
                assert str(error) == "broken", error
            else:
                raise AssertionError("nothing failed")
            step._session.interpreter._instructions = instructions
        torch.cuda.reset_peak_memory_stats()
        losses.append(step(pair))
        peak = torch.cuda.max_memory_allocated()
        assert peak <= ram, f"step {n}: {peak} bytes, the budget is {ram}"
    predicted = step.predicted_peak_bytes
assert abs(peak - predicted) <= 0.02 * predicted, f"{peak} bytes, predicted {predicted}"
found = list(differences(plain, outcome(module, optimizer, losses)))
assert not found, f"differs: {found}"
"""


@needs_gpu
@pytest.mark.parametrize("share", [1.0, 0.1])
@pytest.mark.parametrize("model", ["Convolutional", "Encoder"])
def test_the_same_bits_within_the_budget_also_after_an_error(model, share):
    """Five steps, the third of which first fails in its middle and is done again.

    The budget is the least that will do, and that share of what is between it and keeping everything.
    """
    settings = {
        "PYTORCH_ALLOC_CONF": "expandable_segments:True",
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    }
    command = [sys.executable, "-c", CASE, model, str(share)]
    done = subprocess.run(
        command, env=os.environ | settings, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
