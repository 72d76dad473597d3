from __future__ import annotations

from pathlib import Path

import pytest

from simulations.config import SimulationConfig
from simulations.run import Machine, Watcher, simulate

# Three kinds for `digits`: a board with less RAM than it would like, a Pi, and one that cannot train.
FLEET = """
devices = 4

[kinds.board]
share = 2
device = "nrf52840"
ram_bytes = 200_000
down_bytes_per_s = 100e3
up_bytes_per_s = 100e3
latency_s = 0.05
radio_w = 0.01
source = "test"

[kinds.pi]
share = 1
device = "raspberry-pi-4b"
ram_bytes = 16_000_000
down_bytes_per_s = 5e6
up_bytes_per_s = 5e6
latency_s = 0.01
radio_w = 0.7
source = "test"

[kinds.tiny]
share = 1
device = "mkr1000"
ram_bytes = 9_000
down_bytes_per_s = 1e4
up_bytes_per_s = 1e4
latency_s = 0.05
radio_w = 0.3
source = "test"
"""


@pytest.fixture(scope="session")
def fleet_file(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("fleet") / "fleet.toml"
    file.write_text(FLEET)
    return file


@pytest.fixture(scope="session")
def only_tiny() -> str:
    """The same fleet with none but devices that cannot train."""
    return FLEET.replace("share = 2", "share = 0").replace("pi]\nshare = 1", "pi]\nshare = 0")


@pytest.fixture(scope="session")
def config(fleet_file) -> SimulationConfig:
    return SimulationConfig(workload="digits", rounds=2, seed=3, fleet=str(fleet_file))


@pytest.fixture(scope="session")
def seen() -> list:
    """What the watcher of `result` was told, in order."""
    return []


@pytest.fixture(scope="session")
def machine(tmp_path_factory) -> Machine:
    """A machine that plans the same step once."""
    return Machine(plan_cache=tmp_path_factory.mktemp("plans"))


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    """The run folder of `result`."""
    return tmp_path_factory.mktemp("runs") / "run"


@pytest.fixture(scope="session")
def result(config, seen, folder, machine):
    note = lambda name: lambda *values: seen.append((name, *values))  # noqa: E731
    watcher = Watcher(
        on_plan=note("plan"),
        on_left_out=note("left out"),
        on_start=note("start"),
        on_reply=note("reply"),
        on_round=note("round"),
    )
    return simulate(config, folder, watcher, machine=machine)
