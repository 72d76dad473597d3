"""A model that nobody here wrote: BERT of the package `transformers`, by the example in examples/."""

from __future__ import annotations

import copy
import runpy
from pathlib import Path

import pytest
import torch

from benchmarks.outcomes import outcome
from client.executor import plan_step
from tests.client.twins import require_same

EXAMPLE = Path(__file__).parents[2] / "examples" / "transformers_bert.py"


@pytest.fixture(scope="module")
def example():
    return runpy.run_path(str(EXAMPLE))


@pytest.mark.slow
def test_the_example_trains_in_half_the_ram_bit_for_bit(example, capsys):
    assert example["main"](["--hidden", "32", "--rows", "4", "--limit", "5"])
    said = capsys.readouterr().out
    assert "bit for bit" in said
    assert "20 steps" in said


def test_bert_with_accumulated_gradients(example):
    torch.manual_seed(0)
    model = example["classifier"](1, 32).train()
    plain = copy.deepcopy(model)
    loss, (data,) = example["loss"], [example["batches"](4, 3)]
    theirs, mine = example["adamw"](plain), example["adamw"](model)
    torch.manual_seed(1)
    losses = []
    for x, y in data:
        theirs.zero_grad()
        parts = []
        cut = zip(*(t.chunk(2) for t in (*x.values(), y)), strict=True)
        for ids, mask, yc in cut:
            value = loss(plain(input_ids=ids, attention_mask=mask), yc)
            value.backward()
            parts.append(value.detach())
        theirs.step()
        losses.append((parts[0] + parts[1]).item())
    expected = outcome(plain, theirs, losses)
    torch.manual_seed(1)
    with plan_step(model, loss, mine, data[0], ram="1GB", accumulate=2) as step:
        losses = [step(batch) for batch in data]
    require_same(expected, outcome(model, mine, losses))
