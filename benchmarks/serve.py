"""How the device service bears many devices: `python -m benchmarks.serve`, or `make bench-serve`.

Null devices, all in one process of their own, stay connected over mutual TLS; each round asks some of them. A
device fetches the model, checks it, and sends an update of the same size. Prints seconds per round,
failures, and the memory of the coordinator alone.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import resource
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.null_device import NullDevice
from client.device.identity import Credentials
from protos import device_pb2 as pb
from protos.arrays import forms
from protos.tasks import workload_digest
from server.cli import new_device_id
from server.coordinator.fabrics import service_fabric
from server.coordinator.journal import opened
from server.coordinator.memory import give_freed_arrays_back
from server.coordinator.run import Model, Settings, coordinate
from server.coordinator.watch import Watch
from server.keyring import Keyring, make_coordinator, make_device, make_keys, read_keys
from server.rules import Rules
from server.service.host import ServiceHost
from server.service.limits import Limits
from server.service.store import Store, open_store

MIB = 2**20
ARRAY_BYTES = 16 * MIB  # of which larger models have several
HOST = "localhost"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What is served: `model_bytes` down and up for each of `cohort` devices a round."""

    devices: int
    cohort: int
    rounds: int
    model_bytes: int


CASES = (
    Case(devices=1000, cohort=100, rounds=10, model_bytes=100_000),
    Case(devices=4, cohort=4, rounds=5, model_bytes=100_000),  # as benchmarks/serve_flower.py
    Case(devices=3, cohort=3, rounds=2, model_bytes=200 * MIB),
    Case(devices=2, cohort=2, rounds=1, model_bytes=600 * MIB),
)
QUICK = (
    Case(devices=50, cohort=10, rounds=3, model_bytes=100_000),
    Case(devices=2, cohort=2, rounds=1, model_bytes=20 * MIB),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What came of a case. Memory is the coordinator's resident set: connected, and at its largest."""

    case: Case
    connected_s: float
    round_s: tuple[float, ...]
    failed: int
    idle_mib: float
    peak_mib: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="smaller numbers, some seconds")
    arguments = parser.parse_args()
    table = Table(
        "devices",
        "asked",
        "model",
        "connected in, s",
        "s per round",
        "failed",
        "idle, MiB",
        "peak, MiB",
    )
    for case in QUICK if arguments.quick else CASES:
        row = measured(case)
        table.add_row(
            str(case.devices),
            f"{case.cohort} x {case.rounds}",
            f"{case.model_bytes / MIB:.1f} MiB",
            f"{row.connected_s:.1f}",
            f"{statistics.median(row.round_s):.2f} (most {max(row.round_s):.2f})",
            str(row.failed),
            f"{row.idle_mib:.0f}",
            f"{row.peak_mib:.0f}",
        )
    Console(width=120).print(table)


def measured(case: Case) -> Row:
    """One case, the coordinator in a process of its own so that its memory is its own."""
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        here, there = spawn.Pipe()
        coordinator = spawn.Process(target=_coordinate, args=(case, Path(folder), there))
        coordinator.start()
        devices = spawn.Process(target=_devices, args=(here.recv(),))
        devices.start()
        try:
            if not here.poll(3600):
                raise SystemExit("the coordinator did not end within an hour")
            row: Row = here.recv()
        finally:
            devices.kill()
            devices.join()
            coordinator.join(10)
            coordinator.kill()
    return row


def _coordinate(case: Case, folder: Path, pipe: multiprocessing.connection.Connection) -> None:
    give_freed_arrays_back()
    arrays = max(1, case.model_bytes // ARRAY_BYTES)
    initial = {
        f"layer{i}": np.zeros(case.model_bytes // 4 // arrays, np.float32) for i in range(arrays)
    }
    model = Model(
        workload="null",
        digest=workload_digest("null", forms(initial)),
        initial=initial,
        averaged=frozenset(),
        evaluate=lambda *_: {},
    )
    make_keys(folder / "keys", now_s=time.time())
    make_coordinator(folder / "keys", [HOST], now_s=time.time())
    keys, store = read_keys(folder / "keys"), open_store(folder / "store")
    settings = Settings(
        rounds=case.rounds,
        rules=Rules(cohort=case.cohort, patience_s=600, deadline_s=1200, most_skipped=0),
        keep_models=1,
    )
    limits = Limits(calls=10_000, calls_per_s=10_000, update_bytes=2 * case.model_bytes + MIB)
    with (
        ServiceHost(
            store=store,
            keys=keys,
            address=f"{HOST}:0",
            limits=limits,
            now_s=time.time,
            new_id=new_device_id,
        ) as host,
        opened(folder / "run") as journal,
    ):
        pipe.send(_crew(case, store, keys, host.port, model))
        begun_s = time.monotonic()
        while len(host.presence.there()) < case.devices:
            time.sleep(0.05)
        connected_s, idle_mib = time.monotonic() - begun_s, _resident_mib()
        watch = Watch("null", case.rounds, [], time.time)
        coordinate(settings, model, service_fabric(host, model), journal, watch, time.time)
        rounds = [r for r in watch.snapshot().rounds if r.number]
        pipe.send(
            Row(
                case=case,
                connected_s=connected_s,
                round_s=tuple(r.seconds for r in rounds),
                failed=sum(r.asked - r.updates for r in rounds),
                idle_mib=idle_mib,
                peak_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            )
        )
    store.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Crew:
    """All that the process of the devices needs to know: ids and credentials in order of partition."""

    address: str
    devices: tuple[tuple[int, Credentials], ...]
    workload: str
    digest: bytes


def _crew(case: Case, store: Store, keys: Keyring, port: int, model: Model) -> Crew:
    devices = []
    for _ in range(case.devices):
        device_id, now_s = new_device_id(), time.time()
        identity = make_device(keys.authority, device_id, now_s=now_s)
        store.roster.add(device_id, "null", identity.public_key, identity.certificate, now_s)
        credentials = Credentials(
            authority_pem=keys.authority.certificate_pem.decode(),
            certificate_pem=identity.certificate_pem.decode(),
            key_pem=identity.key_pem.decode(),
        )
        devices.append((device_id, credentials))
    return Crew(
        address=f"{HOST}:{port}",
        devices=tuple(devices),
        workload=model.workload,
        digest=model.digest,
    )


def _devices(crew: Crew) -> None:
    asyncio.run(_all(crew))


async def _all(crew: Crew) -> None:
    known = pb.KnownWorkload(name=crew.workload, digest=crew.digest)
    async with asyncio.TaskGroup() as group:
        for partition, (device_id, credentials) in enumerate(crew.devices):
            device = NullDevice(
                address=crew.address,
                device_id=device_id,
                partition=partition,
                credentials=credentials,
                workload=known,
            )
            group.create_task(device.run())


def _resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / MIB


if __name__ == "__main__":
    main()
