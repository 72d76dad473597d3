"""The work of benchmarks/serve.py over Flower's own SuperLink: `python -m benchmarks.serve_flower`.

A SuperLink and some SuperNodes as processes of their own, without TLS; each round asks all nodes, whose app
adds a number to every array. Prints seconds per round and the memory of the process trees. A SuperNode takes
so much that few fit on one machine.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from tests.e2e.flower_processes import ROOT, Processes, free_ports, is_open, processes, wait_for

MIB = 2**20
BUNDLE = ROOT / "benchmarks" / "null_flower"
MOST_S = 500.0
LOOK_S = 0.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--model-bytes", type=int, default=100_000)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, processes(Path(folder)) as group:
        seconds, failed, link, node = measured(group, asked.nodes, asked.rounds, asked.model_bytes)
    table = Table("nodes", "rounds", "model", "s per round", "failed", "SuperLink", "one SuperNode")
    table.add_row(
        str(asked.nodes),
        str(asked.rounds),
        f"{asked.model_bytes / MIB:.1f} MiB",
        f"{statistics.median(seconds):.2f} (most {max(seconds):.2f})",
        str(failed),
        f"{link / MIB:.0f} MiB",
        f"{node / MIB:.0f} MiB",
    )
    Console(width=120).print(table)


def measured(
    group: Processes, nodes: int, rounds: int, model_bytes: int
) -> tuple[list[float], int, int, int]:
    """Seconds of each round, updates that failed, and the most bytes of the SuperLink's tree and a node's."""
    port, *node_ports = free_ports(nodes + 1)
    link = group.start("superlink", "flower-superlink", "--insecure", "--port", port)
    wait_for("the SuperLink", lambda: is_open(port), 60)
    supernodes = [
        group.start(
            f"node-{partition}",
            *("flower-supernode", "--insecure", "--superlink", f"127.0.0.1:{port}"),
            *("--port", own, "--node-config", f"partition-id={partition}"),
        )
        for partition, own in enumerate(node_ports)
    ]
    home = Path(group.environment("flwr")["FLWR_HOME"])
    address = f'[superlink.link]\naddress = "127.0.0.1:{port}"\ninsecure = true\n'
    (home / "config.toml").write_text(f'[superlink]\ndefault = "link"\n{address}')
    out = group.folder / "rounds.txt"
    config = f'out="{out}" nodes={nodes} rounds={rounds} model-bytes={model_bytes}'
    group.run("flwr", "flwr", "run", BUNDLE, "link", "--run-config", config)
    peak_link = peak_node = 0
    until_s = time.monotonic() + MOST_S
    while not out.exists():
        if time.monotonic() > until_s:
            raise SystemExit(f"no end after {MOST_S:.0f} s\n{group.logs()}")
        group.require_alive()
        peak_link = max(peak_link, tree_bytes([link.pid]))
        peak_node = max(peak_node, tree_bytes([supernodes[0].pid]))
        time.sleep(LOOK_S)
    time.sleep(LOOK_S)  # it is being written
    rows = [line.split() for line in out.read_text().splitlines()]
    return [float(s) for s, _ in rows], sum(int(f) for _, f in rows), peak_link, peak_node


def tree_bytes(pids: Iterable[int]) -> int:
    """Resident bytes of processes and all their children; pages that they share count for each."""
    total = 0
    for pid in pids:
        try:
            parent = psutil.Process(pid)
            for process in (parent, *parent.children(recursive=True)):
                total += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


if __name__ == "__main__":
    main()
