"""The same ClientApp and ServerApp on Flower's own SuperLink and SuperNodes."""

from __future__ import annotations

import json
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from client.node import Node, Settings
from client.state import initial_arrays
from client.workload import load_workload
from simulations.config import SimulationConfig
from simulations.reading import read_model
from simulations.run import simulate
from tests.e2e.flower_processes import (
    ROOT,
    UNEVEN,
    RecordingProxy,
    free_ports,
    is_open,
    make_certificates,
    processes,
    registered_keys,
    wait_for,
)
from tests.e2e.marked import MARK

pytestmark = pytest.mark.slow

BUNDLE = ROOT / "examples" / "flower"
# On the first of them, a plan has to page.
NODES = (("nrf52840", 116_000), ("raspberry-pi-4b", 16_000_000), ("phone-pixel-6", 64_000_000))
DONE_S = 100
FLEET = "devices = 3\n" + "".join(
    f"""
[kinds.{name}]
device = "{device}"
ram_bytes = {ram_bytes}
down_bytes_per_s = 1e6
up_bytes_per_s = 1e6
latency_s = 0.01
radio_w = 0.1
source = "test"
"""
    for name, (device, ram_bytes) in zip("abc", NODES, strict=True)
)


def node_config(partition: int, workload: str = UNEVEN) -> str:
    device, ram_bytes = NODES[partition]
    return f'device="{device}" ram-bytes={ram_bytes} partition-id={partition} workload="{workload}"'


def flower_config(group, address: str, **settings: str) -> None:
    """Tell `flwr` of the SuperLink under the name `link`."""
    lines = [f"{key} = {value}" for key, value in settings.items()]
    home = Path(group.environment("flwr")["FLWR_HOME"])
    (home / "config.toml").write_text(
        "\n".join(
            ['[superlink]\ndefault = "link"\n[superlink.link]', f'address = "{address}"', *lines]
        )
    )


def run_app(
    group, out: Path, workload: str, rounds: int, more: str = "", runs: int = 1, tend=lambda: None
) -> None:
    """`flwr run`, then wait until the ServerApp has ended; `tend` looks after other processes.

    `runs` is how many this makes on the SuperLink. Without a model, the ServerApp's log says why.
    """
    config = f'out="{out}" workload="{workload}" num-rounds={rounds} seed=5 round-timeout-s=60.0'
    options = ("--run-config", f"{config} {more}", "--format", "json")
    run_id = json.loads(group.run("flwr", "flwr", "run", BUNDLE, "link", *options))["run-id"]
    log = group.folder / "superlink.log"
    until = time.monotonic() + DONE_S
    while log.read_bytes().count(b"Finished task") < runs and time.monotonic() < until:
        group.require_alive()
        tend()
        time.sleep(0.1)
    if not (out / "model.safetensors").exists():
        said = group.run("flwr", "flwr", "log", run_id, "link", "--show")
        raise AssertionError(f"run {run_id} made no model:\n{said}\n{group.logs()}")


