"""What the commands work on, and how it becomes their options."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from . import files
from .errors import BadInput

if TYPE_CHECKING:
    from .least_ram import Change
    from .plan import Plan
    from .problem import Problem
    from .view.rows import Rows

ProblemOption = Annotated[Path | None, typer.Option(help="Problem file in JSON (docs/formats.md).")]
BUDGETS = 8  # of a sweep, unless told


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What a command works on.

    `changes` poses what else could be done to need less RAM; `rows` are printed of a plan besides
    `solution_rows`.
    """

    problem: Problem
    changes: Callable[[], Iterable[Change]] | None = None
    rows: Callable[[Plan, Problem], Rows] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Front:
    """Where commands get problems and plans from. The parameters of `given` become their options."""

    given: Callable[..., Given]
    read_plan: Callable[[Path], Plan]
    write_plan: Callable[[Plan, Path], None]


def from_file(problem: ProblemOption = None) -> Given:
    """A problem file."""
    if problem is None:
        raise BadInput("give --problem FILE")
    return Given(problem=files.read_problem(problem))


FILES = Front(given=from_file, read_plan=files.read_plan, write_plan=files.write_plan)


class SweepCommand(TyperCommand):
    """`--sweep` may stand alone; typer knows no option whose value may be left out."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put in the number of budgets where none follows."""
        for position in [n for n, word in enumerate(args) if word == "--sweep"]:
            if not args[position + 1 : position + 2] or not args[position + 1].isdigit():
                args[position] = f"--sweep={BUDGETS}"
        return super().parse_args(ctx, args)


def with_options(command: Callable[..., None], front: Front) -> Callable[..., None]:
    """A command as typer sees it: the parameters of `front.given` stand in for `given`."""
    own = inspect.signature(command, eval_str=True).parameters
    source = inspect.signature(front.given, eval_str=True).parameters if "given" in own else {}
    options = (*source.values(), *(p for name, p in own.items() if name not in ("front", "given")))

    def wrapped(**values: Any) -> None:
        from_source = {name: values.pop(name) for name in source}
        bound: dict[str, Any] = {
            "front": front,
            "given": lambda: front.given(**from_source),
            **values,
        }
        command(**{name: bound[name] for name in own})

    wrapped.__name__ = command.__name__
    wrapped.__doc__ = command.__doc__
    keyword = inspect.Parameter.KEYWORD_ONLY
    wrapped.__dict__["__signature__"] = inspect.Signature(
        [p.replace(kind=keyword) for p in options]
    )
    return wrapped
