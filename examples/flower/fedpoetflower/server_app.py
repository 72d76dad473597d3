"""The ServerApp: the coordinator of server/, composed with a workload from the run config."""

from __future__ import annotations

import contextlib
import json
import tempfile
import time
from collections.abc import Iterator, Mapping
from logging import INFO
from pathlib import Path

from flwr.app import Context
from flwr.common import log
from flwr.serverapp import Grid, ServerApp
from safetensors.numpy import save

from protos.files import write_atomically
from scheduler.errors import BadInput, RunFailed
from server.cli import KEYS, new_device_id
from server.coordinator.cli import RUN
from server.coordinator.fabrics import flower_fabric, joined, service_fabric
from server.coordinator.journal import Entry, Journal, opened
from server.coordinator.memory import allow_many_connections, give_freed_arrays_back
from server.coordinator.run import Fabric, Model, Settings, coordinate
from server.coordinator.values import finite
from server.coordinator.watch import Watch
from server.keyring import read_keys, read_passphrase
from server.polling import Polling, Query
from server.rules import Rules
from server.service.host import ServiceHost
from server.service.limits import Limits
from server.service.store import open_store
from simulations.model import read_model

Config = Mapping[str, object]

# A SuperNode reads these from the run config, a device of the service from its task.
ASKED = ("seed", "local-epochs", "batch-size", "deadline-factor", "plan-time-limit-s")

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    config = context.run_config
    out, data = folder(config, "out"), None
    if config["data"]:
        data = folder(config, "data")
    if config["listen"] and data is None:
        raise BadInput("a device service needs a folder with keys: name it with data")
    give_freed_arrays_back()
    allow_many_connections()
    model = read_model(str(config["workload"]), int(str(config["seed"])))
    out.mkdir(parents=True, exist_ok=True)
    with journal_in(data) as journal, fabric_of(grid, config, data, model) as fabric:
        wait_for_nodes(fabric, config)

        def on_entry(entry: Entry) -> None:
            report(entry)
            write_metrics(out, journal)

        watch = Watch(model.workload, int(str(config["num-rounds"])), [], time.time)
        arrays = coordinate(settings_of(config), model, fabric, journal, watch, time.time, on_entry)
        write_metrics(out, journal)
        # Last, whole or not at all, as a sign that all is there.
        write_atomically(out / "model.safetensors", save(dict(arrays)))


def settings_of(config: Config) -> Settings:
    return Settings(
        rounds=int(str(config["num-rounds"])),
        strategy=str(config["strategy"]),
        seed=int(str(config["seed"])),
        rules=Rules(deadline_s=float(str(config["round-timeout-s"]))),
        train_config={
            name: value for name in ASKED if isinstance(value := config[name], int | float)
        },
    )


@contextlib.contextmanager
def journal_in(data: Path | None) -> Iterator[Journal]:
    """The journal in the coordinator's folder, else one that is gone with the run."""
    with contextlib.ExitStack() as stack:
        if data is None:
            data = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        yield stack.enter_context(opened(data / RUN))


@contextlib.contextmanager
def fabric_of(grid: Grid, config: Config, data: Path | None, model: Model) -> Iterator[Fabric]:
    """The SuperLink's nodes, and where `listen` says so the devices of a device service beside them."""
    query_s = float(str(config["query-s"]))
    query = Query(wait_s=query_s) if query_s else None
    flower = flower_fabric(grid, time.time, time.sleep, query)
    if data is None or not config["listen"]:
        yield flower
        return
    locked = str(config["passphrase-file"])
    passphrase = read_passphrase(Path(locked) if locked else None)
    keys, store = read_keys(data / KEYS, passphrase), open_store(data)
    with ServiceHost(
        store=store,
        keys=keys,
        address=str(config["listen"]),
        limits=Limits(),
        now_s=time.time,
        new_id=new_device_id,
    ) as host:
        yield joined(service_fabric(host, model), flower)
    store.close()


def wait_for_nodes(fabric: Fabric, config: Config) -> None:
    nodes, wait_s = int(str(config["min-nodes"])), float(str(config["wait-s"]))
    if not Polling(fabric.grid, time.time, time.sleep).wait_for_nodes(nodes, wait_s):
        raise RunFailed(f"fewer than {nodes} nodes were online after {wait_s:g} s")


def report(entry: Entry) -> None:
    record = entry.record
    scores = "  ".join(f"{name} {value:.4f}" for name, value in record["evaluation"].items())
    traffic = f"down {record['bytes_down']} B  up {record['bytes_up']} B"
    updates = len(record["metrics"])
    log(INFO, "round %s  %s  %s  updates %s", entry.number, scores, traffic, updates)
    for refusal in record["refused"]:
        log(INFO, "refused: node %s: %s", refusal["node"], refusal["reason"])


def write_metrics(out: Path, journal: Journal) -> None:
    """All rounds that count, each a line of JSON; those of before a stop too."""
    lines = [line(entry) for entry in journal.entries() if not entry.rolled_back]
    write_atomically(out / "metrics.jsonl", "".join(lines).encode())


def line(entry: Entry) -> str:
    record = entry.record
    values = {
        "round": entry.number,
        **record["evaluation"],
        "bytes_down": record["bytes_down"],
        "bytes_up": record["bytes_up"],
        "devices": list(record["metrics"].values()),
        "refused": [[refusal["node"], refusal["reason"]] for refusal in record["refused"]],
        "waiting": record["waiting"],
    }
    return json.dumps(finite(values)) + "\n"


def folder(config: Config, name: str) -> Path:
    path = Path(str(config[name]))
    if not path.is_absolute():
        raise BadInput(
            f"name the folder {name} with an absolute path: --run-config '{name}=\"/...\"'"
        )
    return path
