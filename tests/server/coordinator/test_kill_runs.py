from __future__ import annotations

import random

import numpy as np
import pytest

from benchmarks.kill_runs import DEVICES, RAM_BYTES, ROUNDS, finished
from protos.arrays import decode_arrays
from simulations.config import SimulationConfig
from simulations.reading import read_model
from simulations.run import simulate
from tests.e2e.flower_processes import VIBRATION

pytestmark = pytest.mark.slow

FLEET = f"""
devices = {DEVICES}

[kinds.board]
device = "raspberry-pi-4b"
ram_bytes = {RAM_BYTES}
down_bytes_per_s = 1e6
up_bytes_per_s = 1e6
latency_s = 0.01
radio_w = 0.1
source = "test"
"""


def test_a_run_in_which_processes_are_killed_gives_the_model_that_is_simulated(tmp_path):
    """One of the fifty runs of `make kill-runs`: real processes, two of them killed."""
    run = finished(tmp_path / "killed", random.Random(3), every_s=3.0, kills=2)
    assert run.kills == 2
    (tmp_path / "fleet.toml").write_text(FLEET)
    config = SimulationConfig(
        workload=VIBRATION, rounds=ROUNDS, fleet=str(tmp_path / "fleet.toml"), strategy="fedadam"
    )
    simulate(config, tmp_path / "simulated")
    simulated, found = read_model(tmp_path / "simulated"), decode_arrays(run.model())
    assert found.keys() == simulated.keys()
    for name, value in simulated.items():
        np.testing.assert_array_equal(found[name], value)
