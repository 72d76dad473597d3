"""Energy, gap and seconds of planning, against the targets.

    python -m benchmarks.plan --section 2 --only resnet18 --time-limit 60
    python -m benchmarks.plan --time-limit 60 INSTANCE.json:737719 OTHER.json:55% ...

Without files, four sections: reference instances (a folder of problem files, which is not part of the
repository), models traced from torch, growth with the size of the network, and plans from the cache. With
files, each with a RAM budget in bytes, as a share of what keep-all needs ("55%") or as a multiple of the
least feasible RAM ("1.1x"): those alone, under a deadline of 1.5 times the time of computing everything
once. Energies are relative to that too. Exit code 0 whether or not targets are missed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from benchmarks import traced
from benchmarks.points import REFERENCE, SHARES, Point, budgets, instances
from benchmarks.rows import CACHE_S, Row, cache_seconds, row
from scheduler.files import read_problem

INSTANCES = Path(__file__).parents[2] / "shared" / "reference" / "instances"
QUICK_NAMES = ("vgg16_cifar-m4", "transformer-a72", "resnet18", "bert4", "stack 3", "stack 8")
QUICK_SHARES = ("60%", "1.1x")
HEADER = (
    f"{'problem':20} {'ops':>5} {'RAM':>5} {'bytes':>13} {'limit':>5} {'energy':>9} {'bound':>9} "
    f"{'gap':>8} {'first s':>8} {'all s':>7} {'best baseline':>20}  missed"
)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("problems", nargs="*", metavar="FILE:RAM")
    parser.add_argument("--section", type=int, nargs="+", default=[1, 2, 3, 4], metavar="1-4")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="problems by name")
    parser.add_argument("--instances", type=Path, default=INSTANCES, metavar="FOLDER")
    parser.add_argument("--ram", nargs="+", metavar="RAM", help='e.g. "60%%" 1.1x')
    parser.add_argument("--deadline", type=float, help="of sections 2 and 3; none unless given")
    parser.add_argument("--time-limit", type=float, help="seconds; the targets' unless given")
    parser.add_argument(
        "--baseline-limit",
        type=float,
        default=10.0,
        help="seconds for baselines that call a solver",
    )
    parser.add_argument(
        "--overlap-only",
        action="store_true",
        help="of section 2, leave out the device whose paging waits for compute",
    )
    parser.add_argument("--quick", action="store_true", help="a few points of each section")
    parser.add_argument("--out", type=Path, metavar="FILE", help="the rows as JSON")
    return parser.parse_args()


def _points(options: argparse.Namespace) -> Iterator[Point]:
    names = options.only or (QUICK_NAMES if options.quick else ())
    shares = tuple(options.ram or (QUICK_SHARES if options.quick else SHARES))

    def wanted(name: str) -> bool:
        return not names or name in names

    if 1 in options.section:
        if not options.instances.is_dir():
            print(f"section 1 left out: there is no folder {options.instances}")
        yield from instances(options.instances, wanted, shares=shares)
    if 2 in options.section:
        for overlap in (False, True):
            if overlap or not options.overlap_only:
                yield from traced.models(
                    wanted, shares=shares, deadline=options.deadline, overlap=overlap
                )
    if 3 in options.section:
        yield from traced.stacks(wanted, layers=traced.LAYERS, deadline=options.deadline)


def _given(files: Iterable[str]) -> Iterator[Point]:
    for name in files:
        path, ram = name.rsplit(":", 1)
        yield from budgets(
            "given problems",
            Path(path).stem,
            read_problem(Path(path)),
            REFERENCE,
            deadlines=(1.5,),
            shares=(ram,),
        )


def _line(one: Row) -> str:
    result, best = one.result, one.best_baseline
    memory = result.memory_bytes
    head = (
        f"{one.name[:20]:20} {one.operators:5} {one.ram:>5} {one.ram_bytes:13,} {one.deadline:>5}"
    )
    if result.energy is None:
        return f"{head} {result.problem} {' '.join(one.missed)}"
    return (
        f"{head} {result.energy:9.5f} {result.bound:9.5f} {result.gap:8.3%} "
        f"{'-' if result.first_s is None else format(result.first_s, '.2f'):>8} {result.total_s:7.1f} "
        f"{'-' if best is None else f'{best[0]} {best[1]:.5f}':>20}  {' '.join(one.missed)}"
        + ("" if memory is None else f"  {memory / 1e6:.0f} MB")
    )


def _rows(points: Iterable[Point], options: argparse.Namespace) -> list[Row]:
    rows: list[Row] = []
    progress = Progress(
        SpinnerColumn(),
        TextColumn("{task.completed} points"),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
        console=Console(stderr=True),
        # Rows go to stdout: past the bar where both are the terminal, untouched where one is not.
        redirect_stdout=sys.stdout.isatty(),
        transient=True,
    )
    with progress:
        task = progress.add_task("tracing", total=None)
        for point in points:
            progress.update(task, description=f"{point.name} at {point.ram} {point.deadline}")
            growth = point.section.startswith("3")
            made = row(
                point,
                time_limit_s=options.time_limit or point.targets.total_s,
                baseline_s=None if growth else options.baseline_limit,
                alone=growth,
            )
            if not rows or rows[-1].section != made.section:
                print(f"\n{made.section}\n{HEADER}", flush=True)
            print(_line(made), flush=True)
            rows.append(made)
            progress.update(task, advance=1, description="tracing")
    return rows


def _cache(options: argparse.Namespace) -> list[dict[str, object]]:
    """Section 4: a plan seen before, for the smallest and the largest stack."""
    print(f"\n4. a plan seen before, from the cache\n{'problem':20} {'ops':>5} {'seconds':>8}")
    found: list[dict[str, object]] = []
    for layers in traced.LAYERS[:2] if options.quick else traced.LAYERS:
        (point,) = traced.stacks(lambda _: True, layers=(layers,), deadline=options.deadline)
        seconds = cache_seconds(point.problem, options.time_limit or 10.0)
        missed = "" if seconds <= CACHE_S else "  cache"
        operators = len(point.problem.graph.operators)
        print(f"{point.name:20} {operators:5} {seconds:8.3f}{missed}", flush=True)
        found.append({"name": point.name, "operators": operators, "seconds": seconds})
    return found


def _summary(rows: list[Row]) -> None:
    for section in dict.fromkeys(r.section for r in rows):
        mine = [r for r in rows if r.section == section]
        posed = [r for r in mine if not r.result.infeasible]
        missed = Counter(m for r in posed for m in r.missed)
        gaps = [r.result.gap for r in posed if r.result.gap is not None]
        print(
            f"{section}: {len(mine)} points, {len(mine) - len(posed)} of them proven infeasible; of the "
            f"other {len(posed)}: {missed['plan']} without a plan, first plan too late {missed['first']}, "
            f"gap too large {missed['gap']}, a baseline better {missed['baseline']}; "
            f"all targets reached {sum(not r.missed for r in posed)}; "
            f"largest gap {max(gaps, default=0.0):.3%}"
        )


def main() -> None:
    options = _options()
    torch.set_num_threads(1)
    rows = _rows(_given(options.problems) if options.problems else _points(options), options)
    cached = [] if options.problems or 4 not in options.section else _cache(options)
    print()
    _summary(rows)
    if options.out:
        written = {"rows": [asdict(r) for r in rows], "cache": cached}
        options.out.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
