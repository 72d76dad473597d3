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
from safetensors.numpy import save

from client.state import buffer_names, evaluation, initial_arrays
from client.workload import load_workload
from protos.files import write_atomically
from scheduler.errors import BadInput
from server.app import build_server_app
from server.cohort import Quorum
from server.rounds import Federation, Outcome, Round
from server.strategy import make_strategy


def compose(context: Context) -> Federation:
    config = context.run_config
    out_folder(context)  # complain before the rounds, not after them
    workload = load_workload(str(config["workload"]))
    return Federation(
        initial=initial_arrays(workload, int(config["seed"])),
        strategy=make_strategy(str(config["strategy"])),
        num_rounds=int(config["num-rounds"]),
        averaged=buffer_names(workload),
        evaluate=evaluation(workload),
        now_s=time.monotonic,
        on_round=report,
        timeout_s=float(config["round-timeout-s"]),
        quorum=Quorum(
            nodes=int(config["min-nodes"]), timeout_s=float(config["wait-s"]), pause_s=time.sleep
        ),
    )


def report(done: Round) -> None:
    scores = "  ".join(f"{name} {value:.4f}" for name, value in done.evaluation.items())
    traffic = f"down {done.bytes_down} B  up {done.bytes_up} B"
    log(INFO, "round %s  %s  %s  updates %s", done.number, scores, traffic, len(done.metrics))
    for refusal in done.refused:
        log(INFO, "refused: node %s: %s", refusal.node, refusal.reason)


def finish(outcome: Outcome, context: Context) -> None:
    """Model and metrics, each written aside and renamed; the model last, as a sign that all is there."""
    out = out_folder(context)
    out.mkdir(parents=True, exist_ok=True)
    lines = [
        json.dumps(
            {
                "round": r.number,
                **finite(r.evaluation),
                "bytes_down": r.bytes_down,
                "bytes_up": r.bytes_up,
                "devices": [finite(metrics) for metrics in r.metrics.values()],
                "refused": [[refusal.node, refusal.reason] for refusal in r.refused],
            }
        )
        for r in outcome.rounds
    ]
    write_atomically(out / "metrics.jsonl", ("\n".join(lines) + "\n").encode())
    write_atomically(out / "model.safetensors", save(dict(outcome.arrays)))


def finite(numbers: Mapping[str, float]) -> dict[str, float | None]:
    """JSON has no NaN and no infinity: null stands for them."""
    return {name: value if math.isfinite(value) else None for name, value in numbers.items()}


def out_folder(context: Context) -> Path:
    out = Path(str(context.run_config["out"]))
    if not out.is_absolute():
        raise BadInput("name the result folder with an absolute path: --run-config 'out=\"/...\"'")
    return out


app = build_server_app(compose, finish)
