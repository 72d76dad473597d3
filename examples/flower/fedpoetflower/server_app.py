"""The ServerApp: the coordinator of server/, composed with a workload from the run config."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from logging import INFO
from pathlib import Path

from flwr.app import Context
from flwr.common import log
from flwr.serverapp import Grid
from safetensors.numpy import save

from client.state import buffer_names, evaluation, initial_arrays
from client.workload import load_workload
from protos.files import write_atomically
from scheduler.errors import BadInput, RunFailed
from server.app import build_server_app
from server.federation import Federation, Progress, Round
from server.polling import Polling
from server.rules import Rules
from server.strategy import make_strategy
from server.updates import Arrays


def compose(grid: Grid, context: Context) -> Federation:
    config = context.run_config
    metrics = out_folder(context) / "metrics.jsonl"
    metrics.parent.mkdir(parents=True, exist_ok=True)
    metrics.unlink(missing_ok=True)
    workload = load_workload(str(config["workload"]))
    polling = Polling(grid, time.monotonic, time.sleep)
    nodes = int(config["min-nodes"])
    if not polling.wait_for_nodes(nodes, float(config["wait-s"])):
        raise RunFailed(f"fewer than {nodes} nodes were online after {config['wait-s']} s")

    def on_round(done: Round, _: Progress) -> None:
        report(done)
        with metrics.open("a") as file:
            file.write(line(done))

    return Federation(
        initial=initial_arrays(workload, int(config["seed"])),
        strategy=make_strategy(str(config["strategy"])),
        num_rounds=int(config["num-rounds"]),
        averaged=buffer_names(workload),
        evaluate=evaluation(workload),
        now_s=time.monotonic,
        wait=polling.wait,
        reports=polling.reports,
        rules=Rules(deadline_s=float(config["round-timeout-s"])),
        on_round=on_round,
    )


def report(done: Round) -> None:
    scores = "  ".join(f"{name} {value:.4f}" for name, value in done.evaluation.items())
    traffic = f"down {done.bytes_down} B  up {done.bytes_up} B"
    log(INFO, "round %s  %s  %s  updates %s", done.number, scores, traffic, len(done.metrics))
    for refusal in done.refused:
        log(INFO, "refused: node %s: %s", refusal.node, refusal.reason)


def line(done: Round) -> str:
    """A round as a line of JSON."""
    values = {
        "round": done.number,
        **finite(done.evaluation),
        "bytes_down": done.bytes_down,
        "bytes_up": done.bytes_up,
        "devices": [finite(metrics) for metrics in done.metrics.values()],
        "refused": [[refusal.node, refusal.reason] for refusal in done.refused],
        "waiting": done.waiting,
    }
    return json.dumps(values) + "\n"


def finish(arrays: Arrays, context: Context) -> None:
    """The model last, whole or not at all, as a sign that all is there."""
    write_atomically(out_folder(context) / "model.safetensors", save(dict(arrays)))


def finite(numbers: Mapping[str, float]) -> dict[str, float | None]:
    """JSON has no NaN and no infinity: null stands for them."""
    return {name: value if math.isfinite(value) else None for name, value in numbers.items()}


def out_folder(context: Context) -> Path:
    out = Path(str(context.run_config["out"]))
    if not out.is_absolute():
        raise BadInput("name the result folder with an absolute path: --run-config 'out=\"/...\"'")
    return out


app = build_server_app(compose, finish)
