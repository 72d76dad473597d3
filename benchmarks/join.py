"""A device that waits, and what the framework adds to a round: `python -m benchmarks.join`.

`fedpoet join` runs as its own process against a coordinator in this one, on loopback, with mutual TLS. It
prints the memory that it holds resident while it waits, with the training child warm and without one, and for
each round the seconds from the task to the receipt: all, inside training itself, and the rest, which is the
framework's. Run it with nothing else on the machine.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

from server.service.taskbook import State
from tests.client.device.joined import Device, device, eventually, state, task_for
from tests.client.device.joined import update as update_of
from tests.client.device.kept import model
from tests.server.service.peers import hosted, make_keyring

KEEP_WARM_S = 5.0


def resident_bytes(pid: int) -> int:
    """What a process holds, as the kernel counts it, shared libraries included."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0


def training_s(joined: Device) -> float:
    """Seconds inside Node.train in the last round, from the child's log."""
    found = [line for line in joined.log.splitlines() if " trained in " in line]
    return float(found[-1].rpartition(" trained in ")[2].split()[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--json", action="store_true")
    rounds = parser.parse_args().rounds
    as_json = parser.parse_args().json
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        keys = make_keyring(folder / "keys")
        options = ("--keep-warm", str(KEEP_WARM_S), "--rest", "0.5")
        with hosted(folder / "store", keys) as host, device(host, folder / "d", *options) as joined:
            arrays, total_s, train_s = model(), [], []
            for number in range(rounds + 1):
                began_s = time.monotonic()
                task = task_for(host, joined.id, arrays, number=number + 1)
                eventually(
                    "the update",
                    lambda t=task: state(host, t) is State.DONE,
                    process=joined.process,
                )
                total_s.append(time.monotonic() - began_s)
                train_s.append(training_s(joined))
                arrays = update_of(host, task)
            (child,) = joined.children()
            warm_bytes = resident_bytes(child)
            with_child_bytes = joined.resident_bytes()
            eventually("the child to end", lambda: not joined.children())
            alone_bytes = joined.resident_bytes()
    framework_s = [t - s for t, s in zip(total_s[1:], train_s[1:], strict=True)]
    found = {
        "rounds": rounds,
        "first_round_s": total_s[0],
        "round_s_median": statistics.median(total_s[1:]),
        "training_s_median": statistics.median(train_s[1:]),
        "framework_s_median": statistics.median(framework_s),
        "framework_s_most": max(framework_s),
        "waiting_bytes": alone_bytes,
        "waiting_with_warm_child_bytes": with_child_bytes,
        "warm_child_bytes": warm_bytes,
    }
    if as_json:
        print(json.dumps(found, indent=1))
        return
    for label, value in found.items():
        print(f"{label:32} {value:,}" if isinstance(value, int) else f"{label:32} {value:.3f}")


if __name__ == "__main__":
    main()
