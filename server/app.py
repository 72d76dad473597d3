"""The Flower ServerApp: waits for nodes, then runs all rounds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from scheduler.errors import RunFailed

from .rounds import Federation, Outcome, run_rounds


@dataclass(frozen=True, slots=True, kw_only=True)
class Quorum:
    """How many nodes a run waits for, and how long. `pause_s(seconds)` lets time pass."""

    nodes: int
    timeout_s: float
    pause_s: Callable[[float], None]
    look_every_s: float = 1.0


def build_server_app(
    compose: Callable[[Context], Federation],
    finish: Callable[[Outcome, Context], None],
    quorum: Quorum | None = None,
) -> ServerApp:
    """A ServerApp. `compose` makes the federation from the run's context; `finish` gets the result.

    Nothing here knows a model: `compose` brings the initial arrays and the evaluation.
    """
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        federation = compose(context)
        if quorum is not None:
            wait_for_nodes(grid, quorum, federation.now_s)
        finish(run_rounds(grid, federation), context)

    return app


def wait_for_nodes(grid: Grid, quorum: Quorum, now_s: Callable[[], float]) -> None:
    """Return once enough nodes are online. Raises RunFailed when that takes too long."""
    until = now_s() + quorum.timeout_s
    while (online := len(list(grid.get_node_ids()))) < quorum.nodes:
        if now_s() >= until:
            raise RunFailed(
                f"{online} of {quorum.nodes} nodes were online after {quorum.timeout_s:.0f} s; "
                "start more, or wait for fewer"
            )
        quorum.pause_s(quorum.look_every_s)
