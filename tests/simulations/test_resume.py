"""A run that is killed and taken up again ends with the bytes it would have had."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from scheduler.errors import BadFile, BadInput
from simulations.config import SimulationConfig
from simulations.folder import draft_of
from simulations.reading import read_run
from simulations.run import Machine, Watcher, resume, simulate

REPOSITORY = Path(__file__).parents[2]

FLEET = """
devices = 12

[data]
shared = true

[server]
cohort = 4
over_selection = 1.5
deadline_s = 6.0
most_skipped = 100
link_slots = 2

[kinds.phone]
device = "phone-pixel-6"
ram_bytes = 64_000_000
down_bytes_per_s = { median = 1e6, sigma = 0.5 }
up_bytes_per_s = { median = 4e5, sigma = 0.5 }
latency_s = 0.07
radio_w = 1.0
slowness = { low = 1.0, high = 300.0 }
drop_out = 0.1
source = "test"

[kinds.phone.battery]
capacity_j = 300.0
charge_w = 5.0
own_w = 0.5

[[kinds.phone.habits.charging]]
start_h = 0.0
hours = 12.0
share = 0.5
"""


class Stopped(Exception):
    """Stands for kill -9 where the test is the process."""


def files(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


@pytest.fixture(scope="module")
def busy(tmp_path_factory) -> SimulationConfig:
    """Stragglers, drop-outs, empty batteries and a queue; rounds are cut by their deadline."""
    file = tmp_path_factory.mktemp("busy") / "busy.toml"
    file.write_text(FLEET)
    return SimulationConfig(workload="digits", rounds=12, seed=1, fleet=str(file), local_epochs=1)


MODES = {
    "synchronous": {},
    "late": {"late": "add", "strategy": "fedadam", "sampler": "utility"},
    "buffered": {"buffer": 2, "over_selection": 1.0, "sampler": "energy-fair"},
}


@pytest.mark.parametrize("mode", MODES)
def test_stopped_after_any_round_it_ends_with_the_same_bytes(busy, mode, machine, tmp_path):
    config = replace(busy, **MODES[mode])
    simulate(config, tmp_path / "whole", machine=machine)
    often = replace(machine, checkpoint_every_s=0.0)
    stops = iter((3, 4, 9))

    def stop_at(number):
        def on_round(record):
            if record.round == number:
                raise Stopped

        return Watcher(on_round=on_round)

    with pytest.raises(Stopped):
        simulate(config, tmp_path / "run", stop_at(next(stops)), machine=often)
    for number in stops:
        with pytest.raises(Stopped):
            resume(tmp_path / "run", stop_at(number), often)
    resume(draft_of(tmp_path / "run"), None, often)
    assert files(tmp_path / "run") == files(tmp_path / "whole")
    assert not draft_of(tmp_path / "run").exists()
    outcomes = {o for r in read_run(tmp_path / "run").rounds for o in r.outcomes}
    assert {"aggregated", "dropped out"} <= outcomes  # it was not an easy run


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_with_the_same_bytes(busy, tmp_path):
    code = (
        "import sys; from pathlib import Path\n"
        "from simulations.run import *\nfrom simulations.config import SimulationConfig\n"
        f"machine = Machine(checkpoint_every_s=0.0, plan_cache=Path({str(tmp_path / 'plans')!r}))\n"
        f"config = {replace(busy, rounds=40)!r}\n"
        "folder = Path(sys.argv[1])\n"
        "if sys.argv[2] == 'new': simulate(config, folder, machine=machine)\n"
        "else: resume(folder, None, machine)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "FLWR_TELEMETRY_ENABLED": "0"}

    def start(name, how):
        command = [sys.executable, "-W", "ignore", "-c", code, str(tmp_path / name), how]
        return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)

    with start("whole", "new") as process:
        _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err.decode()
    chance, killed, how = random.Random(5), 0, "new"
    draft = draft_of(tmp_path / "run")
    checkpoint = draft / "checkpoint.safetensors"
    for _ in range(4):
        with start("run", how) as process:
            before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
            while process.poll() is None:  # it has got somewhere, then a random moment
                with suppress(FileNotFoundError):
                    if checkpoint.stat().st_mtime_ns != before:
                        break
                time.sleep(0.005)
            time.sleep(chance.uniform(0.0, 0.3))
            process.send_signal(signal.SIGKILL)
            _, err = process.communicate()
        killed += process.returncode == -signal.SIGKILL
        how = "resume"
        if not draft.exists():
            break
    if draft.exists():
        with start("run", how) as process:
            _, err = process.communicate()
        assert process.returncode == 0, err.decode()
    assert killed >= 2
    assert files(tmp_path / "run") == files(tmp_path / "whole")


def test_another_fleet_or_a_damaged_checkpoint_is_not_gone_on_with(busy, machine, tmp_path):
    def on_round(record):
        if record.round == 2:
            raise Stopped

    file = tmp_path / "own.toml"
    file.write_text(FLEET)
    config = replace(busy, fleet=str(file), rounds=3)
    often = replace(machine, checkpoint_every_s=0.0)
    with pytest.raises(Stopped):
        simulate(config, tmp_path / "run", Watcher(on_round=on_round), machine=often)
    file.write_text(FLEET.replace("300.0\ncharge", "301.0\ncharge"))
    with pytest.raises(BadInput, match="was begun with another fleet"):
        resume(tmp_path / "run", None, machine)
    file.write_text(FLEET)
    checkpoint = draft_of(tmp_path / "run") / "checkpoint.safetensors"
    whole = checkpoint.read_bytes()
    checkpoint.write_bytes(whole[:-9])
    with pytest.raises(BadFile, match="is no checkpoint that can be read"):
        resume(tmp_path / "run", None, machine)
    checkpoint.write_bytes(whole)
    assert len(resume(tmp_path / "run", None, machine).rounds) == 4


def test_checkpoints_are_as_far_apart_as_asked(busy, machine, tmp_path):
    """Ten seconds go by on the machine's clock between two looks at it."""
    ticks = iter(range(0, 10**6, 10))
    slow = replace(machine, real_s=lambda: float(next(ticks)), checkpoint_every_s=35.0)
    there = []
    draft = draft_of(tmp_path / "run")

    def on_round(record):
        there.append((draft / "checkpoint.safetensors").exists())

    simulate(replace(busy, rounds=6), tmp_path / "run", Watcher(on_round=on_round), machine=slow)
    assert there == [False] * 4 + [True] * 3
    assert isinstance(slow, Machine)
