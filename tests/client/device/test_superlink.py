"""The adapter to Flower's fleet API, held against a real SuperLink with TLS and authenticated nodes."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from client.node import Node, Settings
from client.outbox import released
from client.state import initial_arrays
from client.workload import load_workload
from scheduler.errors import Refused
from server.strategy import rounded
from server.totals import Totals
from tests.e2e.flower_processes import (
    UNEVEN,
    free_ports,
    is_open,
    make_certificates,
    processes,
    registered_keys,
    wait_for,
)
from tests.e2e.test_flower import NODES, flower_config, run_app

pytestmark = pytest.mark.slow

SEED = 5  # what run_app asks for
MOST_WAITING_BYTES = 120_000_000


def resident_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0


def join(group, number: int, address: str, *options: object):
    """A device of the simulated fleet."""
    device, ram_bytes = NODES[number]
    return group.start(
        f"device-{number}",
        *("fedpoet", "join", "--via", "superlink", "--coordinator", address),
        *("--data", group.folder / f"state-{number}", "--workload", UNEVEN),
        *("--device", device, "--ram", ram_bytes, "--partition", number, "--keep-warm", "2"),
        *options,
    )


def children(process) -> list[int]:
    path = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    return [int(word) for word in path.read_text().split()]


def ready(group) -> None:
    """All devices are connected."""
    for number in range(len(NODES)):
        log = group.folder / f"device-{number}.log"
        wait_for("a device", lambda log=log: b"connected as node" in log.read_bytes(), 60)


def test_the_model_is_the_one_that_they_train_without_a_network(tmp_path):
    certificates = make_certificates(tmp_path)
    (link_port,) = free_ports(1)
    with processes(tmp_path) as group:
        group.start(
            "superlink",
            *("flower-superlink", "--port", link_port, "--enable-supernode-auth"),
            *("--ssl-ca-certfile", certificates.ca),
            *("--ssl-certfile", certificates.certificate),
            *("--ssl-keyfile", certificates.key),
        )
        wait_for("the SuperLink", lambda: is_open(link_port), 60)
        address = f"127.0.0.1:{link_port}"
        flower_config(group, address, **{"root-certificates": f'"{certificates.ca}"'})
        devices = [
            join(group, number, address, "--node-key", key, "--root-certificates", certificates.ca)
            for number, key in enumerate(registered_keys(group, len(NODES)))
        ]
        run_app(group, tmp_path / "out", UNEVEN, rounds=2)
        wait_for("the children to end", lambda: not any(map(children, devices)), 30)
        for device in devices:
            assert resident_bytes(device.pid) < MOST_WAITING_BYTES
            os.kill(device.pid, signal.SIGTERM)
            assert device.wait(20) == 0
        group.running = [p for p in group.running if p not in devices]
    model = load_file(tmp_path / "out" / "model.safetensors")
    wanted = federated(rounds=2)
    assert model.keys() == wanted.keys()
    for name, value in wanted.items():
        np.testing.assert_array_equal(model[name], value)


def federated(rounds: int) -> dict[str, np.ndarray]:
    """The model that these devices train together, without any network."""
    arrays = initial_arrays(load_workload(UNEVEN), SEED)
    for number in range(1, rounds + 1):
        totals = Totals(arrays)
        for partition, (device, ram_bytes) in enumerate(NODES):
            settings = Settings(
                workload=UNEVEN,
                seed=SEED,
                device=device,
                ram_bytes=ram_bytes,
                partition=partition,
            )
            update = Node(settings, {}).train(arrays, number)
            totals.add(update.arrays, update.metrics["num-examples"])
        arrays = {n: rounded(totals.take_mean(n), value.dtype) for n, value in arrays.items()}
    return arrays


def test_devices_register_come_back_after_a_kill_and_say_how_things_stand(tmp_path):
    (link_port,) = free_ports(1)
    (tmp_path / "blind").mkdir()  # nobody tells anything below this root
    unwilling = ("--idle", "--facts-root", tmp_path / "blind")
    with processes(tmp_path) as group:
        group.start("superlink", "flower-superlink", "--insecure", "--port", link_port)
        wait_for("the SuperLink", lambda: is_open(link_port), 60)
        address = f"127.0.0.1:{link_port}"
        flower_config(group, address, insecure="true")
        devices = [join(group, number, address, "--insecure") for number in range(2)]
        join(group, 2, address, "--insecure", *unwilling)
        ready(group)
        devices[1].kill()
        devices[1].wait()
        group.running.remove(devices[1])
        (group.folder / "device-1.log").unlink()
        join(group, 1, address, "--insecure")
        ready(group)
        out = tmp_path / "out"
        run_app(group, out, UNEVEN, rounds=1, more="query-s=15.0")
        log = (group.folder / "device-2.log").read_text()
    assert "round 1" not in log
    rounds = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert {update["partition-id"] for update in rounds[-1]["devices"]} == {0, 1}
    assert rounds[-1]["refused"] == []


def test_nothing_else_goes_to_a_superlink():
    from flwr.proto.message_pb2 import Message, PullObjectRequest
    from flwr.proto.node_pb2 import Node
    from flwr.proto.run_pb2 import GetRunResponse

    assert released(PullObjectRequest(node=Node(node_id=3), run_id=4, object_id="ab"))
    message = Message()
    message.content.items.add(key="raw")
    for other in (message, GetRunResponse(), PullObjectRequest(object_id="x" * 65)):
        with pytest.raises(Refused):
            released(other)
