"""The rounds of benchmarks/serve.py over the Grid of a SuperLink, without a journal."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from server.federation import Federation
from server.polling import Polling
from server.rounds import run_rounds
from server.rules import Rules
from server.strategy import make_strategy

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    config = context.run_config
    polling = Polling(grid, time.time, time.sleep, look_every_s=0.1)
    polling.wait_for_nodes(nodes := int(str(config["nodes"])), 300.0)
    lines: list[str] = []
    run_rounds(
        grid,
        Federation(
            initial={"layer0": np.zeros(int(str(config["model-bytes"])) // 4, np.float32)},
            strategy=make_strategy("fedavg"),
            num_rounds=int(str(config["rounds"])),
            evaluate=lambda *_: {},
            now_s=time.time,
            wait=polling.wait,
            reports=polling.reports,
            rules=Rules(cohort=nodes, deadline_s=300.0),
            on_round=lambda done, _: lines.append(
                f"{done.end_s - done.start_s:.3f} {len(done.cohort) - len(done.metrics)}\n"
            ),
        ),
    )
    Path(str(config["out"])).write_text("".join(lines[1:]))
