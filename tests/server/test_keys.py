"""fedpoet keys: what it writes, and what it refuses to overwrite or to read."""

from __future__ import annotations

import stat
import time

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import ExtendedKeyUsageOID
from typer.testing import CliRunner

from protos.trust import Role, holder_of, read_ticket, require_valid
from scheduler.errors import BadFile, BadInput, Untrusted
from server.identity import DAY_S, issue_new, make_authority
from server.keyring import (
    AUTHORITY,
    make_coordinator,
    make_keys,
    read_identity,
    read_keys,
    read_passphrase,
)
from server.service.database import open_database
from server.service.roster import Roster
from server.service.store import open_store
from simulations.cli import app

NOW_S = 1_800_000_000.0


def keys(*args: object) -> str:
    done = CliRunner().invoke(app, ["keys", *map(str, args)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_from_nothing_to_devices_and_back(tmp_path):
    data = tmp_path / "coordinator"
    keys("init", "--data", data, "--host", "hub.local", "--host", "10.0.0.1")
    ring = read_keys(data / "keys")
    ring.require_valid(time.time())
    words = keys("ticket", "--data", data, "--label", "lamp", "--count", 3).split()
    tickets = [read_ticket(word, time.time()) for word in words]
    assert len({t.secret for t in tickets}) == 3
    for ticket in tickets:
        enrollment = x509.load_der_x509_certificate(ticket.certificate)
        require_valid(enrollment, ring.authority.certificate, time.time())
        assert holder_of(enrollment).role is Role.ENROLLMENT
    keys("device", "--data", data, "--label", "hall", "--out", tmp_path / "hall")
    device = read_identity(tmp_path / "hall", "device")
    roster = Roster(open_database(data))
    (known,) = roster.devices()
    assert holder_of(device.certificate).name == str(known.id)
    assert (known.label, known.revoked_at_s) == ("hall", None)
    assert f"device {known.id}" in keys("revoke", "hall", "--data", data)
    (note, *_) = roster.tickets()
    assert note.name in keys("revoke", note.name, "--data", data)
    assert roster.find(known.id).revoked_at_s is not None
    listed = keys("list", "--data", data)
    assert str(known.id) in listed
    assert note.name in listed


def test_private_files_are_private_and_never_overwritten(tmp_path):
    make_keys(tmp_path / "k", now_s=NOW_S)
    make_coordinator(tmp_path / "k", ["localhost"], now_s=NOW_S)
    assert stat.S_IMODE((tmp_path / "k").stat().st_mode) == 0o700
    for path in (tmp_path / "k").glob("*.key"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    before = {p: p.read_bytes() for p in (tmp_path / "k").iterdir()}
    with pytest.raises(BadInput, match="another folder"):
        make_keys(tmp_path / "k", now_s=NOW_S)
    assert {p: p.read_bytes() for p in (tmp_path / "k").iterdir()} == before


def test_a_new_coordinator_certificate_keeps_the_authority(tmp_path):
    authority = make_keys(tmp_path, now_s=NOW_S)
    make_coordinator(tmp_path, ["a"], now_s=NOW_S)
    make_coordinator(tmp_path, ["b", "::1"], now_s=NOW_S + DAY_S)
    ring = read_keys(tmp_path)
    assert ring.authority.certificate == authority.certificate
    names = ring.coordinator.certificate.extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    ).value
    assert names.get_values_for_type(x509.DNSName) == ["b"]
    assert [str(a) for a in names.get_values_for_type(x509.IPAddress)] == ["::1"]
    ring.require_valid(NOW_S + DAY_S)
    with pytest.raises(Untrusted, match="valid from"):
        ring.require_valid(NOW_S + 1000 * DAY_S)


def test_certificates_are_good_for_one_thing():
    authority = make_authority("a", now_s=NOW_S, valid_s=DAY_S)
    uses = {}
    for role in (Role.COORDINATOR, Role.TASKS, Role.ENROLLMENT, Role.DEVICE):
        made = issue_new(authority, role, "x", now_s=NOW_S, valid_s=9 * DAY_S)
        extensions = made.certificate.extensions
        (uses[role],) = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        assert not extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        # No longer than the authority's own.
        ends = made.certificate.not_valid_after_utc
        assert ends == authority.certificate.not_valid_after_utc
    assert uses[Role.COORDINATOR] == ExtendedKeyUsageOID.SERVER_AUTH
    assert uses[Role.DEVICE] == uses[Role.ENROLLMENT] == ExtendedKeyUsageOID.CLIENT_AUTH
    assert uses[Role.TASKS] == ExtendedKeyUsageOID.CODE_SIGNING
    with pytest.raises(Untrusted, match="expired"):
        issue_new(authority, Role.DEVICE, "x", now_s=NOW_S + 2 * DAY_S, valid_s=DAY_S)


def test_keys_that_cannot_be_read(tmp_path):
    with pytest.raises(BadFile, match="fedpoet keys init"):
        read_keys(tmp_path)
    make_keys(tmp_path, now_s=NOW_S)
    with pytest.raises(BadFile, match="fedpoet keys coordinator"):
        read_keys(tmp_path)
    with pytest.raises(BadInput, match="--host"):
        make_coordinator(tmp_path, [], now_s=NOW_S)
    (tmp_path / "tasks.key").replace(tmp_path / "authority.key")
    with pytest.raises(BadFile, match="is not the key of"):
        read_identity(tmp_path, AUTHORITY)
    (tmp_path / "authority.key").write_text("noise")
    with pytest.raises(BadFile, match="damaged"):
        read_identity(tmp_path, AUTHORITY)


def test_an_authority_behind_a_passphrase(tmp_path):
    file, other, data = tmp_path / "passphrase", tmp_path / "other", tmp_path / "data"
    file.write_text("correct horse\nwhat comes after the first line does not count\n")
    other.write_bytes(b"battery staple\r\n")
    locked = ("--passphrase-file", file)
    keys("init", "--data", data, "--host", "a", *locked)
    with pytest.raises(TypeError):
        serialization.load_pem_private_key((data / "keys" / "authority.key").read_bytes(), None)
    for command in (
        ("ticket",),
        ("device", "--out", tmp_path / "device"),
        ("coordinator", "--host", "b"),
    ):
        before = {p: p.read_bytes() for p in (data / "keys").iterdir()}
        with pytest.raises(BadFile, match=r"is encrypted.*--passphrase-file"):
            keys(*command, "--data", data)
        with pytest.raises(BadFile, match="the passphrase is another"):
            keys(*command, "--data", data, "--passphrase-file", other)
        assert {p: p.read_bytes() for p in (data / "keys").iterdir()} == before
        assert keys(*command, "--data", data, *locked)
    assert read_keys(data / "keys", read_passphrase(file)).authority
    with pytest.raises(BadFile, match="is encrypted"):
        read_keys(data / "keys")
    keys("init", "--data", tmp_path / "open")
    with pytest.raises(BadFile, match="is open"):
        keys("ticket", "--data", tmp_path / "open", *locked)


@pytest.mark.parametrize("content", [b"", b"\n", b"\r\nlater", b"x" * 1024])
def test_what_is_no_passphrase(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(BadInput, match="1 to 1023"):
        keys("init", "--data", tmp_path / "data", "--passphrase-file", tmp_path / "file")
    assert not (tmp_path / "data").exists()
    with pytest.raises(BadFile):
        read_passphrase(tmp_path / "nowhere")
    (tmp_path / "file").write_bytes(b"x" * 1023)
    passphrase = read_passphrase(tmp_path / "file")
    made = make_keys(tmp_path / "data", now_s=NOW_S, passphrase=passphrase)
    assert read_identity(tmp_path / "data", AUTHORITY, passphrase).key_pem == made.key_pem


@pytest.mark.parametrize(
    "text", ["", "fedpoet1.", "fedpoet1.!!", "fedpoet1.AAAA", "fedpoet2.CAE", "x" * 1000]
)
def test_what_is_no_ticket(text):
    with pytest.raises(Untrusted, match="ticket"):
        read_ticket(text, NOW_S)


def test_nobody_is_revoked_by_mistake(tmp_path):
    keys("init", "--data", tmp_path, "--host", "h")
    for name in ("one", "two"):
        keys("device", "--data", tmp_path, "--label", "lamp", "--out", tmp_path / name)
    roster = Roster(open_database(tmp_path))
    with pytest.raises(BadInput, match="2 devices are called 'lamp'"):
        roster.revoke("lamp", NOW_S)
    with pytest.raises(BadInput, match="no device and no ticket 'x'"):
        roster.revoke("x", NOW_S)
    assert [d.revoked_at_s for d in roster.devices()] == [None, None]


def test_a_store_of_another_version_is_left_alone(tmp_path):
    engine = open_database(tmp_path)
    with engine.begin() as db:
        db.exec_driver_sql("PRAGMA user_version=9")
    engine.dispose()
    with pytest.raises(BadFile, match="version 9"):
        open_database(tmp_path)
    (tmp_path / "noise").mkdir()
    (tmp_path / "noise" / "service.sqlite").write_bytes(b"no database " * 100)
    with pytest.raises(BadFile, match="cannot be used"):
        open_database(tmp_path / "noise")


def test_the_store_is_its_owners(tmp_path):
    store = open_store(tmp_path)
    store.close()
    assert stat.S_IMODE((tmp_path / "service.sqlite").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "blobs").stat().st_mode) == 0o700
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(BadFile, match="cannot keep a store"):
            open_store(folder)
