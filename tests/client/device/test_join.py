"""`fedpoet join` against a coordinator on loopback: real processes, real TLS."""

from __future__ import annotations

import signal
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from client.node import Node, Settings
from protos.compression import decode_update
from server.service.taskbook import State
from tests.client.device.joined import RAM_BYTES, device, eventually, new_ticket, state, task_for
from tests.client.device.joined import update as update_of
from tests.client.device.kept import SEED, model

pytestmark = pytest.mark.slow

MOST_WAITING_BYTES = 120_000_000


def expected(arrays, number=1):
    """What the same device makes of these arrays in this process."""
    settings = Settings(
        workload="digits",
        seed=SEED,
        local_epochs=1,
        device="phone-pixel-6",
        ram_bytes=RAM_BYTES,
        partition=3,
    )
    return Node(settings, {}).train(arrays, number).arrays


def same(one, other) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        np.testing.assert_array_equal(value, other[name])


def done(host, task, device=None, within_s=60):
    process = None if device is None else device.process
    eventually("the update", lambda: state(host, task) is not State.OPEN, within_s, process)
    return state(host, task)


def test_a_device_enrols_trains_waits_and_comes_back(host, tmp_path):
    arrays = model()
    with device(host, tmp_path / "device", "--keep-warm", "3") as joined:
        report = host.presence.there()[joined.id]
        assert (report.profile, report.ready) == ("phone-pixel-6", True)
        assert report.ram_budget_bytes == RAM_BYTES
        first = task_for(host, joined.id, arrays)
        assert done(host, first, joined) is State.DONE
        trained = update_of(host, first)
        same(trained, expected(arrays))
        second = task_for(host, joined.id, trained, number=2)
        assert done(host, second, joined) is State.DONE
        same(update_of(host, second), expected(trained, 2))
        eventually("the child to end", lambda: not joined.children())
        assert joined.resident_bytes() < MOST_WAITING_BYTES
        assert joined.end() == 0
        eventually("its end to be seen", lambda: not host.presence.there())
        joined.start()  # without a ticket
        third = task_for(host, joined.id, arrays, number=3)
        assert done(host, third, joined) is State.DONE
        kept = {path.name.split("-")[0] for path in joined.state_folder.glob("*.sealed")}
        assert kept == {"identity.sealed", "key.sealed", "plan", "seen.sealed"}
        assert joined.end(signal.SIGINT) == 0
        assert not host.store.tasks.open_for(joined.id, time.time())


def test_a_machine_without_a_profile_is_measured_once(host, tmp_path):
    with device(host, tmp_path / "device", "--ram", "64MB", owner=()) as joined:
        assert host.presence.there()[joined.id].profile == "measured"
        measured = joined.state_folder / "measured.toml"
        written = measured.stat().st_mtime_ns
        task = task_for(host, joined.id, model())
        assert done(host, task, joined) is State.DONE
        joined.end()
        joined.start()
        assert measured.stat().st_mtime_ns == written


def test_compressed_updates_arrive_and_what_they_lack_comes_later(host, tmp_path):
    arrays = model()
    with device(host, tmp_path / "device", "--compress", "int8") as joined:
        sent = []
        for number in (1, 2):
            task = task_for(host, joined.id, arrays, number=number)
            assert done(host, task, joined) is State.DONE
            data = host.store.blobs.update(task.task_id).read_bytes()
            assert len(data) < 0.3 * task.model.size_bytes
            sent.append(decode_update(data, arrays))
        eventually("all to be tidy", lambda: not list(joined.state_folder.glob("task-*")))
        losses = partial(joined.state_folder.glob, "lost-*")
        eventually("one loss to be left", lambda: len(list(losses())) == 1)
    plain = [expected(arrays, number) for number in (1, 2)]
    for name in arrays:
        first, both = sent[0][name] - plain[0][name], sent[0][name] + sent[1][name]
        missing = both - (plain[0][name] + plain[1][name])
        level = np.abs(plain[1][name] - arrays[name]).max() / 127
        assert np.abs(missing).max() <= 0.6 * level + np.abs(first).max() / 127 + 1e-5


def unplug(root: Path, *, online: bool) -> None:
    """What the kernel tells of a device with a battery."""
    for name, facts in {
        "AC": {"type": "Mains", "online": str(int(online))},
        "BAT0": {
            "type": "Battery",
            "capacity": "80",
            "status": "Charging" if online else "Discharging",
        },
    }.items():
        folder = root / "sys/class/power_supply" / name
        folder.mkdir(parents=True, exist_ok=True)
        for fact, value in facts.items():
            (folder / fact).write_text(f"{value}\n")


def test_training_stops_within_two_seconds_when_it_is_not_allowed_any_more(host, tmp_path):
    root = tmp_path / "root"
    unplug(root, online=True)
    options = ("--charging", "--facts-root", str(root), "--rest", "0.5")
    with device(host, tmp_path / "device", *options) as joined:
        endless = task_for(host, joined.id, model(), **{"local-epochs": 10**8})
        (child,) = eventually("the child", joined.children)
        # Its first task: it plans, then trains.
        eventually("training", lambda: cpu_s(child) > 6)
        unplug(root, online=False)
        began_s = time.monotonic()
        eventually("the end of the child", lambda: not joined.children(), 5)
        assert time.monotonic() - began_s < 2
        assert done(host, endless, joined) is State.DECLINED
        assert "policy" in host.store.tasks.find(endless.task_id).reason
        eventually("the report", lambda: not host.presence.there()[joined.id].ready)
        at_once = task_for(host, joined.id, model(), number=2)
        assert done(host, at_once, joined) is State.DECLINED
        unplug(root, online=True)
        eventually("the next report", lambda: host.presence.there()[joined.id].ready)
        again = task_for(host, joined.id, model(), number=3)
        assert done(host, again, joined) is State.DONE
        same(update_of(host, again), expected(model(), 3))


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def test_a_task_that_is_withdrawn_is_given_up_at_once(host, tmp_path):
    with device(host, tmp_path / "device") as joined:
        endless = task_for(host, joined.id, model(), **{"local-epochs": 10**8})
        eventually("training", joined.children)
        time.sleep(1)
        host.store.tasks.withdraw([endless.task_id], time.time())
        host.tell([joined.id])
        eventually("the end of the child", lambda: not joined.children(), 5)
        after = task_for(host, joined.id, model(), number=2)
        assert done(host, after, joined) is State.DONE


def test_a_device_that_is_revoked_ends_and_says_so(host, tmp_path):
    with device(host, tmp_path / "device") as joined:
        host.store.roster.revoke(str(joined.id), time.time())
        host.tell([joined.id])
        assert joined.process.wait(20) == 16
        assert "revoked" in joined.log.splitlines()[-1]


def test_two_processes_cannot_use_one_folder(host, tmp_path):
    with device(host, tmp_path / "device") as joined:
        first = joined.process
        joined.launch()
        assert joined.process.wait(30) == 14
        assert "another fedpoet join" in joined.log
        joined.process = first


def test_a_ticket_is_needed_once_and_works_once(host, tmp_path):
    ticket = new_ticket(host)
    with device(host, tmp_path / "device") as joined:
        joined.end()
        other = type(joined)(host=host, folder=tmp_path / "other")
        other.launch()
        assert other.process.wait(30) == 2
        assert "--ticket" in other.log
        (tmp_path / "ticket").write_text(ticket + "\n")
        other.start("--ticket", str(tmp_path / "ticket"))
        other.end()
        third = type(joined)(host=host, folder=tmp_path / "third")
        third.launch("--ticket", ticket)
        assert third.process.wait(30) == 16
        assert "ticket" in third.log
