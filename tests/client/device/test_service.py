"""Connections to the device service: enrolment, renewal, and how what goes wrong is told."""

from __future__ import annotations

import asyncio
import time

import pytest

from client.device.identity import (
    Credentials,
    Identity,
    credentials_of,
    enrolled,
    enrollment,
    own_key,
    read_identity,
)
from client.device.link import Link
from client.device.service import DeviceService, enroll
from client.device.vault import Vault
from protos.device_pb2 import Capabilities, EnrollReply
from protos.trust import Role, read_ticket
from scheduler.errors import ConnectionLost, DamagedState, TurnedAway, Untrusted
from server.identity import issue_new
from tests.client.device.joined import new_ticket
from tests.server.service.peers import hosted, make_keyring


def run(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, 60))


def address(host) -> str:
    return f"localhost:{host.port}"


def joined(host, vault) -> Identity:
    return run(enroll(vault, address(host), new_ticket(host), time.time))


def greet(service: DeviceService) -> None:
    async def greeting():
        async with service.connect() as link:
            await link.report(Capabilities(profile="test"))

    run(greeting())


def test_a_ticket_becomes_an_identity_that_is_kept(host, tmp_path):
    vault = Vault(tmp_path)
    identity = joined(host, vault)
    assert read_identity(Vault(tmp_path)) == identity
    assert [d.id for d in host.store.roster.devices()] == [identity.device_id]
    greet(DeviceService(address(host), identity, vault, time.time))


def test_when_the_answer_to_enrolment_is_lost_the_ticket_works_again(host, tmp_path):
    vault, ticket = Vault(tmp_path), new_ticket(host)

    async def twice():
        first = await enroll(vault, address(host), ticket, time.time)
        vault.remove("identity")  # killed before it was written
        return first, await enroll(vault, address(host), ticket, time.time)

    first, second = run(twice())
    assert first.device_id == second.device_id
    with pytest.raises(TurnedAway, match="used by another device"):
        run(enroll(Vault(tmp_path / "other"), address(host), ticket, time.time))


def test_a_certificate_that_runs_out_is_renewed(host, tmp_path):
    vault = Vault(tmp_path)
    identity = joined(host, vault)
    certificate = identity.credentials.certificate
    start_s = certificate.not_valid_before_utc.timestamp()
    end_s = certificate.not_valid_after_utc.timestamp()
    assert not identity.is_due(start_s + 0.6 * (end_s - start_s))
    late_s = start_s + 0.7 * (end_s - start_s)
    assert identity.is_due(late_s)
    greet(DeviceService(address(host), identity, vault, lambda: late_s))
    renewed = read_identity(vault)
    assert renewed.device_id == identity.device_id
    assert renewed.credentials.certificate.serial_number != certificate.serial_number
    greet(DeviceService(address(host), renewed, vault, time.time))


def test_a_revoked_device_is_told_so(host, tmp_path):
    vault = Vault(tmp_path)
    identity = joined(host, vault)
    host.store.roster.revoke(str(identity.device_id), time.time())
    with pytest.raises(TurnedAway) as caught:
        greet(DeviceService(address(host), identity, vault, time.time))
    assert caught.value.reason == "revoked"


def test_nobody_there_and_somebody_else_there_are_lost_connections(host, tmp_path):
    vault = Vault(tmp_path / "device")
    identity = joined(host, vault)
    with pytest.raises(ConnectionLost):
        greet(DeviceService("localhost:1", identity, vault, time.time))
    foreign = make_keyring(tmp_path / "foreign")
    with hosted(tmp_path / "other", foreign) as other, pytest.raises(ConnectionLost):
        greet(DeviceService(address(other), identity, vault, time.time))


def test_tickets_that_do_not_hold(host, tmp_path):
    ticket = new_ticket(host)
    vault = Vault(tmp_path)
    for text, match in (("fedpoet1.x", "damaged"), ("word", "not a ticket"), (ticket[:-9], ".")):
        with pytest.raises(Untrusted, match=match):
            run(enroll(vault, address(host), text, time.time))
    with pytest.raises(Untrusted, match="expired"):
        run(enroll(vault, address(host), ticket, lambda: time.time() + 1e6))
    assert read_identity(vault) is None


def test_an_answer_that_is_not_for_this_device_is_not_believed(keys, tmp_path):
    now_s = time.time()
    key = own_key(Vault(tmp_path))
    authority = keys.authority.certificate_pem.decode()

    def reply(identity, device_id=7) -> EnrollReply:
        return EnrollReply(device_id=device_id, certificate_chain=identity.certificate_pem)

    other = issue_new(keys.authority, Role.DEVICE, "7", now_s=now_s, valid_s=3600)
    foreign = make_keyring(tmp_path / "foreign").coordinator
    for answer in (reply(other), reply(foreign), EnrollReply(certificate_chain=b"nothing")):
        with pytest.raises(Untrusted):
            enrolled(answer, key, authority, now_s)


def test_an_identity_of_another_version_is_damaged(tmp_path):
    vault = Vault(tmp_path)
    for data in (b"", b"[]", b"{}", b'{"device_id": 1, "credentials": {"a": "b"}}'):
        vault.put("identity", data)
        with pytest.raises(DamagedState, match="ticket"):
            read_identity(vault)


def test_a_certificate_for_enrolment_is_good_for_nothing_else(host, tmp_path):
    ticket = read_ticket(new_ticket(host), time.time())
    credentials: Credentials = credentials_of(ticket)

    async def report():
        async with Link(address(host), credentials) as link:
            await link.hello()
            await link.report(Capabilities(profile="test"))

    with pytest.raises(TurnedAway) as caught:
        run(report())
    assert caught.value.reason == "wrong-role"

    async def steal():
        async with Link(address(host), credentials) as link:
            await link.enroll(enrollment(own_key(Vault(tmp_path)), b"x" * 32))

    with pytest.raises(TurnedAway):
        run(steal())
