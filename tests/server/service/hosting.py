"""A coordinator's service alone in a process: python -m tests.server.service.hosting FOLDER MODEL_BYTES

Prints its port and the peak of its memory in bytes; that peak again at a line on stdin.
"""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path

from server.identity import Identity
from server.keyring import write_identity
from tests.server.service.peers import enrolled, hosted, make_keyring, push

PIECE = bytes(range(256)) * 4096


def write_model(path: Path, size_bytes: int) -> None:
    with path.open("wb") as file:
        for _ in range(size_bytes // len(PIECE)):
            file.write(PIECE)


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def tell(**what: int) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def main() -> None:
    folder, model_bytes = Path(sys.argv[1]), int(sys.argv[2])
    keys = make_keyring(folder / "keys")
    with hosted(folder / "store", keys) as host:
        device_id, identity = enrolled(host.store, keys)
        write_identity(folder / "device", "device", identity)
        write_identity(
            folder / "device",
            "authority",
            Identity(certificate=keys.authority.certificate, key=identity.key),
        )
        push(host, device_id, lambda path: write_model(path, model_bytes))
        tell(port=host.port, peak=peak_bytes())
        sys.stdin.readline()
        tell(peak=peak_bytes())


if __name__ == "__main__":
    main()
