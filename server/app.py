"""The Flower ServerApp: runs all rounds of a federation on the Grid it is given."""

from __future__ import annotations

from collections.abc import Callable

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from .rounds import Federation, Outcome, run_rounds


def build_server_app(
    compose: Callable[[Context], Federation], finish: Callable[[Outcome, Context], None]
) -> ServerApp:
    """A ServerApp. `compose` makes the federation from the run's context; `finish` gets the result.

    Nothing here knows a model: `compose` brings the initial arrays and the evaluation.
    """
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        finish(run_rounds(grid, compose(context)), context)

    return app
