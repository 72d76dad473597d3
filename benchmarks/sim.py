"""Simulators compared: the same federated task in fedpoet, Flower with Ray, and pfl (`make bench-sim`).

Every run is a process of its own; opponents have virtual environments of their own in .opponents/, made on
the first run. Ratios say how much longer a round takes than in fedpoet. Start-up (everything up to the end of
the first round) is apart. Memory is the sum of the proportional set sizes of the whole process tree.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

HERE = Path(__file__).parent / "opponents"
ROOT = HERE.parents[1]
ENVIRONMENTS = ROOT / ".opponents"
LOOK_EVERY_S = 0.5
MIB = 2**20
LIMIT_S = 1800.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Contestant:
    """How to run one framework: `environment` None is fedpoet's own, `tasks` None all of them."""

    name: str
    environment: str | None
    command: tuple[str, ...]
    tasks: tuple[str, ...] | None = None


PFL = str(HERE / "run_pfl.py")
CONTESTANTS = (
    Contestant(
        name="fedpoet",
        environment=None,
        command=("-m", "benchmarks.opponents.run_fedpoet"),
    ),
    Contestant(
        name="fedpoet, 2 workers",
        environment=None,
        command=("-m", "benchmarks.opponents.run_fedpoet", "--workers", "2"),
        tasks=("logistic", "cnn"),
    ),
    Contestant(
        name="Flower 1.41, Ray, 2 actors",
        environment="flower",
        command=(str(HERE / "run_flower.py"),),
    ),
    Contestant(name="pfl 0.6", environment="pfl", command=(PFL,)),
    Contestant(
        name="pfl 0.6, 2 threads",
        environment="pfl",
        command=(PFL, "--threads", "2"),
        tasks=("logistic", "cnn"),
    ),
    Contestant(
        name="pfl 0.6, 2 processes",
        environment="pfl",
        command=("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", PFL),
        tasks=("logistic", "cnn"),
    ),
)
TASKS = {
    "logistic": ("--task", "logistic"),
    "cnn": ("--task", "cnn"),
    "no training": ("--task", "logistic", "--no-training"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--tasks", nargs="*", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--only", help="contestants whose name contains this")
    asked = parser.parse_args()
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, 1,000 clients, 10 per round, ")
    print(f"{asked.rounds} rounds; a round's ratio is to the faster of fedpoet's rows\n")
    for task in asked.tasks:
        print(f"{task:27} {'start s':>8} {'ms/round':>9} {'ratio':>6} {'accuracy':>8} {'MiB':>6}")
        rows: list[tuple[Contestant, dict[str, float] | None]] = []
        for one in CONTESTANTS:
            if (asked.only and asked.only not in one.name) or (one.tasks and task not in one.tasks):
                continue
            rows.append((one, run(one, (*TASKS[task], "--rounds", str(asked.rounds)))))
        own = [found["round_s"] for one, found in rows if found and one.environment is None]
        for one, found in rows:
            if found is None:
                print(f"  {one.name:25} did not run")
                continue
            ratio = f"{found['round_s'] / min(own):6.2f}" if own else "     -"
            print(
                f"  {one.name:25} {found['start_s']:8.1f} {found['round_s'] * 1e3:9.2f} {ratio} "
                f"{found['accuracy']:8.3f} {found['memory_bytes'] / MIB:6.0f}"
            )
        print(flush=True)


def run(one: Contestant, arguments: tuple[str, ...]) -> dict[str, float] | None:
    """What a contestant reports, with the most memory that its processes held."""
    python = python_of(one.environment)
    if python is None:
        return None
    environment = {
        **os.environ,
        "FLWR_TELEMETRY_ENABLED": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "FLWR_HOME": str(ENVIRONMENTS / "flwr"),
    }
    with (
        (ROOT / ".opponents/log.txt").open("w") as log,
        subprocess.Popen(
            [python, *one.command, *arguments, "--began", str(time.time())],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            cwd=ROOT,
            env=environment,
        ) as process,
    ):
        memory_bytes, until_s = 0, time.monotonic() + LIMIT_S
        while process.poll() is None and time.monotonic() < until_s:
            memory_bytes = max(memory_bytes, tree_bytes(process.pid))
            time.sleep(LOOK_EVERY_S)
        if process.poll() is None:
            process.kill()
        out = process.stdout.read() if process.stdout else ""
    reports = [line[line.index('{"rounds"') :] for line in out.splitlines() if '{"rounds"' in line]
    if process.returncode != 0 or not reports:
        print((ROOT / ".opponents/log.txt").read_text()[-2000:], file=sys.stderr)
        return None
    found: dict[str, float] = json.JSONDecoder().raw_decode(reports[-1])[
        0
    ]  # each process may print one
    return {**found, "memory_bytes": memory_bytes}


def tree_bytes(pid: int) -> int:
    """Proportional set size of a process and all below it: memory that several share counts once."""
    total = 0
    try:
        processes = [(top := psutil.Process(pid)), *top.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    for process in processes:
        try:
            total += process.memory_full_info().pss
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return total


def python_of(environment: str | None) -> str | None:
    """The interpreter of an environment, which is made if it is not there; None if that fails."""
    if environment is None:
        return sys.executable
    folder = ENVIRONMENTS / environment
    python = folder / "bin/python"
    if not python.exists():
        base = shutil.which("python3.11") or sys.executable
        ENVIRONMENTS.mkdir(exist_ok=True)
        subprocess.run([base, "-m", "venv", str(folder)], check=True)
        wanted = HERE / f"{environment}.txt"
        install = [str(python), "-m", "pip", "install", "--quiet", "-r", str(wanted)]
        if subprocess.run(install, check=False).returncode:
            shutil.rmtree(folder)
            return None
    return str(python)


if __name__ == "__main__":
    main()
