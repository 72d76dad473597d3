"""The networks that the GPU's benchmark trains: of their papers' sizes, and small ones to try it out with."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as fn

from benchmarks.drawn import Batch, texts
from benchmarks.models import Network, Step, adamw, sgd
from benchmarks.networks import bert


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3 and 1 x 1 convolutions around a skip connection (He et al. 2016)."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        wide = 4 * width
        self.body = nn.Sequential(
            *_normed(nn.Conv2d(channels, width, 1, bias=False)),
            nn.ReLU(),
            *_normed(nn.Conv2d(width, width, 3, stride, 1, bias=False)),
            nn.ReLU(),
            *_normed(nn.Conv2d(width, wide, 1, bias=False)),
        )
        self.skip: nn.Module = nn.Identity()
        if stride > 1 or channels != wide:
            self.skip = nn.Sequential(*_normed(nn.Conv2d(channels, wide, 1, stride, bias=False)))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.skip(x))


def resnet50(
    repeats: tuple[int, ...] = (3, 4, 6, 3), width: int = 64, classes: int = 1000
) -> nn.Module:
    """ResNet-50 for ImageNet, as a chain."""
    layers: list[nn.Module] = [*_normed(nn.Conv2d(3, width, 7, 2, 3, bias=False))]
    layers += [nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    channels = width
    for stage, blocks in enumerate(repeats):
        wide = width << stage
        for block in range(blocks):
            layers.append(Bottleneck(channels, wide, 2 if stage and not block else 1))
            channels = 4 * wide
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)]
    return nn.Sequential(*layers)


def _normed(convolution: nn.Conv2d) -> tuple[nn.Module, nn.Module]:
    return convolution, nn.BatchNorm2d(convolution.out_channels)


class DecoderLayer(nn.Module):
    """Causal self-attention and a GELU perceptron, layer norm before each (Radford et al. 2019)."""

    def __init__(self, hidden: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.attention_dropout = heads, dropout
        self.attention_norm, self.norm = nn.LayerNorm(hidden), nn.LayerNorm(hidden)
        self.mixed, self.out = nn.Linear(hidden, 3 * hidden), nn.Linear(hidden, hidden)
        self.widen, self.narrow = nn.Linear(hidden, 4 * hidden), nn.Linear(4 * hidden, hidden)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.mixed(self.attention_norm(x)).chunk(3, -1)
        query, key, value = (p.unflatten(-1, (self.heads, -1)).transpose(1, 2) for p in parts)
        dropped = self.attention_dropout if self.training else 0.0
        seen = fn.scaled_dot_product_attention(query, key, value, dropout_p=dropped, is_causal=True)
        x = x + self.dropout(self.out(seen.transpose(1, 2).flatten(2)))
        return x + self.dropout(self.narrow(fn.gelu(self.widen(self.norm(x)))))


class Gpt(nn.Module):
    """A stack of decoder layers that tells the next token; the head is the embedding's."""

    def __init__(
        self, layers: int, hidden: int, heads: int, vocabulary: int, context: int, dropout: float
    ) -> None:
        super().__init__()
        self.words, self.positions = nn.Embedding(vocabulary, hidden), nn.Embedding(context, hidden)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.Sequential(*(DecoderLayer(hidden, heads, dropout) for _ in range(layers)))
        self.norm = nn.LayerNorm(hidden)

    def forward(self, tokens: Tensor) -> Tensor:
        places = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.layers(self.dropout(self.words(tokens) + self.positions(places)))
        return fn.linear(self.norm(x), self.words.weight)


def next_token_loss(scores: Tensor, tokens: Tensor) -> Tensor:
    """Cross entropy over all places of all texts."""
    return fn.cross_entropy(scores.flatten(0, 1), tokens.flatten())


def _images(size: int, generator: torch.Generator, pixels: int = 224, classes: int = 1000) -> Batch:
    x = torch.randn(size, 3, pixels, pixels, generator=generator)
    return x, torch.randint(0, classes, (size,), generator=generator)


def _tokens(size: int, generator: torch.Generator, context: int, vocabulary: int) -> Batch:
    drawn = torch.randint(0, vocabulary, (size, context + 1), generator=generator)
    return drawn[:, :-1].contiguous(), drawn[:, 1:].contiguous()


def _gpt(name: str, layers: int, hidden: int, vocabulary: int, context: int, size: int) -> Step:
    network = Network(
        title=f"GPT-2's layers ({layers}, hidden {hidden}), {context} tokens",
        build=partial(Gpt, layers, hidden, hidden // 64, vocabulary, context, 0.1),
        draw=partial(_tokens, context=context, vocabulary=vocabulary),
        optimizer=adamw,
    )
    return Step(name=name, network=network, size=size, loss=next_token_loss)


STEPS = (
    Step(
        name="resnet50",
        network=Network(title="ResNet-50, 224 x 224", build=resnet50, draw=_images, optimizer=sgd),
        size=64,
    ),
    Step(
        name="bert12",
        network=Network(
            title="BERT-base (12 layers, hidden 768), 128 tokens",
            build=partial(bert, 12, 768),
            draw=texts,
            optimizer=adamw,
        ),
        size=64,
    ),
    _gpt("gpt2", 12, 768, 50257, 1024, 8),
)

QUICK_STEPS = (
    Step(
        name="resnet50",
        network=Network(
            title="bottleneck blocks, 16 x 16",
            build=partial(resnet50, (1, 1), 4, 10),
            draw=partial(_images, pixels=16, classes=10),
            optimizer=sgd,
        ),
        size=4,
    ),
    _gpt("gpt2", 2, 64, 97, 12, 2),
)
