"""The networks that benchmarks train, listed once, and the training steps that planning is measured on."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as fn

from benchmarks.drawn import Batch, Draw, masks, pictures, sequences, texts, vectors
from benchmarks.networks import Gru, Mlp, Stack, UNet, bert, mobilenet_v2, resnet18, vgg16

Optimizer = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]


def sgd(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)


def adam(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=1e-3)


def adamw(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=5e-5, weight_decay=0.01)


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """A network of full size, how batches for it are drawn, and how it is trained unless told."""

    title: str
    build: Callable[[], nn.Module]
    draw: Draw
    optimizer: Optimizer = sgd


NETWORKS = {
    "mlp": Network(
        title="an MLP 784-1024-1024-10 with dropout",
        build=partial(Mlp, 784, 1024, 10),
        draw=vectors,
        optimizer=adam,
    ),
    "gru": Network(
        title="two GRU layers of 256, 64 steps of 40 features",
        build=partial(Gru, 40, 256, 2, 12),
        draw=sequences,
        optimizer=adam,
    ),
    "mobilenetv2": Network(title="MobileNetV2 for CIFAR", build=mobilenet_v2, draw=pictures),
    "resnet18": Network(title="ResNet-18 for CIFAR", build=resnet18, draw=pictures),
    "vgg16": Network(title="VGG16 for CIFAR", build=vgg16, draw=pictures),
    "unet": Network(
        title="U-Net of width 32, images of 64 x 64",
        build=partial(UNet, 32, 2),
        draw=masks,
        optimizer=adam,
    ),
    "bert4": Network(
        title="BERT-small (4 layers, hidden 512), 128 tokens",
        build=partial(bert, 4, 512),
        draw=texts,
        optimizer=adamw,
    ),
    "bert12": Network(
        title="BERT-base (12 layers, hidden 768), 128 tokens",
        build=partial(bert, 12, 768),
        draw=texts,
        optimizer=adamw,
    ),
}
OPTIMIZER_TITLES = {sgd: "SGD with momentum", adam: "Adam", adamw: "AdamW"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One training step to plan: everything `client.prepare.pose_step` asks for.

    Only shapes and types of its batch matter to a plan.
    """

    name: str
    network: Network
    size: int
    loss: Callable[[Tensor, Tensor], Tensor] = fn.cross_entropy

    @property
    def description(self) -> str:
        trained = OPTIMIZER_TITLES[self.network.optimizer]
        return f"{self.network.title}, batch {self.size}, {trained}"

    @property
    def build(self) -> Callable[[], nn.Module]:
        return self.network.build

    @property
    def optimizer(self) -> Optimizer:
        return self.network.optimizer

    def batch(self) -> Batch:
        """The same numbers at every call."""
        return self.network.draw(self.size, torch.Generator().manual_seed(0))


def step_of(name: str, size: int, **changes: object) -> Step:
    """A step of a network of NETWORKS, with other values for some of its fields."""
    return Step(name=name, network=replace(NETWORKS[name], **changes), size=size)


LARGE_MASKS = {
    "title": "U-Net of width 32, images of 128 x 128",
    "draw": partial(masks, pixels=128),
}
STEPS: tuple[Step, ...] = (
    step_of("resnet18", 8),
    step_of("vgg16", 8),
    step_of("mobilenetv2", 16),
    step_of("unet", 4, **LARGE_MASKS),
    step_of("gru", 16),
    step_of("bert4", 8),
    step_of("bert12", 8),
)


def transformer_stack(layers: int) -> Step:
    """Encoder layers of 128 x 2 heads over 64 vectors, batch 8, SGD with momentum."""
    network = Network(
        title=f"{layers} encoder layers, hidden 128, 64 vectors",
        build=partial(Stack, layers, 128, 2, 10),
        draw=partial(sequences, features=128, classes=10),
    )
    return Step(name=f"stack {layers}", network=network, size=8)
