"""A cohort's step as one computation by torch.func.vmap, beside one client after the other: time and bits."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import functional_call, grad_and_value, vmap
from torch.fx.experimental.proxy_tensor import make_fx

from benchmarks.opponents import task
from client.recorded import RecordedStep

CLIENTS = 10
LOSS = torch.nn.functional.cross_entropy


def main() -> None:
    torch.set_num_threads(1)
    for name in task.TASKS:
        compare(name)


def compare(name: str) -> None:
    """Print the time of both, and in how many clients they give the same bits."""
    what = task.TASKS[name]
    generator = torch.Generator().manual_seed(0)
    modules = [task.initial_model(name) for _ in range(CLIENTS)]
    for module in modules:
        for p in module.parameters():
            p.data += 0.01 * torch.randn(p.shape, generator=generator)
    x = torch.randn(CLIENTS, what.batch_size, *what.shape, generator=generator)
    y = torch.randint(0, task.CLASSES, (CLIENTS, what.batch_size), generator=generator)
    names = [n for n, _ in modules[0].named_parameters()]
    stacked = tuple(
        torch.stack([dict(m.named_parameters())[n].detach() for m in modules]) for n in names
    )

    def step(parameters: tuple[Tensor, ...], x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        def loss(parameters: tuple[Tensor, ...]) -> Tensor:
            return LOSS(
                functional_call(modules[0], dict(zip(names, parameters, strict=True)), (x,)), y
            )

        gradients, value = grad_and_value(loss)(parameters)
        return value, *gradients

    together = make_fx(vmap(step))(stacked, x, y)
    optimizer = torch.optim.SGD(modules[0].parameters(), lr=0.1)
    recorded = RecordedStep(modules[0], LOSS, optimizer, (x[0], y[0]))
    bound = [recorded.bind(m) for m in modules]
    alone = [bound[k]((x[k], y[k])) for k in range(CLIENTS)]
    value, *gradients = together(stacked, x, y)
    same_loss = sum(torch.equal(value[k], alone[k][0]) for k in range(CLIENTS))
    same_gradient = sum(
        all(torch.equal(g[k], own) for g, own in zip(gradients, alone[k][1], strict=True))
        for k in range(CLIENTS)
    )
    alone_s = least_s(lambda: [bound[k]((x[k], y[k])) for k in range(CLIENTS)])
    vmapped_s = least_s(lambda: together(stacked, x, y))
    print(
        f"{name:9} {CLIENTS} clients: recorded {alone_s * 1e3:7.2f} ms, vmap {vmapped_s * 1e3:7.2f} ms; the "
        f"same bits: {same_loss} losses, {same_gradient} sets of gradients"
    )


def least_s(run: Callable[[], object], tries: int = 30) -> float:
    """The least of some tries, after one to warm up."""
    run()
    found = []
    for _ in range(tries):
        start = time.perf_counter()
        run()
        found.append(time.perf_counter() - start)
    return min(found)


if __name__ == "__main__":
    main()
