"""Changes are traced for real: each is the workload it says it is, with its own floor."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from client.prepare import pose
from client.what_if import changes
from client.workload import Examples, Workload, load_workload
from scheduler import Kind, Phase, Problem, floor, load_device

DEVICE = load_device("nrf52840")
TIMES, WORDS, WIDE = 12, 20, 6


def workload(model, optimizer, x, y, loss=nn.functional.cross_entropy, batch_size=4) -> Workload:
    examples = Examples(x=x, y=y)
    return Workload(
        name="own",
        model=model,
        loss=loss,
        optimizer=optimizer,
        partitions=1,
        data=lambda _: examples,
        test=lambda: examples,
        batch_size=batch_size,
        local_epochs=1,
    )


class Words(nn.Module):
    """A target per word: [n, time] whole numbers to [n, words, time]."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, WIDE)
        self.out = nn.Linear(WIDE, WORDS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.embedding(x)).transpose(1, 2)


def tagging() -> Workload:
    x = torch.arange(8 * TIMES).reshape(8, TIMES) % WORDS
    return workload(Words, lambda p: torch.optim.Adam(p, lr=1e-3), x, x)


def problems(of: Workload) -> dict[str, Problem | str]:
    return {change.name: change.posed for change in changes(of, DEVICE)}


@pytest.fixture(scope="module")
def tagged() -> dict[str, Problem | str]:
    return problems(tagging())


def inputs(problem: Problem | str) -> list[int]:
    assert isinstance(problem, Problem), problem
    return [t.size_bytes for t in problem.graph.tensors if t.kind is Kind.INPUT]


def updated(problem: Problem | str) -> set[str]:
    assert isinstance(problem, Problem), problem
    graph = problem.graph
    ops = [op for op in graph.operators if op.phase is Phase.UPDATE]
    named = (graph.tensors[k] for op in ops for k in op.mutates)
    return {t.name for t in named if t.kind is Kind.PARAMETER}


def state_bytes(problem: Problem | str) -> int:
    assert isinstance(problem, Problem), problem
    states = (t for t in problem.graph.tensors if t.kind is Kind.OPTIMIZER_STATE)
    return sum(t.size_bytes for t in states)


def test_batch_and_sequence_shrink_inputs_and_targets(tagged: dict[str, Problem | str]) -> None:
    whole = inputs(pose(tagging(), DEVICE).problem)
    assert whole == [4 * TIMES * 8] * 2
    assert inputs(tagged["batch halved"]) == [size // 2 for size in whole]
    assert inputs(tagged["sequence halved"]) == [size // 2 for size in whole]


def test_frozen_layers_are_not_updated(tagged: dict[str, Problem | str]) -> None:
    everything = {"embedding.weight", "out.weight", "out.bias"}
    assert updated(pose(tagging(), DEVICE).problem) == everything
    assert updated(tagged["all but the last layer frozen"]) == {"out.weight", "out.bias"}
    assert updated(tagged["first half frozen"]) == {"out.weight", "out.bias"}
    assert updated(tagged["batch halved"]) == everything


def test_sgd_without_momentum_has_no_state(tagged: dict[str, Problem | str]) -> None:
    assert state_bytes(pose(tagging(), DEVICE).problem) > 0
    assert state_bytes(tagged["SGD without momentum"]) == 0
    assert updated(tagged["SGD without momentum"]) == updated(tagged["batch halved"])


def test_the_longer_axis_is_the_sequence_and_the_other_one_where_it_cannot_be() -> None:
    def along_channels() -> nn.Module:
        return nn.Sequential(nn.Conv1d(3, 4, 3), nn.AdaptiveAvgPool1d(1), nn.Flatten())

    x, y = torch.zeros(8, 3, 40), torch.zeros(8, dtype=torch.long)
    plain = workload(along_channels, lambda p: torch.optim.SGD(p, lr=0.1), x, y)
    assert inputs(problems(plain)["sequence halved"])[0] == 4 * 4 * 3 * 20

    def fixed() -> nn.Module:
        return nn.Sequential(nn.Linear(40, 4), nn.AdaptiveAvgPool2d((1, 4)), nn.Flatten())

    other = problems(replace(plain, model=fixed))
    assert inputs(other["sequence halved"])[0] == 4 * 4 * 1 * 40
    assert other["SGD without momentum"] == "does not apply: the optimizer is that already"


def test_what_does_not_apply_is_said() -> None:
    def single() -> nn.Module:
        return nn.Linear(5, 2)

    x, y = torch.zeros(4, 5), torch.zeros(4, dtype=torch.long)
    one = workload(single, torch.optim.Adam, x, y, batch_size=1)
    told = problems(one)
    assert told["batch halved"] == "does not apply: a batch has one example already"
    assert told["sequence halved"] == "does not apply: an input of shape n x 5 has no sequence axis"
    assert told["first half frozen"] == "does not apply: the model has 1 layer with parameters"
    assert isinstance(told["SGD without momentum"], Problem)


def test_a_length_that_the_model_cannot_do_without_is_said() -> None:
    def fixed() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(120, 2))

    x, y = torch.zeros(8, 3, 40), torch.zeros(8, dtype=torch.long)
    told = problems(workload(fixed, torch.optim.Adam, x, y))
    assert str(told["sequence halved"]).startswith("cannot be traced: ")


def test_a_smaller_batch_of_the_watch_lowers_the_floor_and_generators_stay() -> None:
    watch = load_workload("watch")
    torch.manual_seed(5)
    before = torch.get_rng_state()
    told = problems(watch)
    assert torch.equal(torch.get_rng_state(), before)
    halved = told["batch halved"]
    assert isinstance(halved, Problem)
    assert floor(halved).ram_bytes < floor(pose(watch, DEVICE).problem).ram_bytes
