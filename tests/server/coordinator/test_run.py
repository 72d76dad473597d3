"""A whole coordinator on the device service, with devices that train nothing and add a known number."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.null_device import NullDevice, null_metrics, null_update
from client.device.identity import Credentials
from protos import device_pb2 as pb
from protos.arrays import forms, read_arrays
from protos.tasks import workload_digest
from scheduler.errors import BadInput
from server.coordinator.fabrics import flower_fabric, joined, kinds_of, service_fabric
from server.coordinator.journal import opened
from server.coordinator.run import Model, Settings, coordinate
from server.coordinator.watch import Watch
from server.rules import Rules
from server.strategy import make_strategy
from tests.server.grids import FunctionGrid
from tests.server.service.peers import enrolled, hosted
from tests.server.test_rounds import run

INITIAL = {
    "w": np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3),
    "count": np.array(3, dtype=np.int64),
}
MODEL = Model(
    workload="null",
    digest=workload_digest("null", forms(INITIAL)),
    initial=INITIAL,
    averaged=frozenset({"count"}),
    evaluate=lambda number, arrays: {"loss": float(np.abs(arrays["w"]).sum())},
)
DEVICES = 3
SETTINGS = Settings(
    rounds=4,
    strategy="fedadam",
    rules=Rules(cohort=DEVICES, patience_s=30, deadline_s=30),
)


class Stopped(Exception):
    """A coordinator that dies where a test wants it."""


@contextlib.contextmanager
def null_devices(host, count=DEVICES):
    """Null devices in a thread of their own; they find the coordinator again under the same port."""
    known = pb.KnownWorkload(name=MODEL.workload, digest=MODEL.digest)
    devices = []
    for partition in range(count):
        device_id, identity = enrolled(host.store, host.keys, f"null-{partition}")
        credentials = Credentials(
            authority_pem=host.keys.authority.certificate_pem.decode(),
            certificate_pem=identity.certificate_pem.decode(),
            key_pem=identity.key_pem.decode(),
        )
        devices.append(
            NullDevice(
                address=f"localhost:{host.port}",
                device_id=device_id,
                partition=partition,
                credentials=credentials,
                workload=known,
            )
        )
    loop = asyncio.new_event_loop()

    async def all_of_them():
        async with asyncio.TaskGroup() as group:
            for device in devices:
                group.create_task(device.run())

    task = loop.create_task(all_of_them())

    def work():
        with contextlib.suppress(asyncio.CancelledError):
            loop.run_until_complete(task)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield devices
    finally:
        loop.call_soon_threadsafe(task.cancel)
        thread.join()
        loop.close()


def expected(settings):
    """The model that the same rounds give on a Grid of plain functions."""
    answers = {
        n: (lambda arrays, p=n: (null_update(arrays, p, grid.number), null_metrics(p)))
        for n in range(DEVICES)
    }

    class Counting(FunctionGrid):
        number = 0

        def push_messages(self, messages):
            self.number += 1
            return super().push_messages(messages)

    grid = Counting(answers)
    return run(
        grid,
        initial=INITIAL,
        strategy=make_strategy(settings.strategy),
        averaged=MODEL.averaged,
        num_rounds=settings.rounds,
    ).arrays


def watched(journal, host=None):
    kinds = (lambda: kinds_of(host)) if host else tuple
    return Watch("null", SETTINGS.rounds, journal.entries(), time.time, kinds)


def require_same(arrays, others):
    for name in INITIAL:
        assert arrays[name].tobytes() == others[name].tobytes()


def test_a_federation_over_the_device_service(tmp_path, keys):
    with (
        hosted(tmp_path / "store", keys) as host,
        opened(tmp_path / "run") as journal,
        null_devices(host),
    ):
        watch = watched(journal, host)
        fabric = service_fabric(host, MODEL)
        arrays = coordinate(SETTINGS, MODEL, fabric, journal, watch, time.time)
        assert fabric.asked() == ()
        (kind,) = watch.snapshot().kinds
        assert (kind.kind, kind.enrolled, kind.ready) == ("raspberry-pi-4b", DEVICES, DEVICES)
        require_same(arrays, read_arrays(journal.model(4)))
    require_same(arrays, expected(SETTINGS))
    assert watch.snapshot().ended == "all rounds are done"


@pytest.mark.parametrize("moment", ["cohort", "pushed", "pulled", "noted"])
def test_a_coordinator_that_dies_goes_on_where_it_was(tmp_path, keys, moment):
    """What was done by then is found done or done again; no update counts twice, and none is lost."""
    with contextlib.ExitStack() as life, contextlib.ExitStack() as stack:
        host = life.enter_context(hosted(tmp_path / "store", keys))
        stack.enter_context(null_devices(host))
        with opened(tmp_path / "run") as journal:
            fabric, journal.note_round = dying(service_fabric(host, MODEL), journal, moment)
            with pytest.raises(Stopped):
                coordinate(SETTINGS, MODEL, fabric, journal, watched(journal), time.time)
        life.close()
        with (
            hosted(tmp_path / "store", keys, port=host.port) as again,
            opened(tmp_path / "run") as journal,
        ):
            fabric = service_fabric(again, MODEL)
            coordinate(SETTINGS, MODEL, fabric, journal, watched(journal), time.time)
            require_same(read_arrays(journal.model(4)), expected(SETTINGS))
            assert [e.number for e in journal.entries()] == [0, 1, 2, 3, 4]


def dying(fabric, journal, moment):
    """The fabric and the journal of a process that ends in round 2, at the moment named."""
    real, counts = fabric.grid, {"push": 0}
    note = journal.note_round

    class Dying:
        def __getattr__(self, name):
            return getattr(real, name)

        def push_messages(self, messages):
            counts["push"] += 1
            if counts["push"] == 2 and moment == "cohort":
                raise Stopped
            ids = real.push_messages(messages)
            if counts["push"] == 2 and moment == "pushed":
                raise Stopped
            return ids

        def pull_messages(self, ids):
            replies = real.pull_messages(ids)
            if counts["push"] == 2 and moment == "pulled" and replies:
                raise Stopped
            return replies

    def note_round(done, progress):
        note(done, progress)
        if done.number == 2 and moment == "noted":
            raise Stopped

    return replace(fabric, grid=Dying()), note_round


def test_devices_of_the_service_and_nodes_of_a_superlink_in_one_round(tmp_path, keys):
    flower = FunctionGrid(
        {n: lambda a, n=n: (null_update(a, n, 1), null_metrics(n)) for n in (1, 2)}
    )
    with (
        hosted(tmp_path / "store", keys) as host,
        opened(tmp_path / "run") as journal,
        null_devices(host, 1) as devices,
    ):
        both = joined(
            service_fabric(host, MODEL), flower_fabric(flower, time.time, time.sleep), 0.05
        )
        rules = Rules(cohort=3, patience_s=30)
        settings = replace(SETTINGS, strategy="fedavg", rules=rules, rounds=1)
        arrays = coordinate(settings, MODEL, both, journal, watched(journal), time.time)
        record = journal.entries()[-1].record
    assert set(record["cohort"]) == {1, 2, devices[0].device_id}
    require_same(arrays, expected(settings))


def test_another_run_in_the_same_folder_is_refused(tmp_path):
    grid = FunctionGrid({0: lambda a: (null_update(a, 0, 1), null_metrics(0))})
    fabric = flower_fabric(grid, time.time, time.sleep)
    fabric = replace(fabric, wait=grid.wait)
    settings = replace(SETTINGS, rules=Rules(), rounds=1)
    with opened(tmp_path) as journal:
        coordinate(settings, MODEL, fabric, journal, watched(journal), grid.now_s)
        more = replace(settings, rounds=2)
        coordinate(more, MODEL, fabric, journal, watched(journal), grid.now_s)
        assert journal.entries()[-1].number == 2
        other = replace(more, strategy="fedavg")
        with pytest.raises(BadInput, match="strategy was 'fedadam' and is 'fedavg'"):
            coordinate(other, MODEL, fabric, journal, watched(journal), grid.now_s)
