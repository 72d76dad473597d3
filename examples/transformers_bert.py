"""Train a BERT of the package `transformers` in half the RAM, and see that no bit differs.

    pip install transformers
    python examples/transformers_bert.py
    python examples/transformers_bert.py --hidden 256 --rows 32 --ram 40MB --steps 50

The model is built from a configuration and the sentences are made up, so nothing is downloaded. It is
trained twice, by plain PyTorch and by a plan, with dropout and AdamW, and the two are compared.
"""

from __future__ import annotations

import argparse
import copy

import torch
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification
from transformers.modeling_outputs import SequenceClassifierOutput

from client.executor import PlannedStep, plan_step

WORDS, TOKENS, CLASSES = 1000, 32, 3
PADDING = 0
Batch = tuple[dict[str, Tensor], Tensor]


def classifier(layers: int, hidden: int) -> nn.Module:
    config = BertConfig(
        vocab_size=WORDS,
        num_hidden_layers=layers,
        hidden_size=hidden,
        intermediate_size=4 * hidden,
        num_attention_heads=max(1, hidden // 32),
        max_position_embeddings=TOKENS,
        num_labels=CLASSES,
        # The other ways look at the mask's values and may leave it out, which a plan cannot.
        attn_implementation="eager",
    )
    return BertForSequenceClassification(config)


def loss(output: SequenceClassifierOutput, classes: Tensor) -> Tensor:
    return nn.functional.cross_entropy(output.logits, classes)


def batches(rows: int, steps: int, seed: int = 0) -> list[Batch]:
    """Sentences of random words and lengths, and their classes."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for _ in range(steps):
        ids = torch.randint(1, WORDS, (rows, TOKENS), generator=generator)
        lengths = torch.randint(TOKENS // 2, TOKENS + 1, (rows, 1), generator=generator)
        mask = (torch.arange(TOKENS) < lengths).long()
        x = {"input_ids": ids * mask + PADDING * (1 - mask), "attention_mask": mask}
        made.append((x, torch.randint(0, CLASSES, (rows,), generator=generator)))
    return made


def adamw(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=1e-3)


def train_plainly(model: nn.Module, data: list[Batch]) -> list[float]:
    optimizer = adamw(model)
    losses = []
    for x, y in data:
        optimizer.zero_grad()
        value = loss(model(**x), y)
        value.backward()
        optimizer.step()
        losses.append(value.item())
    return losses


def train_by_plan(
    model: nn.Module, data: list[Batch], ram: str | None, limit_s: float
) -> tuple[list[float], PlannedStep]:
    """Without `ram`, half of what keeping everything takes."""
    optimizer = adamw(model)
    if ram is None:
        ram = (
            f"{plan_step(model, loss, optimizer, data[0], ram='1000GB').predicted_peak_bytes // 2}"
        )
    with plan_step(model, loss, optimizer, data[0], ram=ram, time_limit_s=limit_s) as step:
        return [step(batch) for batch in data], step


def same(one: nn.Module, other: nn.Module) -> bool:
    theirs = other.state_dict()
    return all(torch.equal(value, theirs[name]) for name, value in one.state_dict().items())


def main(arguments: list[str] | None = None) -> bool:
    parser = argparse.ArgumentParser(description="Train a BERT in half the RAM, bit for bit.")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--rows", type=int, default=8, help="sentences per batch")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--ram", help="such as 40MB; otherwise half of what keeping all takes")
    parser.add_argument("--limit", type=float, default=30.0, help="seconds for planning")
    options = parser.parse_args(arguments)

    torch.manual_seed(0)
    model = classifier(options.layers, options.hidden).train()
    plain = copy.deepcopy(model)
    data = batches(options.rows, options.steps)

    torch.manual_seed(1)
    losses = train_plainly(plain, data)
    torch.manual_seed(1)
    planned_losses, step = train_by_plan(model, data, options.ram, options.limit)

    budget = step.solution.plan.budget.ram_bytes
    exact = losses == planned_losses and same(plain, model)
    print(f"loss {losses[0]:.4f} → {losses[-1]:.4f} in {options.steps} steps")
    print(f"budget {budget:,} bytes; predicted {step.predicted_peak_bytes:,}")
    print(f"held at most {step.measured_peak_bytes:,} bytes, by torch's own allocator")
    print("losses and model are bit for bit those of plain PyTorch" if exact else "NOT the same")
    return exact and step.measured_peak_bytes <= budget


if __name__ == "__main__":
    raise SystemExit(0 if main() else 1)
