"""`python -m scheduler`: plan, check and measure problem files without torch, flwr or protobuf."""

from __future__ import annotations

import typer

from .cli import register, run


def main() -> None:
    """Run the command."""
    app = typer.Typer(
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        help="Plan training steps within a RAM, time and energy budget. "
        "Exit codes: 0 success, 2 wrong input, 4 no plan fits, 5 no plan found in time, "
        "6 the plan breaks a rule.",
    )
    register(app)
    run(app, "scheduler")


if __name__ == "__main__":
    main()
