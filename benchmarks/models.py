"""The training steps that planning is measured on.

Each `Step` is a network with its loss, optimizer and one batch of made-up data: only shapes and types
matter to a plan.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as fn

from benchmarks.networks import Gru, Stack, UNet, bert, mobilenet_v2, resnet18, vgg16

Batch = tuple[Tensor, Tensor]
Optimizer = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One training step to plan: everything `client.prepare.pose_step` asks for."""

    name: str
    description: str
    build: Callable[[], nn.Module]
    optimizer: Optimizer
    batch: Callable[[], Batch]
    loss: Callable[[Tensor, Tensor], Tensor] = fn.cross_entropy


def sgd(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)


def adam(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=1e-3)


def adamw(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=5e-5, weight_decay=0.01)


def images(size: int, pixels: int, classes: int = 10) -> Batch:
    return torch.zeros(size, 3, pixels, pixels), torch.arange(size) % classes


def texts(size: int, sequence: int = 128) -> Batch:
    return torch.zeros(size, sequence, dtype=torch.int64), torch.arange(size) % 2


def sequences(size: int, steps: int, features: int, classes: int = 10) -> Batch:
    return torch.zeros(size, steps, features), torch.arange(size) % classes


def masks(size: int, pixels: int) -> Batch:
    return (
        torch.zeros(size, 3, pixels, pixels),
        torch.zeros(size, pixels, pixels, dtype=torch.int64),
    )


def transformer_stack(layers: int) -> Step:
    """Encoder layers of 128 x 2 heads over 64 vectors, batch 8, SGD with momentum."""
    return Step(
        name=f"stack {layers}",
        description=f"{layers} encoder layers, hidden 128, 64 vectors, batch 8, SGD with momentum",
        build=partial(Stack, layers, 128, 2, 10),
        optimizer=sgd,
        batch=partial(sequences, 8, 64, 128),
    )


STEPS: tuple[Step, ...] = (
    Step(
        name="resnet18",
        description="ResNet-18 for CIFAR, batch 8, SGD with momentum",
        build=resnet18,
        optimizer=sgd,
        batch=partial(images, 8, 32),
    ),
    Step(
        name="vgg16",
        description="VGG16 for CIFAR, batch 8, SGD with momentum",
        build=vgg16,
        optimizer=sgd,
        batch=partial(images, 8, 32),
    ),
    Step(
        name="mobilenetv2",
        description="MobileNetV2 for CIFAR, batch 16, SGD with momentum",
        build=mobilenet_v2,
        optimizer=sgd,
        batch=partial(images, 16, 32),
    ),
    Step(
        name="unet",
        description="U-Net of width 32, images of 128 x 128, batch 4, Adam",
        build=partial(UNet, 32, 2),
        optimizer=adam,
        batch=partial(masks, 4, 128),
    ),
    Step(
        name="gru",
        description="two GRU layers of 256, 64 steps of 40 features, batch 16, Adam",
        build=partial(Gru, 40, 256, 2, 12),
        optimizer=adam,
        batch=partial(sequences, 16, 64, 40, 12),
    ),
    Step(
        name="bert4",
        description="BERT-small (4 layers, hidden 512), 128 tokens, batch 8, AdamW",
        build=partial(bert, 4, 512),
        optimizer=adamw,
        batch=partial(texts, 8),
    ),
    Step(
        name="bert12",
        description="BERT-base (12 layers, hidden 768), 128 tokens, batch 8, AdamW",
        build=partial(bert, 12, 768),
        optimizer=adamw,
        batch=partial(texts, 8),
    ),
)