def test_no_raw_sample_crosses_the_wire(tmp_path):
    workload = f"{ROOT / 'tests' / 'e2e' / 'marked.py'}:marked"
    link_port, *node_ports = free_ports(1 + len(NODES))
    with ExitStack() as stack:
        group = stack.enter_context(processes(tmp_path))
        group.start("superlink", "flower-superlink", "--insecure", "--port", link_port)
        wait_for("the SuperLink", lambda: is_open(link_port), 30)
        proxy = stack.enter_context(RecordingProxy(link_port))
        for partition, port in enumerate(node_ports):
            group.start(
                f"node-{partition}",
                "flower-supernode",
                "--insecure",
                *("--superlink", f"127.0.0.1:{proxy.port}"),
                *("--port", port),
                *("--node-config", node_config(partition, workload)),
            )
        flower_config(group, f"127.0.0.1:{link_port}", insecure="true")
        run_app(group, tmp_path / "out", workload, rounds=1)
    streams = proxy.streams
    # Compressed bodies would hide a sample from the search below.
    assert not any(b"content-encoding" in s.lower() for s in streams)
    for kind in (np.float32, np.float64, np.float16):
        for window in windows(MARK.astype(kind).tobytes()):
            assert not any(window in s for s in streams)
    for text in (str(float(MARK[7])), f"{MARK[7]:.6f}", json.dumps(MARK.tolist())):
        assert not any(text.encode() in s for s in streams)
    rounds = (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(rounds[1])["refused"] == []
    # The search finds what does cross: the update of every node, computed here once more.
    for partition in range(len(NODES)):
        array = update_of(partition, workload)
        assert any(windows(array.tobytes())[3] in s for s in streams)


def update_of(partition: int, workload: str) -> np.ndarray:
    """The largest array of a node's update in the first round."""
    device, ram_bytes = NODES[partition]
    settings = Settings(
        workload=workload, seed=5, device=device, ram_bytes=ram_bytes, partition=partition
    )
    torch.set_num_threads(1)
    update = Node(settings, {}).train(initial_arrays(load_workload(UNEVEN), 5), 1)
    return max(update.arrays.values(), key=lambda array: array.nbytes)


def windows(data: bytes, size: int = 32) -> list[bytes]:
    """Pieces of the bytes, so that one split by a transfer does not hide the rest."""
    return [data[start : start + size] for start in range(0, len(data) - size + 1, size)]


def test_with_tls_and_authenticated_nodes_the_model_is_the_simulated_one(tmp_path):
    certificates = make_certificates(tmp_path)
    link_port, *node_ports = free_ports(1 + len(NODES))
    with processes(tmp_path) as group:
        group.start(
            "superlink",
            "flower-superlink",
            *("--port", link_port),
            "--enable-supernode-auth",
            *("--ssl-ca-certfile", certificates.ca),
            *("--ssl-certfile", certificates.certificate),
            *("--ssl-keyfile", certificates.key),
        )
        wait_for("the SuperLink", lambda: is_open(link_port), 30)
        address = f"127.0.0.1:{link_port}"
        flower_config(group, address, **{"root-certificates": f'"{certificates.ca}"'})
        for partition, key in enumerate(registered_keys(group, len(NODES))):
            group.start(
                f"node-{partition}",
                "flower-supernode",
                *("--superlink", address),
                *("--root-certificates", certificates.ca),
                *("--auth-supernode-private-key", key),
                *("--port", node_ports[partition]),
                *("--node-config", node_config(partition)),
            )
        run_app(group, tmp_path / "out", UNEVEN, rounds=2)
    require_simulated(tmp_path, rounds=2)


def require_simulated(folder: Path, rounds: int) -> None:
    """The model in `out` is that of the same devices in the simulator."""
    (folder / "fleet.toml").write_text(FLEET)
    config = SimulationConfig(
        workload=UNEVEN, rounds=rounds, seed=5, fleet=str(folder / "fleet.toml")
    )
    simulate(config, folder / "simulated")
    simulated = read_model(folder / "simulated")
    model = load_file(folder / "out" / "model.safetensors")
    assert model.keys() == simulated.keys()
    for name, value in simulated.items():
        np.testing.assert_array_equal(model[name], value)


def test_supernodes_and_a_device_of_the_service_train_in_the_same_rounds_and_a_later_run_goes_on(
    tmp_path,
):
    """The journal outlives the SuperLink's run: a second run adds the rounds that are missing.

    A third SuperNode, whose owner wants quiet all day, says so and is never asked.
    """
    link_port, listen, *node_ports = free_ports(5)
    nodes = [node_config(partition) for partition in range(2)]
    nodes.append(f'{nodes[0]} quiet-hours="00:00-12:00,12:00-00:00"')
    data, device = tmp_path / "coordinator", None
    (tmp_path / "devices").mkdir()
    with processes(tmp_path) as group, processes(tmp_path / "devices") as devices:
        group.run("keys", "fedpoet", "keys", "init", "--data", data, "--host", "localhost")
        ticket = group.run("keys", "fedpoet", "keys", "ticket", "--data", data).strip()
        group.start("superlink", "flower-superlink", "--insecure", "--port", link_port)
        wait_for("the SuperLink", lambda: is_open(link_port), 30)
        for partition, port in enumerate(node_ports):
            group.start(
                f"node-{partition}",
                "flower-supernode",
                "--insecure",
                *("--superlink", f"127.0.0.1:{link_port}"),
                *("--port", port),
                *("--node-config", nodes[partition]),
            )
        kind, ram_bytes = NODES[2]
        joining = (
            *("fedpoet", "join", "--coordinator", f"localhost:{listen}", "--ticket", ticket),
            *("--data", tmp_path / "device", "--workload", UNEVEN, "--partition", 2),
            *("--device", kind, "--ram", ram_bytes),
        )

        def tend() -> None:
            """A device that cannot enrol yet ends; its system starts it again."""
            nonlocal device
            if device is None or device.poll() is not None:
                device = devices.start("device", *joining)

        flower_config(group, f"127.0.0.1:{link_port}", insecure="true")
        more = f'data="{data}" listen="localhost:{listen}" query-s=40.0 min-nodes=4'
        out = tmp_path / "out"
        for rounds in (1, 2):
            (out / "model.safetensors").unlink(missing_ok=True)
            run_app(group, out, UNEVEN, rounds, more, runs=rounds, tend=tend)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["round"] for line in lines] == [0, 1, 2]
    for line in lines[1:]:
        assert sorted(d["partition-id"] for d in line["devices"]) == [0, 1, 2]
        assert line["refused"] == []
    require_simulated(tmp_path, rounds=2)
