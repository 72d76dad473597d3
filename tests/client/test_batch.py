"""Batches of several tensors: what the model and the loss get, and that training by a plan is exact."""

from __future__ import annotations

import copy
from collections import UserDict

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as fn

from benchmarks.outcomes import outcome
from client.batch import arguments, filled, tensors_in
from client.executor import plan_step
from scheduler.errors import BadInput, Infeasible, Untraceable
from tests.client.twins import require_same
from tests.strategies import nested

ROWS, TOKENS, WORDS, CLASSES = 4, 6, 11, 3

PARTS = nested(st.builds(torch.zeros, st.integers(0, 3)))


class Reader(nn.Module):
    """Words in two inputs, one of them optional, and a mask; two outputs."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(WORDS, 8)
        self.layer = nn.Linear(8, 8)
        self.drop = nn.Dropout(0.3)
        self.classes, self.score = nn.Linear(8, CLASSES), nn.Linear(8, 1)

    def forward(self, words, mask, shift=None):
        x = self.words(words)
        if shift is not None:
            x = x + shift[:, None]
        x = self.drop(torch.tanh(self.layer(x))) * mask[..., None]
        x = x.sum(1) / mask.sum(1, keepdim=True)
        return {"classes": self.classes(x), "score": self.score(x)}


def both(out, y):
    """The loss of two targets."""
    return fn.cross_entropy(out["classes"], y["class"]) + fn.mse_loss(out["score"], y["score"][0])


def of_classes(out, y):
    return fn.cross_entropy(out["classes"], y)


def drawn(generator):
    words = torch.randint(WORDS, (ROWS, TOKENS), generator=generator)
    mask = (torch.arange(TOKENS) < torch.randint(2, TOKENS, (ROWS, 1), generator=generator)).float()
    shift = torch.randn(ROWS, 8, generator=generator)
    target = torch.randint(CLASSES, (ROWS,), generator=generator)
    return words, mask, shift, target, torch.randn(ROWS, 1, generator=generator)


def as_tuple(words, mask, shift, target, _score):
    return (words, mask, shift), target


def as_dicts(words, mask, _shift, target, score):
    return {"mask": mask, "words": words}, {"class": target, "score": [score]}


def as_a_tokenizer_gives(words, mask, _shift, target, score):
    return UserDict(words=words, mask=mask), {"class": target, "score": (score,)}


def data(form, steps=4):
    generator = torch.Generator().manual_seed(5)
    return [form(*drawn(generator)) for _ in range(steps)]


def made():
    torch.manual_seed(3)
    module = Reader().train()
    optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
    torch.manual_seed(7)
    return module, optimizer


def chunks(batch, count):
    """The micro-batches of a batch, cut by hand."""
    parts = {name: t.chunk(count) for name, t in tensors_in(batch).items()}
    return [filled(batch, {name: p[n] for name, p in parts.items()}) for n in range(count)]


def plainly(batches, loss, accumulate=1):
    module, optimizer = made()
    losses = []
    for batch in batches:
        optimizer.zero_grad()
        total = None
        for x, y in chunks(batch, accumulate) if accumulate > 1 else [batch]:
            out = module(*x) if isinstance(x, tuple) else module(**x)
            value = loss(out, y)
            value.backward()
            total = value.detach() if total is None else total + value.detach()
        optimizer.step()
        losses.append(total.item())
    return outcome(module, optimizer, losses)


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize(
    ("form", "loss"), [(as_tuple, of_classes), (as_dicts, both), (as_a_tokenizer_gives, both)]
)
def test_several_inputs_and_targets_bit_for_bit_in_little_ram(form, loss, accumulate):
    batches = data(form)
    module, optimizer = made()

    def plan(ram):
        return plan_step(
            module, loss, optimizer, batches[0], ram=ram, accumulate=accumulate, time_limit_s=1.0
        )

    with pytest.raises(Infeasible) as raised:
        plan(1)
    with plan(int(1.1 * raised.value.floor_bytes)) as step:
        torch.manual_seed(7)
        losses = [step(b) for b in batches]
        assert step.measured_peak_bytes <= step.solution.plan.budget.ram_bytes
    require_same(plainly(batches, loss, accumulate), outcome(module, optimizer, losses))


def test_the_loss_may_need_no_y():
    class Whole(Reader):
        def forward(self, words, mask, labels):
            return of_classes(super().forward(words, mask), labels)

    batches = [({"labels": y, **x}, ()) for x, y in ((b[0], b[1]["class"]) for b in data(as_dicts))]
    torch.manual_seed(3)
    module = Whole().train()
    optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
    with plan_step(module, lambda out, _: out, optimizer, batches[0], ram="1MB") as step:
        torch.manual_seed(7)
        losses = [step(b) for b in batches]
    alone = [(x, y["class"]) for x, y in data(as_dicts)]
    require_same(plainly(alone, of_classes), outcome(module, optimizer, losses))


def test_a_dict_in_another_order_is_the_same_batch_and_other_names_are_planned_anew():
    first, second = data(as_dicts, 2)
    turned = dict(reversed(second[0].items())), dict(reversed(second[1].items()))
    module, optimizer = made()
    with plan_step(module, both, optimizer, first, ram="1MB") as step:
        solution = step.solution
        losses = [step(first), step(turned)]
        assert step.solution is solution
        words, mask = second[0]["words"], second[0]["mask"]
        step(({"words": words, "mask": mask, "shift": torch.zeros(ROWS, 8)}, second[1]))
        assert step.solution is not solution
    plain = plainly([first, second], both)
    assert losses == plain.losses


def test_messages_name_the_tensor():
    module, optimizer = made()
    (words, mask, shift), target = data(as_tuple, 1)[0]
    for x, says in (
        ((words, mask, None), r"x\[2\] must be a dense tensor, not NoneType"),
        ({"words": words, "mask": [True]}, r"x\['mask'\]\[0\] must be a dense tensor, not bool"),
    ):
        with pytest.raises(BadInput, match=says):
            plan_step(module, of_classes, optimizer, (x, target), ram="1MB")
    x = (words, mask[:3], shift)
    with pytest.raises(Untraceable, match=r"x\[1\] of shape \(3, 6\).*as many rows"):
        plan_step(module, of_classes, optimizer, (x, target), ram="1MB", accumulate=2)
    with pytest.raises(
        Infeasible, match=r"x\[0\] \(4, 6\) torch.int64, x\[1\] \(4, 6\) .* y \(4,\)"
    ):
        plan_step(module, of_classes, optimizer, ((words, mask, shift), target), ram=1)


def test_an_open_interpreter_names_what_is_missing_and_changes_nothing():
    module, optimizer = made()
    batches = data(as_dicts)
    with plan_step(module, both, optimizer, batches[0], ram="1MB") as step:
        losses = [step(batches[0])]
        x, y = batches[1]
        interpreter = step._session.interpreter
        with pytest.raises(BadInput, match=r"the batch has x\['words'\].*made for x\['mask'\]"):
            interpreter({"words": x["words"]}, y)
        losses += [step(b) for b in batches[1:]]
    require_same(plainly(batches, both), outcome(module, optimizer, losses))


@given(x=PARTS, y=PARTS)
def test_filling_a_batch_with_its_own_tensors_gives_it_back(x, y):
    def same(one, other):
        if isinstance(one, torch.Tensor):
            return one is other
        assert type(one) is type(other)
        assert len(one) == len(other)
        pairs = one.items() if isinstance(one, dict) else enumerate(one)
        return all(same(value, other[key]) for key, value in pairs)

    def count(part):
        if isinstance(part, torch.Tensor):
            return 1
        return sum(map(count, part.values() if isinstance(part, dict) else part))

    if not count((x, y)):
        with pytest.raises(BadInput, match="no tensor"):
            tensors_in((x, y))
        return
    tensors = tensors_in((x, y))
    assert len(tensors) == count((x, y))
    assert all(same(*pair) for pair in zip((x, y), filled((x, y), tensors), strict=True))
    positional, named = arguments(x)
    assert len(positional) + len(named) == (1 if isinstance(x, torch.Tensor) else len(x))


def test_transformers_with_its_own_loss():
    """Labels among the inputs, as transformers' Trainer passes them."""
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=WORDS,
        num_hidden_layers=1,
        hidden_size=16,
        intermediate_size=32,
        num_attention_heads=2,
        max_position_embeddings=TOKENS,
        num_labels=CLASSES,
        attn_implementation="eager",
    )
    torch.manual_seed(0)
    model = BertForSequenceClassification(config).train()
    plain = copy.deepcopy(model)
    batches = [
        ({"input_ids": w, "attention_mask": m.long(), "labels": y}, ())
        for w, m, _, y, _ in data(lambda *parts: parts, 3)
    ]
    theirs, mine = (torch.optim.AdamW(m.parameters(), lr=1e-3) for m in (plain, model))
    torch.manual_seed(1)
    losses = []
    for x, _ in batches:
        theirs.zero_grad()
        value = plain(**x).loss
        value.backward()
        theirs.step()
        losses.append(value.item())
    torch.manual_seed(1)
    with plan_step(model, lambda out, _: out.loss, mine, batches[0], ram="1GB") as step:
        planned = [step(b) for b in batches]
    require_same(outcome(plain, theirs, losses), outcome(model, mine, planned))
