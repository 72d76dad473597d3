"""What compressing updates costs and saves: `python -m benchmarks.compression`.

`digits` is trained by FedAvg over its ten devices, each by its plan, once for each way of sending. Each
update goes through the bytes that a device sends: sealed, compressed with what was lost before, encoded,
decoded.
"""

from __future__ import annotations

import argparse

import torch

from client.node import Node, Settings
from client.outbox import Arrays
from client.state import evaluation, initial_arrays
from client.workload import load_workload
from protos.arrays import encode_arrays
from protos.compression import Compression, Floats, compress, decode_update, parse_compression
from server.strategy import rounded
from server.totals import Totals

WAYS = ("", "int8", "top-k:0.1", "top-k:0.01")
RAM_BYTES = 64_000_000


def sent(
    arrays: Arrays, base: Arrays, lost: dict[str, Floats], how: Compression | None
) -> tuple[bytes, dict[str, Floats]]:
    """The bytes of an update, and what they lack."""
    if how is None:
        return encode_arrays(arrays), {}
    told, left = compress(arrays, base, lost, how)
    return encode_arrays(told), left


def run(way: str, rounds: int, seed: int) -> tuple[float, float, int]:
    """Accuracy and loss after the last round, and bytes that one device sends in a round on average."""
    workload, how = load_workload("digits"), parse_compression(way)
    nodes = [
        Node(
            Settings(
                workload="digits",
                seed=seed,
                local_epochs=1,
                device="phone-pixel-6",
                ram_bytes=RAM_BYTES,
                partition=partition,
            ),
            {},
        )
        for partition in range(workload.partitions)
    ]
    arrays = initial_arrays(workload, seed)
    lost: list[dict[str, Floats]] = [{} for _ in nodes]
    up_bytes = 0
    for number in range(1, rounds + 1):
        totals = Totals(arrays)
        for partition, node in enumerate(nodes):
            update = node.train(arrays, number)
            data, lost[partition] = sent(update.arrays, arrays, lost[partition], how)
            up_bytes += len(data)
            totals.add(decode_update(data, arrays), update.metrics["num-examples"])
        arrays = {n: rounded(totals.take_mean(n), value.dtype) for n, value in arrays.items()}
    scores = evaluation(workload)(rounds, arrays)
    return scores["accuracy"], scores["loss"], up_bytes // (rounds * len(nodes))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("way         accuracy (each seed)        mean    loss    bytes per update")
    for way in WAYS:
        found = [run(way, options.rounds, seed) for seed in range(options.seeds)]
        accuracies = [f"{accuracy:.4f}" for accuracy, _, _ in found]
        mean = sum(accuracy for accuracy, _, _ in found) / len(found)
        loss = sum(loss for _, loss, _ in found) / len(found)
        name = way or "exact"
        print(f"{name:11} {' '.join(accuracies):27} {mean:.4f}  {loss:.4f}  {found[0][2]:,}")


if __name__ == "__main__":
    main()
