"""A client in another language takes part in rounds, with protos/device.proto and nothing else."""

from __future__ import annotations

import secrets
import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from flwr.serverapp.strategy import FedAvg

from protos.arrays import forms
from protos.tasks import workload_digest
from protos.trust import write_ticket
from server.federation import Federation, Round
from server.keyring import make_ticket
from server.rounds import run_rounds
from server.rules import Rules
from server.service.grid import ServiceGrid
from tests.server.service.peers import eventually

HERE = Path(__file__).parent / "node_client"
PROTOS = Path(__file__).parents[3] / "protos"
ROUNDS = 2
MODEL = {
    "weight": np.random.default_rng(0).standard_normal((300, 400)).astype(np.float32),
    "bias": np.array([1.5, -2.25, 3e5]),
    "count": np.array(7, dtype=np.int64),
}


@pytest.fixture(scope="module")
def node_client(tmp_path_factory) -> Path:
    """The client with its packages, at the versions of the lock file."""
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        pytest.skip("node and npm are not installed")
    folder = tmp_path_factory.mktemp("node")
    for path in HERE.iterdir():
        if path.is_file():
            shutil.copy(path, folder)
    if (HERE / "node_modules").is_dir():
        (folder / "node_modules").symlink_to(HERE / "node_modules")
        return folder
    command = [npm, "ci", "--no-audit", "--no-fund", "--ignore-scripts"]
    done = subprocess.run(
        command, check=False, cwd=folder, capture_output=True, text=True, timeout=300
    )
    if done.returncode:
        pytest.skip(f"npm cannot install the packages of gRPC: {done.stderr[-300:]}")
    return folder


@pytest.mark.slow
def test_a_node_client_takes_part(host, node_client):
    grid = ServiceGrid(
        host,
        run_id=1,
        workload="halves",
        workload_digest=workload_digest("halves", forms(MODEL)),
        random_bytes=secrets.token_bytes,
    )
    ticket = make_ticket(
        host.keys.authority, now_s=time.time(), valid_s=60, random_bytes=secrets.token_bytes
    )
    host.store.roster.add_ticket(ticket, "node", time.time())
    client = subprocess.Popen(
        ["node", "client.mjs", f"localhost:{host.port}", str(PROTOS), str(ROUNDS)],
        cwd=node_client,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        client.stdin.write(write_ticket(ticket))
        client.stdin.close()
        client.stdin = None
        eventually("it waits for work", lambda: grid.get_node_ids() or client.poll(), 60)
        assert client.poll() is None, client.stderr.read()
        assert grid.reports().can_train.all()
        rounds: list[Round] = []
        arrays = run_rounds(
            grid,
            Federation(
                initial=MODEL,
                strategy=FedAvg(min_train_nodes=1, min_available_nodes=1),
                num_rounds=ROUNDS,
                evaluate=lambda *_: {},
                now_s=time.time,
                wait=grid.wait,
                reports=grid.reports,
                train_config={"seed": 1},
                on_round=lambda done, _: rounds.append(done),
                rules=Rules(deadline_s=60.0, patience_s=10.0, most_skipped=0),
            ),
        )
        told, failed = client.communicate(timeout=60)
        assert client.returncode == 0, failed
    finally:
        client.kill()
        client.communicate()
    assert not failed
    assert told.count('"config":["seed","server-round"]') == ROUNDS
    # What this very arithmetic gives here.
    expected = {
        name: value + ROUNDS if name == "count" else value / 2 / 2 for name, value in MODEL.items()
    }
    for name, value in arrays.items():
        assert value.dtype == MODEL[name].dtype
        assert np.array_equal(value, expected[name]), name
    (last,) = rounds[-1].metrics.values()
    assert last == {"num-examples": 10, "train-loss": 0.5}
    (device,) = host.store.roster.devices()
    assert device.label == "node"
    eventually("it has left", lambda: not grid.get_node_ids())
