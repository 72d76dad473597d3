"""Well-known networks in plain torch, of their papers' sizes unless a docstring says otherwise.

The functions take smaller sizes for tests.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as fn


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions around a skip connection."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
        self.first_norm = nn.BatchNorm2d(width)
        self.second = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.second_norm = nn.BatchNorm2d(width)
        self.skip: nn.Module = nn.Identity()
        if stride > 1 or channels != width:
            shortcut = nn.Conv2d(channels, width, 1, stride, bias=False)
            self.skip = nn.Sequential(shortcut, nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.first_norm(self.first(x)))
        return torch.relu(self.second_norm(self.second(y)) + self.skip(x))


def resnet18(width: int = 64, classes: int = 10) -> nn.Module:
    """ResNet-18 for CIFAR: a 3 x 3 stem without pooling (He et al. 2016)."""
    layers: list[nn.Module] = [
        nn.Conv2d(3, width, 3, 1, 1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
    ]
    channels = width
    for factor in (1, 2, 4, 8):
        wide = factor * width
        layers += [
            ResidualBlock(channels, wide, 1 if factor == 1 else 2),
            ResidualBlock(wide, wide, 1),
        ]
        channels = wide
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)]
    return nn.Sequential(*layers)


def vgg16(width: int = 64, classes: int = 10) -> nn.Module:
    """VGG16 for CIFAR with batch norm and one linear layer, as is usual at 32 x 32."""
    layers: list[nn.Module] = []
    channels = 3
    for factor, repeats in ((1, 2), (2, 2), (4, 3), (8, 3), (8, 3)):
        for _ in range(repeats):
            layers += [
                nn.Conv2d(channels, factor * width, 3, padding=1),
                nn.BatchNorm2d(factor * width),
                nn.ReLU(),
            ]
            channels = factor * width
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels, classes))


class InvertedResidual(nn.Module):
    """Expand, filter depthwise, project; a skip connection where shapes allow it."""

    def __init__(self, channels: int, width: int, stride: int, expand: int) -> None:
        super().__init__()
        inner = channels * expand
        layers: list[nn.Module] = []
        if expand > 1:
            layers += _convolution(channels, inner, kernel=1)
        layers += _convolution(inner, inner, stride=stride, groups=inner)
        layers += [nn.Conv2d(inner, width, 1, bias=False), nn.BatchNorm2d(width)]
        self.layers = nn.Sequential(*layers)
        self.skips = stride == 1 and channels == width

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x) if self.skips else self.layers(x)


def _convolution(
    channels: int, width: int, *, kernel: int = 3, stride: int = 1, groups: int = 1
) -> list[nn.Module]:
    return [
        nn.Conv2d(channels, width, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU6(),
    ]


# Expansion, width, repeats, stride of the first (Sandler et al. 2018, table 2).
_MOBILE = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1))
_MOBILE_END = ((6, 160, 3, 2), (6, 320, 1, 1))


def mobilenet_v2(
    part: int = 1,
    classes: int = 10,
    rows: tuple[tuple[int, int, int, int], ...] = (*_MOBILE, *_MOBILE_END),
) -> nn.Module:
    """MobileNetV2 for CIFAR: stem and second row with stride 1; widths are divided by `part`."""
    channels = 32 // part
    layers = _convolution(3, channels)
    for expand, width, repeats, stride in rows:
        for n in range(repeats):
            layers.append(
                InvertedResidual(channels, width // part, stride if n == 0 else 1, expand)
            )
            channels = width // part
    layers += _convolution(channels, 1280 // part, kernel=1)
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1280 // part, classes)]
    return nn.Sequential(*layers)


class EncoderLayer(nn.Module):
    """Self-attention and a GELU perceptron, each with dropout, skip connection, layer norm after."""

    def __init__(self, hidden: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.attention_dropout = heads, dropout
        self.query = nn.Linear(hidden, hidden)
        self.key = nn.Linear(hidden, hidden)
        self.value = nn.Linear(hidden, hidden)
        self.out = nn.Linear(hidden, hidden)
        self.attention_norm = nn.LayerNorm(hidden)
        self.widen = nn.Linear(hidden, 4 * hidden)
        self.narrow = nn.Linear(4 * hidden, hidden)
        self.norm = nn.LayerNorm(hidden)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (self._split(f(x)) for f in (self.query, self.key, self.value))
        dropped = self.attention_dropout if self.training else 0.0
        mixed = fn.scaled_dot_product_attention(query, key, value, dropout_p=dropped)
        mixed = mixed.transpose(1, 2).flatten(2)
        x = self.attention_norm(x + self.dropout(self.out(mixed)))
        return self.norm(x + self.dropout(self.narrow(fn.gelu(self.widen(x)))))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class Bert(nn.Module):
    """BERT (Devlin et al. 2019) that classifies a text by its first token; one segment, no padding."""

    def __init__(
        self, layers: int, hidden: int, heads: int, vocabulary: int, sequence: int, dropout: float
    ) -> None:
        super().__init__()
        self.words = nn.Embedding(vocabulary, hidden)
        self.positions = nn.Embedding(sequence, hidden)
        self.segment = nn.Parameter(torch.zeros(hidden))
        self.norm = nn.LayerNorm(hidden)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.Sequential(*(EncoderLayer(hidden, heads, dropout) for _ in range(layers)))
        self.pool = nn.Linear(hidden, hidden)
        self.head = nn.Linear(hidden, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        places = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.words(tokens) + self.positions(places) + self.segment
        x = self.layers(self.dropout(self.norm(x)))
        return self.head(self.dropout(torch.tanh(self.pool(x[:, 0]))))


def bert(
    layers: int,
    hidden: int,
    *,
    vocabulary: int = 30522,
    sequence: int = 512,
    head_size: int = 64,
    dropout: float = 0.1,
) -> nn.Module:
    """BERT with heads of 64; 4 x 512 is the published BERT-small, 12 x 768 is BERT-base."""
    return Bert(layers, hidden, hidden // head_size, vocabulary, sequence, dropout)


class UNet(nn.Module):
    """Four levels down and up with a skip connection at each (Ronneberger et al. 2015)."""

    def __init__(self, width: int, classes: int, levels: int = 4) -> None:
        super().__init__()
        widths = [width << n for n in range(levels + 1)]
        self.down = nn.ModuleList(
            _double(a, b) for a, b in zip([3, *widths], widths[:-1], strict=False)
        )
        self.bottom = _double(widths[-2], widths[-1])
        pairs = list(zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.widen = nn.ModuleList(nn.ConvTranspose2d(a, b, 2, 2) for a, b in pairs)
        self.up = nn.ModuleList(_double(a, b) for a, b in pairs)
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for block in self.down:
            x = block(x)
            skips.append(x)
            x = fn.max_pool2d(x, 2)
        x = self.bottom(x)
        for widen, block in zip(self.widen, self.up, strict=True):
            x = block(torch.cat([skips.pop(), widen(x)], 1))
        return self.head(x)


def _double(channels: int, width: int) -> nn.Module:
    layers: list[nn.Module] = []
    for given in (channels, width):
        layers += [
            nn.Conv2d(given, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers)


class Gru(nn.Module):
    """torch's GRU over a sequence; the class is told from the last state."""

    def __init__(self, features: int, hidden: int, layers: int, classes: int) -> None:
        super().__init__()
        self.gru = nn.GRU(features, hidden, layers, batch_first=True)
        self.head = nn.Linear(hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.gru(x)[0][:, -1])


class Stack(nn.Module):
    """Encoder layers over vectors, and a class from their mean: a network of any depth."""

    def __init__(self, layers: int, hidden: int, heads: int, classes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(EncoderLayer(hidden, heads, 0.0) for _ in range(layers)))
        self.head = nn.Linear(hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(x).mean(1))


class Mlp(nn.Sequential):
    """Two hidden layers, each with dropout."""

    def __init__(self, features: int, hidden: int, classes: int, dropout: float = 0.2) -> None:
        super().__init__(
            nn.Linear(features, hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, classes),
        )
