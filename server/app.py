"""The Flower ServerApp: runs all rounds of a federation on the Grid it is given."""

from __future__ import annotations

from collections.abc import Callable

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from .federation import Federation
from .rounds import run_rounds
from .updates import Arrays


def build_server_app(
    compose: Callable[[Grid, Context], Federation], finish: Callable[[Arrays, Context], None]
) -> ServerApp:
    """A ServerApp. `compose` makes the federation of the run; `finish` gets the model after the last round.

    Nothing here knows a model: `compose` brings the initial arrays and the evaluation.
    """
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        finish(run_rounds(grid, compose(grid, context)), context)

    return app
