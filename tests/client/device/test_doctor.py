from __future__ import annotations

import stat
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from client.device.doctor import LEAST_FREE_BYTES, Subject, examine
from client.device.facts import Power, Reading, Sources
from client.device.identity import Credentials, Identity, write_identity
from client.device.policy import Policy
from client.device.vault import Vault
from client.outbox import EGRESS, METRICS
from protos.trust import Role
from server.identity import issue_new
from simulations.cli import app
from tests.server.service.peers import enrolled

NOW_S = datetime(2026, 6, 1, tzinfo=UTC).timestamp()


def sources(**change) -> Sources:
    known = {
        "power": lambda: Reading(value=Power(charging=True, battery=0.5), source="test"),
        "idle": lambda _: Reading(value=True, source="test"),
        "unmetered": lambda: Reading(value=True, source="test"),
        "free_ram": lambda: Reading(value=2**31, source="test"),
        "now": lambda: datetime(2026, 6, 1, 12, tzinfo=UTC),
    }
    return Sources(**(known | change))


def findings(folder: Path, *, torch: bool = False, **change):
    """What is found, by name; importing torch, which comes last, takes seconds."""
    given = {
        "folder": folder,
        "address": None,
        "policy": Policy(),
        "sources": sources(),
        "now_s": lambda: NOW_S,
    }
    found = {}
    for finding in examine(Subject(**(given | change))):
        found[finding.what] = finding
        if finding.what == "policy" and not torch:
            break
    return found


def identify(folder: Path, keys, device_id: int, now_s: float, valid_s: float) -> None:
    """An identity in a device's folder, as enrolment puts it there."""
    mine = issue_new(keys.authority, Role.DEVICE, str(device_id), now_s=now_s, valid_s=valid_s)
    credentials = Credentials(
        authority_pem=keys.authority.certificate_pem.decode(),
        certificate_pem=mine.certificate_pem.decode(),
        key_pem=mine.key_pem.decode(),
    )
    write_identity(Vault(folder), Identity(device_id=device_id, credentials=credentials))


def test_a_machine_that_can_take_part(tmp_path):
    found = findings(tmp_path / "new", torch=True)
    assert all(finding.good for finding in found.values())
    assert [w for w, f in found.items() if f.warning] == ["certificate"]
    assert found["torch"].text.startswith("2.")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("RAM", {"sources": sources(free_ram=lambda: Reading(value=10**8, source="test"))}),
        ("clock", {"now_s": lambda: 1000.0}),
        (
            "charging",
            {
                "sources": sources(power=lambda: Reading(value=None, source="test")),
                "policy": Policy(charging=True),
            },
        ),
        (
            "idle",
            {
                "sources": sources(idle=lambda _: Reading(value=None, source="test")),
                "policy": Policy(idle=True),
            },
        ),
    ],
)
def test_what_is_in_the_way_is_a_fault(tmp_path, what, change):
    found = findings(tmp_path, **change)
    assert [w for w, f in found.items() if not f.good] == [what]


def test_a_wish_that_is_not_met_now_is_no_fault(tmp_path):
    found = findings(tmp_path, policy=Policy(least_battery=0.9))
    assert all(finding.good for finding in found.values())
    assert found["policy"].warning
    assert "battery-low" in found["policy"].text


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    assert not findings(tmp_path / "file")["page store"].good
    monkeypatch.setattr(
        "client.device.doctor.shutil.disk_usage",
        lambda _: type("Usage", (), {"free": LEAST_FREE_BYTES - 1}),
    )
    assert findings(tmp_path)["page store"].warning


def test_certificates_run_out(tmp_path, keys):
    for days, good, warning in ((365, True, False), (10, True, True), (-1, False, True)):
        folder = tmp_path / str(days)
        identify(folder, keys, 7, NOW_S + (days - 365) * 86_400, 365 * 86_400)
        found = findings(folder)["certificate"]
        assert (found.good, found.warning) == (good, warning)
        assert "device 7" in found.text


def test_a_folder_of_somebody_else_is_a_fault(tmp_path, keys):
    identify(tmp_path, keys, 7, NOW_S, 86_400)
    (tmp_path / "secret").chmod(stat.S_IRUSR | stat.S_IWUSR | stat.S_IROTH)
    assert "chmod 600" in findings(tmp_path)["certificate"].text


def test_the_coordinator_answers_or_not(tmp_path, host, keys):
    device_id, known = enrolled(host.store, keys)
    folder = tmp_path / "device"
    credentials = Credentials(
        authority_pem=keys.authority.certificate_pem.decode(),
        certificate_pem=known.certificate_pem.decode(),
        key_pem=known.key_pem.decode(),
    )
    write_identity(Vault(folder), Identity(device_id=device_id, credentials=credentials))
    address = f"localhost:{host.port}"
    found = findings(folder, address=address, now_s=time.time)["coordinator"]
    assert found.good, found.text
    host.store.roster.revoke(str(device_id), time.time())
    found = findings(folder, address=address, now_s=time.time)["coordinator"]
    assert not found.good
    assert "revoked" in found.text
    assert not findings(folder, address="localhost:1", now_s=time.time)["coordinator"].good


def test_the_command_ends_with_what_it_found(tmp_path):
    good = CliRunner().invoke(app, ["doctor", "--data", str(tmp_path / "device")])
    assert good.exit_code == 0
    assert "ok      torch" in good.output
    blind = tmp_path / "root"
    blind.mkdir()
    arguments = ["--data", str(tmp_path), "--facts-root", str(blind), "--idle"]
    bad = CliRunner().invoke(app, ["doctor", *arguments])
    assert bad.exit_code == 1
    assert "FAIL    idle" in bad.output


def test_the_owner_can_read_all_that_may_leave():
    shown = CliRunner().invoke(app, ["join", "--show-egress"])
    assert shown.exit_code == 0
    for name in (*METRICS, *EGRESS, *(field for fields in EGRESS.values() for field in fields)):
        assert name in shown.output


@pytest.mark.parametrize(
    "arguments",
    [
        ["join"],
        ["join", "--coordinator", "localhost:1", "--quiet-hours", "late"],
        ["join", "--coordinator", "localhost:1", "--compress", "zip"],
        ["join", "--coordinator", "localhost:1", "--ram", "lots"],
        ["join", "--coordinator", "localhost:1"],
    ],
)
def test_bad_wishes_end_before_anything_begins(tmp_path, arguments, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ended = CliRunner().invoke(app, arguments)
    assert isinstance(ended.exception, Exception)
    assert ended.exception.exit_code == 2
