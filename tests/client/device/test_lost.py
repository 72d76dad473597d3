"""Networks break, coordinators restart, clients are killed: the update arrives, once and whole."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
import time
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pytest

from protos.arrays import encode_arrays, forms
from protos.tasks import workload_digest
from server.service import handlers
from server.service.taskbook import State
from tests.client.device.joined import device, eventually, state, task_for
from tests.client.device.joined import update as update_of
from tests.client.device.kept import model
from tests.client.device.test_join import done, expected, same
from tests.e2e.flower_processes import free_ports
from tests.server.service.peers import hosted, push

pytestmark = pytest.mark.slow

# Twelve megabytes of parameters that training hardly touches, so that transfers can be cut.
LARGE = """
from dataclasses import replace
import torch
from client.workloads import digits

class Large(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.net = digits.model()
        self.register_buffer("ballast", torch.arange(3_000_000, dtype=torch.float32))

    def forward(self, x):
        return self.net(x)

large = replace(digits.WORKLOAD, name="large", model=Large)
"""


@dataclass
class CuttingProxy:
    """Forwards connections to a port; cuts those that pass `most_bytes` one way, as often as `cuts` says."""

    to_port: int
    most_bytes: int = 2**62
    cuts: Counter[str] = field(default_factory=Counter)

    def __enter__(self) -> CuttingProxy:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._sockets: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.cut_all(self._listener)

    def cut_all(self, *more: socket.socket) -> None:
        for each in (*more, *self._sockets):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(("127.0.0.1", self.to_port))
            except OSError:
                near.close()
                continue
            self._sockets += [near, far]
            for way in (("up", near, far), ("down", far, near)):
                threading.Thread(target=self._pump, args=way, daemon=True).start()

    def _pump(self, way: str, source: socket.socket, target: socket.socket) -> None:
        passed_bytes = 0
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                passed_bytes += len(data)
                if passed_bytes > self.most_bytes and self.cuts[way] > 0:
                    self.cuts[way] -= 1  # one device has one transfer at a time
                    break
                target.sendall(data)
        for each in (source, target):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def begun_at(host, monkeypatch) -> dict[str, list[int]]:
    """The byte that each transfer of a model or an update began at."""
    found: dict[str, list[int]] = {"down": [], "up": []}
    blobs, cut, arrived = type(host.store.blobs), handlers.chunks, host.store.blobs.incoming_bytes

    def noted_chunks(file, *, offset_bytes, chunk_bytes):
        found["down"].append(offset_bytes)
        return cut(file, offset_bytes=offset_bytes, chunk_bytes=chunk_bytes)

    def noted_bytes(_, *update) -> int:
        found["up"].append(arrived(*update))
        return found["up"][-1]

    monkeypatch.setattr(handlers, "chunks", noted_chunks)
    monkeypatch.setattr(blobs, "incoming_bytes", noted_bytes)
    return found


def test_transfers_go_on_where_they_were_cut(host, begun_at, tmp_path):
    """Where that is, depends on how much was on its way; so does how many bytes pass in all."""
    (tmp_path / "own.py").write_text(LARGE)
    arrays = {f"net.{name}": value for name, value in model().items()}
    arrays["ballast"] = np.arange(3_000_000, dtype=np.float32)
    blob = encode_arrays(arrays)
    options = ("--workload", f"{tmp_path / 'own.py'}:large")
    with contextlib.ExitStack() as stack:
        proxy = stack.enter_context(CuttingProxy(host.port))
        joined = stack.enter_context(device(host, tmp_path / "device", *options, port=proxy.port))
        # Of 12 MB each way. What is on its way at a cut may be some, in buffers of gRPC and of the system.
        proxy.cuts.update({"down": 2, "up": 2})
        proxy.most_bytes = 8_000_000
        task = push(
            host,
            joined.id,
            blob,
            workload="large",
            workload_digest=workload_digest("large", forms(arrays)),
            config={"seed": 5, "server-round": 1, "local-epochs": 1},
        )
        assert done(host, task, joined, 120) is State.DONE
        for way, offsets_bytes in begun_at.items():
            assert proxy.cuts[way] < 2
            assert offsets_bytes[0] == 0
            assert max(offsets_bytes) > 0
        trained = update_of(host, task)
        same(
            {n.removeprefix("net."): a for n, a in trained.items() if n != "ballast"},
            expected({n.removeprefix("net."): a for n, a in arrays.items() if n != "ballast"}),
        )
        np.testing.assert_array_equal(trained["ballast"], arrays["ballast"])


def test_a_coordinator_that_restarts_gets_its_update(tmp_path, keys):
    (port,) = free_ports(1)
    arrays = model()
    with contextlib.ExitStack() as stack:
        with hosted(tmp_path / "store", keys, port=port) as host:
            joined = stack.enter_context(device(host, tmp_path / "device", port=port))
            task = task_for(host, joined.id, arrays, **{"local-epochs": 1})
            eventually("the model to arrive", lambda: list(joined.state_folder.glob("model-*")))
        eventually("the update", lambda: list(joined.state_folder.glob("update-*")))
        time.sleep(1)
        with hosted(tmp_path / "store", keys, port=port) as host:
            joined.host = host
            assert done(host, task, joined, 90) is State.DONE
            same(update_of(host, task), expected(arrays))
            second = task_for(host, joined.id, arrays, number=2)
            assert done(host, second, joined) is State.DONE
            joined.end()


@pytest.mark.parametrize("seed", range(2))
def test_a_client_that_is_killed_at_any_moment_goes_on(host, tmp_path, seed):
    generator = random.Random(seed)
    arrays = model()
    with device(host, tmp_path / "device") as joined:
        task = task_for(host, joined.id, arrays)
        for record in ("task-*", "model-*", "update-*", "*"):
            eventually(
                record,
                lambda record=record: (
                    list(joined.state_folder.glob(record)) or state(host, task) is not State.OPEN
                ),
            )
            time.sleep(generator.uniform(0, 0.7))
            joined.kill()
            if state(host, task) is not State.OPEN:
                break
            joined.launch()
        if joined.process.returncode is not None:
            joined.launch()
        assert done(host, task, joined, 90) is State.DONE
        same(update_of(host, task), expected(arrays))
        eventually("all to be tidy", lambda: not list(joined.state_folder.glob("task-*")))
        assert not list(joined.state_folder.glob("blob-*"))
