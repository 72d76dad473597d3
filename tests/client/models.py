"""Small models that between them use what makes a training step hard to trace."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as fn

CLASSES = 5


def batch(shape: tuple[int, ...], generator: torch.Generator) -> tuple[Tensor, Tensor]:
    x = torch.randn(shape, generator=generator)
    return x, torch.randint(0, CLASSES, shape[:1], generator=generator)


class Mlp(nn.Sequential):
    shape = (6, 12)

    def __init__(self) -> None:
        super().__init__(
            nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, CLASSES)
        )


class Convolutional(nn.Module):
    """Batch norm, in-place activation, pooling, and dropout of elements and of channels."""

    shape = (4, 1, 8, 8)

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 6, 3, padding=1),
            nn.BatchNorm2d(6),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Dropout2d(0.2),
            nn.Conv2d(6, 8, 3, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.SiLU(),
            nn.AdaptiveAvgPool2d(2),
        )
        self.drop = nn.Dropout(0.3)
        self.head = nn.Linear(32, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(self.features(x).flatten(1)))


class OneDimensional(nn.Sequential):
    shape = (4, 6, 20)

    def __init__(self) -> None:
        super().__init__(
            nn.Conv1d(6, 8, 5, stride=2),
            nn.BatchNorm1d(8),
            nn.GELU(),
            nn.AvgPool1d(2),
            nn.Flatten(),
            nn.Dropout(0.2, inplace=True),
            nn.Linear(32, CLASSES),
        )


class Block(nn.Module):
    def __init__(self, wide: int, narrow: int, stride: int) -> None:
        super().__init__()
        self.one = nn.Conv2d(wide, narrow, 3, stride, 1, bias=False)
        self.one_norm = nn.BatchNorm2d(narrow)
        self.two = nn.Conv2d(narrow, narrow, 3, 1, 1, bias=False)
        self.two_norm = nn.BatchNorm2d(narrow)
        self.relu = nn.ReLU(inplace=True)
        self.short = nn.Sequential()
        if stride > 1:
            self.short = nn.Sequential(
                nn.Conv2d(wide, narrow, 1, stride, bias=False), nn.BatchNorm2d(narrow)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = self.two_norm(self.two(self.relu(self.one_norm(self.one(x)))))
        y += self.short(x)
        return self.relu(y)


class Residual(nn.Module):
    shape = (4, 1, 8, 8)

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, 4, 3, 1, 1, bias=False), nn.BatchNorm2d(4), nn.ReLU(inplace=True)
        )
        self.blocks = nn.Sequential(Block(4, 4, 1), Block(4, 8, 2))
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(fn.adaptive_avg_pool2d(self.blocks(self.stem(x)), 1).flatten(1))


class Encoder(nn.Module):
    """nn.TransformerEncoderLayer with dropout: attention by torch's composite kernel."""

    shape = (3, 5, 8)

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x).mean(1))


class Attention(nn.Module):
    """Causal attention by the fused kernel, with a position table that is no buffer."""

    shape = (3, 6, 8)

    def __init__(self) -> None:
        super().__init__()
        self.position = torch.linspace(-1, 1, 48).reshape(6, 8)
        self.norm = nn.LayerNorm(8)
        self.mixed = nn.Linear(8, 24)
        self.out = nn.Linear(8, 8)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.position
        n, steps, width = x.shape
        parts = self.mixed(self.norm(x)).chunk(3, -1)
        query, key, value = (p.view(n, steps, 2, width // 2).transpose(1, 2) for p in parts)
        mixed = fn.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(n, steps, width))
        return self.head(x[:, -1])


class Recurrent(nn.Module):
    """Many in-place operators on parts of one storage."""

    shape = (3, 4, 6)

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(6, 7, batch_first=True)
        self.head = nn.Linear(7, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.gru(x)[0][:, -1])


class Lstm(nn.Module):
    """A kernel of oneDNN that passes private memory on, of a size that tracing cannot know."""

    shape = (3, 4, 6)

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 7, batch_first=True)
        self.head = nn.Linear(7, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][:, -1])


class Tied(nn.Module):
    """A tied, a frozen and an unused parameter, and one that gets its gradient as a view."""

    shape = (4, CLASSES)

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(CLASSES, CLASSES)
        self.two = nn.Linear(CLASSES, CLASSES)
        self.two.weight = self.one.weight
        self.frozen = nn.Linear(CLASSES, CLASSES)
        self.frozen.requires_grad_(False)
        self.unused = nn.Linear(3, 3)
        self.scale = nn.Parameter(torch.ones(4, CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.frozen(torch.relu(self.one(x)))) + self.scale


class OwnBuffers(nn.Module):
    """Buffers that the forward pass changes in place, assigns anew, and reads before and after."""

    shape = (4, 6)

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, CLASSES)
        self.register_buffer("average", torch.zeros(6))
        self.register_buffer("seen", torch.zeros(()))
        self.norm = nn.InstanceNorm1d(3, affine=True, track_running_stats=True)

    def forward(self, x: Tensor) -> Tensor:
        before = self.average.sum()
        self.average.mul_(0.9).add_(x.detach().mean(0), alpha=0.1)
        self.seen = self.seen + 1
        x = self.norm(x.reshape(-1, 3, 2)).reshape(-1, 6)
        return self.linear(x - self.average) + before * self.seen


class Sliced(nn.Module):
    """Writes into slices of tensors that are read before and after."""

    shape = (4, 6)

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, CLASSES)
        self.embedding = nn.Embedding(4, 6)

    def forward(self, x: Tensor) -> Tensor:
        table = torch.zeros(4, 6)
        table[:, 1:3] = x[:, :2] * 2
        early = table.sum()
        table[:, 0] = self.embedding(torch.arange(4)).sum(1)
        table.t()[5].exp_()
        y = self.linear(table)
        y[:, 0].mul_(early)
        return y + torch.tensor(0.5)


class PlainTensors(nn.Module):
    """Tensors that are no buffers: one used again in the backward pass, and a view of it."""

    shape = (4, 6)

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, CLASSES)
        self.table = torch.linspace(-1, 1, 36).reshape(6, 6)
        self.row = self.table[2]

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.linear(x) @ self.table[:CLASSES]
        return (hidden * self.row) @ self.table.t()[:, :CLASSES]


MODELS = (
    Mlp,
    Convolutional,
    OneDimensional,
    Residual,
    Encoder,
    Attention,
    Recurrent,
    Lstm,
    Tied,
    OwnBuffers,
    Sliced,
    PlainTensors,
)
