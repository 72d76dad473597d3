"""The proof that a plan's RAM budget holds: training under a hard limit of the operating system.

    python -m benchmarks.prove_ram [--quick] [--only resnet18 ...] [--slack BYTES]

For each case the step is posed and planned here. Then three processes start, the same up to the moment in
which the model comes into being (see `prove_child`): plain PyTorch without a limit, the reference; plain
PyTorch that may have the budget and the slack beyond its start-up footprint, and must run out of memory;
and training by the plan under the same limit, which must finish with the same parameters, buffers,
optimizer state, losses and generator, bit for bit. Linux only. Exit code 1 if a promise is broken.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import save_file

from benchmarks import handover
from benchmarks.outcomes import digest
from benchmarks.points import ram_bytes, with_ram
from benchmarks.prove_cases import CASES, QUICK, Case
from benchmarks.prove_child import (
    BATCHES_FILE,
    JOB_FILE,
    LOSS,
    OUT_OF_MEMORY,
    START_FILE,
    Job,
    Result,
)
from client.mapped import MODEL_FILE, OPTIMIZER_FILE, tensors_of
from client.prepare import pose_step
from scheduler import Kind, Problem, load_device, replay, solve

ROOT = Path(__file__).parents[1]
DEVICE = "raspberry-pi-4b"
SLACK_BYTES = 16 * 2**20
# What is freed goes back to the system at once, and libraries keep nothing: neither glibc's heap nor
# MKL its buffers nor oneDNN the code that it generates for every shape, up to 3 MB each.
ENVIRONMENT = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": "16384",
    "MALLOC_TRIM_THRESHOLD_": "16384",
    "MALLOC_TOP_PAD_": "16384",
    "OMP_NUM_THREADS": "1",
    "MKL_DISABLE_FAST_MM": "1",
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "0",
}
HEADER = (
    f"{'case':26} {'budget is':>16} {'parameters':>12} {'keep-all':>13} {'budget':>13} "
    f"{'planned':>13} {'slack':>11} {'of budget':>9} {'start-up':>12} {'plain s':>8} {'by plan s':>9}  "
    "plain under the limit | by plan"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What came of a case with one budget; `wrong` names the promises it breaks."""

    name: str
    share: str
    parameter_bytes: int
    keep_all_bytes: int
    budget_bytes: int
    planned_bytes: int
    slack_bytes: int
    startup_bytes: int
    plain_step_s: float
    planned_step_s: float
    plain: str
    wrong: tuple[str, ...]

    @property
    def line(self) -> str:
        return (
            f"{self.name:26} {self.share:>16} {self.parameter_bytes:12,} {self.keep_all_bytes:13,} "
            f"{self.budget_bytes:13,} {self.planned_bytes:13,} {self.slack_bytes:11,} "
            f"{self.slack_bytes / self.budget_bytes:9.1%} {self.startup_bytes:12,} "
            f"{self.plain_step_s:8.2f} {self.planned_step_s:9.2f}  {self.plain} | "
            + ("WRONG: " + "; ".join(self.wrong) if self.wrong else "finished, same bits")
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a process ended: with a result, or with its last words."""

    result: Result | None
    code: int
    words: str


def _job(case: Case, folder: Path) -> tuple[Job, Problem]:
    """The step posed and planned for keep-all, with its initial model and batches as files."""
    torch.manual_seed(3)
    module = case.build().train()
    save_file(module.state_dict(), folder / START_FILE)
    generator = torch.Generator().manual_seed(5)
    batches = [case.draw(case.batch, generator) for _ in range(2)]
    save_file(
        {
            f"{key}{n}": t
            for n, batch in enumerate(batches)
            for key, t in zip("xy", batch, strict=True)
        },
        folder / BATCHES_FILE,
    )
    posed = pose_step(
        module, LOSS, case.optimizer(module.parameters()), batches[0], device=load_device(DEVICE)
    )
    job = Job(
        build=case.build,
        optimizer=case.optimizer,
        steps=case.steps,
        traced=posed.traced,
        problem=posed.problem,
        plan=None,
    )
    return job, posed.problem


def _budget(problem: Problem, share: str) -> tuple[int, str]:
    """Bytes, and the share or, where that is below it, what stands for the floor."""
    least = ram_bytes(problem, "1.05x")
    if share.endswith("of the model"):
        kinds = (Kind.PARAMETER, Kind.OPTIMIZER_STATE)
        wanted = round(_bytes_of(problem, *kinds) * float(share.split("%")[0]) / 100)
    else:
        wanted = ram_bytes(problem, share)
    return (wanted, share) if wanted >= least else (least, "1.05 x floor")


def _bytes_of(problem: Problem, *kinds: Kind) -> int:
    return sum(t.size_bytes for t in problem.graph.tensors if t.kind in kinds)


def _train(kind: str, folder: Path, room_bytes: int | None) -> tuple[Ended, Path]:
    out = Path(tempfile.mkdtemp(prefix=f"{kind}-", dir=folder))
    room = () if room_bytes is None else (str(room_bytes),)
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.prove_child", kind, str(folder), str(out), *room],
        cwd=ROOT,
        env={**os.environ, **ENVIRONMENT},
        capture_output=True,
        text=True,
        check=False,
    )
    words = (done.stderr.strip().splitlines() or [""])[-1]
    if done.returncode:
        return Ended(result=None, code=done.returncode, words=words), out
    found = json.loads(done.stdout.splitlines()[-1])
    return Ended(result=Result(**found), code=0, words=words), out


def _differences(one: Result, other: Result, ones: Path, others: Path) -> Iterator[str]:
    for name in ("losses", "generator"):
        if getattr(one, name) != getattr(other, name):
            yield f"{name} differ"
    for file in (MODEL_FILE, OPTIMIZER_FILE):
        left, right = (
            {k: digest(t) for k, t in tensors_of(folder / file)} for folder in (ones, others)
        )
        if different := sorted(
            k for k in left.keys() | right.keys() if left.get(k) != right.get(k)
        ):
            yield f"{len(different)} tensors of {file} differ, such as {different[0]}"


def _died(ended: Ended) -> str:
    """How a process ran out of memory; empty if it did not."""
    if ended.code == OUT_OF_MEMORY or "bad_alloc" in ended.words:
        return "died: " + ended.words.rpartition("DefaultCPUAllocator: ")[2][:60]
    return ""


def rows(case: Case, slack_bytes: int, time_limit_s: float) -> Iterator[Row]:
    with tempfile.TemporaryDirectory(prefix="fedpoet-") as name:
        folder = Path(name)
        job, problem = _job(case, folder)
        keep_all_bytes = ram_bytes(problem, "100%")
        handover.write(folder / JOB_FILE, job)
        reference, plain_out = _train("plain", folder, None)
        if reference.result is None:
            raise RuntimeError(f"plain training fails without a limit: {reference.words}")
        for share in case.shares:
            budget_bytes, said = _budget(problem, share)
            bounded = with_ram(problem, budget_bytes)
            plan = solve(bounded, time_limit_s=time_limit_s).plan
            handover.write(folder / JOB_FILE, replace(job, problem=bounded, plan=plan))
            room_bytes = budget_bytes + slack_bytes
            plain, _ = _train("plain", folder, room_bytes)
            planned, out = _train("planned", folder, room_bytes)
            wrong = (
                [] if _died(plain) else [f"plain training ended with {plain.code}: {plain.words}"]
            )
            if planned.result is None:
                wrong.append(f"by the plan: exit code {planned.code}: {planned.words}")
            else:
                wrong += _differences(reference.result, planned.result, plain_out, out)
            yield Row(
                name=case.name,
                share=said,
                parameter_bytes=_bytes_of(problem, Kind.PARAMETER),
                keep_all_bytes=keep_all_bytes,
                budget_bytes=budget_bytes,
                planned_bytes=replay(plan, bounded).peak_bytes,
                slack_bytes=slack_bytes,
                startup_bytes=planned.result.startup_bytes if planned.result else 0,
                plain_step_s=reference.result.step_s,
                planned_step_s=planned.result.step_s if planned.result else 0.0,
                plain=_died(plain) or "finished",
                wrong=tuple(wrong),
            )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two small networks, below a minute")
    parser.add_argument(
        "--only", nargs="+", metavar="WORD", help="cases whose name has one of these"
    )
    parser.add_argument("--slack", type=int, default=SLACK_BYTES, metavar="BYTES")
    parser.add_argument("--time-limit", type=float, default=20.0, help="seconds for each plan")
    return parser.parse_args()


def main() -> None:
    arguments = _arguments()
    torch.set_num_threads(1)
    wrong = 0
    print(HEADER, flush=True)
    for case in QUICK if arguments.quick else CASES:
        if arguments.only and not any(word in case.name for word in arguments.only):
            continue
        time_limit_s = 2.0 if arguments.quick else arguments.time_limit
        for row in rows(case, arguments.slack, time_limit_s):
            print(row.line, flush=True)
            wrong += bool(row.wrong)
    print("every promise kept" if not wrong else f"{wrong} rows break a promise")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
