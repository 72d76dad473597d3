"""Commands for problems: plan, check, floor, devices. Heavy imports are inside the commands.

`python -m scheduler` takes problem files; `fedpoet` has the same commands for workloads too.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import files
from .errors import FedpoetError, Infeasible, NoPlanInTime
from .front import BUDGETS, FILES, Front, Given, SweepCommand, with_options
from .units import parse_bytes

if TYPE_CHECKING:
    from .plan import Plan, Solution
    from .problem import Problem
    from .sweep import Point, Solver
    from .view.rows import Rows

RamOption = Annotated[
    str | None, typer.Option(help="RAM budget, all inclusive: 737719, 200KB, 256KiB.")
]
DeadlineOption = Annotated[
    float | None,
    typer.Option(min=0.0, help="Deadline as a multiple of the time of computing everything once."),
]
LimitOption = Annotated[float, typer.Option(min=0.1, help="Seconds the solver may take.")]
SolverOption = Annotated[
    str, typer.Option(help="highs, or where installed cbc, scip, gurobi (docs/solvers.md).")
]
CacheOption = Annotated[
    bool, typer.Option("--no-cache", help="Neither use plans made before nor keep this one.")
]


def register(app: typer.Typer, front: Front = FILES) -> None:
    """Add the commands to an app."""
    app.command(cls=SweepCommand)(with_options(plan, front))
    for command in (check, floor, devices):
        app.command()(with_options(command, front))


def run(app: typer.Typer, name: str) -> None:
    """Run an app; fedpoet's own errors become one line and their exit code."""
    try:
        app(prog_name=name)
    except FedpoetError as error:
        sys.stderr.write(f"{name}: {error}\n")
        sys.exit(error.exit_code)


def plan(
    front: Front,
    given: Callable[[], Given],
    ram: RamOption = None,
    deadline_factor: DeadlineOption = None,
    time_limit: LimitOption = 60.0,
    out: Annotated[Path | None, typer.Option(help="Where to write the plan.")] = None,
    save_problem: Annotated[
        Path | None, typer.Option(help="Where to write the problem that was solved, as JSON.")
    ] = None,
    html: Annotated[
        Path | None, typer.Option(help="Where to write a page that shows the plan.")
    ] = None,
    explain: Annotated[
        str | None,
        typer.Option(help="Say why the outputs of this operator, or this tensor, are handled so."),
    ] = None,
    sweep: Annotated[
        int | None,
        typer.Option(
            min=2,
            help=f"Also plan for so many budgets ({BUDGETS} unless told), from the floor to what "
            "keeping all takes; together they get the time limit once more.",
        ),
    ] = None,
    all_rows: Annotated[bool, typer.Option("--all-rows", help="Show every tensor.")] = False,
    static_arena: Annotated[
        bool,
        typer.Option(
            "--static-arena",
            help="A plan that fits the budget at fixed addresses, not only in sum.",
        ),
    ] = False,
    solver: SolverOption = "highs",
    no_cache: CacheOption = False,
) -> None:
    """Plan a training step, draw the plan, and say what it does with each tensor."""
    from .explain import explain as explained
    from .explain import named
    from .static import solve_in_arena
    from .view.explained import explanation_lines
    from .view.frontier import frontier_lines

    for target in filter(None, (out, save_problem, html)):
        files.require_target(target)
    solved = solver_of(solver, cached=not no_cache)
    with working("posing and planning"):
        source = given()
        posed = with_budget(source.problem, ram, deadline_factor)
        if explain is not None:
            named(explain, posed.graph)
        if save_problem is not None:
            files.write_problem(posed, save_problem)
        try:
            solution = (
                solve_in_arena(posed, solved, time_limit_s=time_limit)
                if static_arena
                else solved(posed, time_limit_s=time_limit)
            )
        except (Infeasible, NoPlanInTime):
            if sweep is not None:
                typer.echo(frontier_lines(_swept(posed, solved, sweep, time_limit), posed))
            raise
    if out is not None:
        front.write_plan(solution.plan, out)
    more = source.rows(solution.plan, posed) if source.rows else ()
    show_solution(solution, posed, all_rows=all_rows, more=more)
    if explain is not None:
        told = explanation_lines(explained(explain, solution.plan, posed), posed)
        typer.echo(f"\n{told}")
    points: tuple[Point, ...] = ()
    if sweep is not None:
        points = _swept(posed, solved, sweep, time_limit, solution)
        typer.echo(f"\n{frontier_lines(points, posed)}")
    if html is not None:
        _write_page(solution, posed, points, html)


