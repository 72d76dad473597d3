"""All bytes between device and coordinator, decrypted: no marked sample, no array of the data's shape."""

from __future__ import annotations

import contextlib
import json
import re
import ssl
from pathlib import Path

import numpy as np
import pytest
import torch

from client.device.identity import Credentials, read_identity
from client.device.vault import Vault
from client.node import Node, Settings
from client.outbox import METRICS
from client.workload import load_workload
from protos.arrays import encode_arrays, forms
from protos.tasks import workload_digest
from server.keyring import Keyring
from server.service.taskbook import State
from tests.client.device.joined import RAM_BYTES, device, eventually, state
from tests.client.device.kept import SEED, model
from tests.e2e.flower_processes import ROOT, RecordingProxy
from tests.e2e.marked import MARK
from tests.e2e.test_flower import windows
from tests.server.service.peers import push

pytestmark = pytest.mark.slow

WORKLOAD = f"{ROOT / 'tests' / 'e2e' / 'marked.py'}:marked"


class DecryptingProxy(RecordingProxy):
    """Stands between both with the keys of both, as only a test can."""

    def __init__(self, to_port: int, keys: Keyring, device: Credentials, folder: Path) -> None:
        self._near = _context(ssl.PROTOCOL_TLS_SERVER, folder, keys.coordinator)
        self._near.load_verify_locations(cadata=device.authority_pem)
        self._near.verify_mode = ssl.CERT_REQUIRED
        self._far = _context(ssl.PROTOCOL_TLS_CLIENT, folder, device)
        self._far.load_verify_locations(cadata=device.authority_pem)
        super().__init__(to_port)

    def _wrapped(self, near, far):
        near = self._near.wrap_socket(near, server_side=True)
        return near, self._far.wrap_socket(far, server_hostname="localhost")


def _context(protocol: int, folder: Path, own) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    for name in ("certificate_pem", "key_pem"):
        pem = getattr(own, name)
        (folder / name).write_bytes(pem if isinstance(pem, bytes) else pem.encode())
    context.load_cert_chain(folder / "certificate_pem", folder / "key_pem")
    context.set_alpn_protocols(["h2"])
    return context


def expected(arrays) -> dict[str, np.ndarray]:
    settings = Settings(
        workload=WORKLOAD,
        seed=SEED,
        local_epochs=1,
        device="phone-pixel-6",
        ram_bytes=RAM_BYTES,
        partition=3,
    )
    torch.set_num_threads(1)
    return Node(settings, {}).train(arrays, 1).arrays


def test_only_the_update_crosses(host, keys, tmp_path):
    arrays = model(WORKLOAD)
    name = load_workload(WORKLOAD).name
    with contextlib.ExitStack() as stack:
        joined = stack.enter_context(device(host, tmp_path / "device", "--workload", WORKLOAD))
        joined.end()
        credentials = read_identity(Vault(joined.state_folder)).credentials
        proxy = DecryptingProxy(host.port, keys, credentials, tmp_path)
        joined.port = stack.enter_context(proxy).port
        eventually("the end", lambda: not host.presence.there())
        joined.start()
        task = push(
            host,
            joined.id,
            encode_arrays(arrays),
            workload=name,
            workload_digest=workload_digest(name, forms(arrays)),
            config={"seed": SEED, "server-round": 1, "local-epochs": 1},
        )
        eventually("the update", lambda: state(host, task) is State.DONE, process=joined.process)
        joined.end()
    sent = b"\n".join(proxy.streams)
    for kind in (np.float32, np.float64, np.float16):
        assert not any(window in sent for window in windows(MARK.astype(kind).tobytes()))
    for text in (str(float(MARK[7])), f"{MARK[7]:.6f}", json.dumps(MARK.tolist())):
        assert text.encode() not in sent
    shapes = {tuple(json.loads(s)) for s in re.findall(rb'"shape":(\[[0-9,]*\])', sent)}
    assert shapes == {value.shape for value in arrays.values()}
    examples = load_workload(WORKLOAD).data(3)
    assert not shapes & {tuple(t.shape) for t in (examples.x, examples.y)}
    # The search finds what does cross: the update, computed here once more, and the metrics' names.
    largest = max(expected(arrays).values(), key=lambda array: array.nbytes)
    found = [window in sent for window in windows(largest.tobytes())]
    assert np.mean(found) > 0.98  # a frame's head lies in the others
    assert all(metric.encode() in sent for metric in METRICS)
