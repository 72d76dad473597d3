"""A coordinator's service alone in a process: python -m tests.server.service.hosting FOLDER MODEL_BYTES TASKS

Prints its port and the peak of its memory in bytes; that peak again at a line on stdin.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

import grpc

from server.identity import Identity
from server.keyring import read_keys, write_identity
from server.service.host import ServiceHost
from tests.server.service.peers import enrolled, hosted, make_keyring, push

ROOT = Path(__file__).parents[3]
PIECE = bytes(range(256)) * 4096


def start(folder: Path, *, model_bytes: int, tasks: int) -> subprocess.Popen:
    """The process, in which `tasks` more tasks are pushed."""
    command = [sys.executable, "-m", __name__, str(folder), str(model_bytes), str(tasks)]
    return subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def channel_of(folder: Path, port: int) -> grpc.Channel:
    """The device's connection to it."""
    names = ("authority.pem", "device.key", "device.pem")
    credentials = grpc.ssl_channel_credentials(
        *((folder / "device" / n).read_bytes() for n in names)
    )
    return grpc.secure_channel(f"localhost:{port}", credentials)


def write_model(path: Path, size_bytes: int) -> None:
    with path.open("wb") as file:
        for _ in range(size_bytes // len(PIECE)):
            file.write(PIECE)


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def tell(**what: int) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def device_of(folder: Path, host: ServiceHost) -> int:
    """The id of the folder's one device, whose key and certificates are in `folder/device`."""
    if known := host.store.roster.devices():
        return known[0].id
    device_id, identity = enrolled(host.store, host.keys)
    authority = Identity(certificate=host.keys.authority.certificate, key=identity.key)
    write_identity(folder / "device", "device", identity)
    write_identity(folder / "device", "authority", authority)
    return device_id


def main() -> None:
    folder, model_bytes, tasks = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    made = (folder / "keys").exists()
    keys = read_keys(folder / "keys") if made else make_keyring(folder / "keys")
    with hosted(folder / "store", keys) as host:
        device_id = device_of(folder, host)
        for _ in range(tasks):
            push(host, device_id, lambda path: write_model(path, model_bytes))
        tell(port=host.port, peak=peak_bytes())
        sys.stdin.readline()
        tell(peak=peak_bytes())


if __name__ == "__main__":
    main()