def check(
    front: Front,
    plan: Annotated[Path, typer.Argument(help="Plan file.")],
    problem: Annotated[Path, typer.Option(help="Problem file the plan is for.")],
) -> None:
    """Verify a plan file against its problem, rule by rule, without the solver."""
    from .check import check as check_plan
    from .view.rows import lines, use_rows

    made = front.read_plan(plan)
    # The budget that counts is the one the plan promises to keep.
    posed = replace(files.read_problem(problem), budget=made.budget)
    check_plan(made, posed)
    typer.echo("valid: every rule holds")
    typer.echo(lines(use_rows(made, posed)))


def floor(
    given: Callable[[], Given],
    deadline_factor: DeadlineOption = None,
    time_limit: LimitOption = 20.0,
) -> None:
    """Find the least RAM in which a training step can be done, and what sets it."""
    from .least_ram import LeastRam, least_ram
    from .view.floors import change_lines, floor_rows
    from .view.rows import lines

    with working("posing and searching"):
        source = given()
        posed = with_budget(source.problem, None, deadline_factor)
        try:
            least: LeastRam | FedpoetError = least_ram(posed, time_limit_s=time_limit)
        except (Infeasible, NoPlanInTime) as error:
            least = error
    typer.echo(lines(floor_rows(posed, least)))
    if source.changes is not None:
        with working("trying changes"):
            changes = tuple(source.changes())
        typer.echo(f"\n{change_lines(posed, changes)}")


def devices() -> None:
    """List the device profiles that ship with fedpoet."""
    from .device import device_names, load_device

    for name in device_names():
        profile = load_device(name)
        typer.echo(
            f"{name:18} {profile.trainable_bytes:>14,} bytes of RAM for training  {profile.description}"
        )


def solver_of(name: str, *, cached: bool) -> Solver:
    """Where every command gets its plans: plans made before, and a solver in a process of its own."""
    from .backends import Isolated, backend_named
    from .cache import PlanCache, cached_solve, default_cache_folder

    backend = Isolated(backend_named(name))
    cache = PlanCache(folder=default_cache_folder()) if cached else None

    def solved(problem: Problem, *, time_limit_s: float, starts: tuple[Plan, ...] = ()) -> Solution:
        return cached_solve(
            problem, cache, time_limit_s=time_limit_s, backend=backend, starts=starts
        )

    return solved


def with_budget(problem: Problem, ram: str | None, deadline_factor: float | None) -> Problem:
    """The problem within other limits, where they are given."""
    budget = problem.budget
    if ram is not None:
        budget = replace(budget, ram_bytes=parse_bytes(ram))
    if deadline_factor is not None:
        budget = replace(budget, time_s=problem.compute_once.time_s * deadline_factor)
    return replace(problem, budget=budget)


def show_solution(
    solution: Solution, problem: Problem, *, all_rows: bool = False, more: Rows = ()
) -> None:
    """Print the figures of a solution and more rows; on a terminal draw its plan as well."""
    from rich.console import Console

    from .view.rows import lines, solution_rows
    from .view.terminal import show_chart, show_tensors

    typer.echo(lines((*solution_rows(solution, problem), *more)))
    console = Console()
    draws = console.is_terminal and console.encoding.startswith("utf")
    if draws:
        show_chart(console, solution.plan, problem)
    if draws or all_rows:
        show_tensors(console, solution.plan, problem, all_rows)


@contextmanager
def working(what: str) -> Iterator[None]:
    """Something that moves on a terminal while there is nothing to count."""
    from rich.console import Console

    console = Console(stderr=True)
    if console.is_terminal:
        with console.status(f"{what} ..."):
            yield
    else:
        yield


def _swept(
    problem: Problem,
    solved: Solver,
    count: int,
    time_limit_s: float,
    own: Solution | None = None,
) -> tuple[Point, ...]:
    from rich.console import Console
    from rich.progress import Progress

    from .sweep import budgets_between, sweep

    budgets = budgets_between(problem, count)
    # A budget beyond what keep-all needs buys nothing: it would only stretch the picture.
    known = (own,) if own is not None and own.plan.budget.ram_bytes <= budgets[-1] else ()
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("planning for other budgets", total=len(budgets))
        return sweep(
            problem,
            budgets,
            solved,
            time_limit_s=time_limit_s,
            known=known,
            on_point=lambda _: progress.advance(task),
        )


def _write_page(
    solution: Solution, problem: Problem, points: tuple[Point, ...], path: Path
) -> None:
    from .view.page import plan_page

    files.write_atomically(path, plan_page(solution, problem, points).encode())
