"""Who gets in: a ticket makes a device, a certificate lets it call, and nothing else does either."""

from __future__ import annotations

import contextlib
import secrets
import socket
import ssl
import threading
import time

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from protos import device_pb2 as pb
from protos import device_pb2_grpc
from protos.trust import PROTOCOL, Role, enrollment_proof, read_ticket, write_ticket
from scheduler.errors import Untrusted
from server.identity import Identity, issue_new, new_key
from server.keyring import make_authority, make_device, make_ticket, write_identity
from server.service.gate import CERTIFICATE, Gate
from server.service.handlers import SERVICE
from server.service.limits import Limits
from server.service.refusals import Reason, Refusal
from server.service.taskbook import State
from tests.server.service.peers import (
    MODEL,
    REPORT,
    Peer,
    channel,
    eventually,
    hosted,
    new_id,
    peer,
    push,
    refused,
    update_blob,
)

HOUR_S = 3600.0


def ticket_for(host, valid_s: float = HOUR_S, label: str = "lamp") -> pb.Ticket:
    ticket = make_ticket(
        host.keys.authority,
        now_s=time.time(),
        valid_s=valid_s,
        random_bytes=secrets.token_bytes,
    )
    host.store.roster.add_ticket(ticket, label, time.time())
    return read_ticket(write_ticket(ticket), time.time())


def enrollment(ticket: pb.Ticket) -> Identity:
    return Identity(
        certificate=x509.load_der_x509_certificate(ticket.certificate),
        key=serialization.load_der_private_key(ticket.private_key, None),
    )


def request(secret: bytes, key: ec.EllipticCurvePrivateKey) -> pb.EnrollRequest:
    public = key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    proof = enrollment_proof(key, secret, public)
    return pb.EnrollRequest(secret=secret, public_key=public, proof=proof, protocol=PROTOCOL)


@contextlib.contextmanager
def stub(host, identity):
    with channel(host.port, host.keys, identity) as found:
        yield device_pb2_grpc.DeviceServiceStub(found)


def test_a_ticket_makes_a_device(host):
    ticket, key = ticket_for(host), new_key()
    with stub(host, enrollment(ticket)) as new:
        assert new.Hello(pb.HelloRequest(protocol=PROTOCOL, client="test")).chunk_bytes == 2**20
        reply = new.Enroll(request(ticket.secret, key))
        again = new.Enroll(request(ticket.secret, key))  # the first answer may have been lost
    assert again.device_id == reply.device_id
    (device,) = host.store.roster.devices()
    assert (device.id, device.label) == (reply.device_id, "lamp")
    chain = x509.load_pem_x509_certificates(again.certificate_chain)
    assert chain[1] == host.keys.authority.certificate
    assert device.serial == f"{chain[0].serial_number:x}"
    identity = Identity(certificate=chain[0], key=key)
    with Peer(reply.device_id, host.keys, host.port, identity) as found:
        found.stub.Report(REPORT)
        newer, fresh = new_key(), None
        fresh = found.stub.Enroll(request(b"", newer))
        assert fresh.device_id == reply.device_id
    renewed = x509.load_pem_x509_certificates(fresh.certificate_chain)[0]
    with stub(host, Identity(certificate=renewed, key=newer)) as found:
        found.Report(REPORT)


def test_a_ticket_is_for_one_device(host):
    ticket = ticket_for(host)
    with stub(host, enrollment(ticket)) as new:
        new.Enroll(request(ticket.secret, new_key()))
        with refused("untrusted"):
            new.Enroll(request(ticket.secret, new_key()))
    assert len(host.store.roster.devices()) == 1


def test_tickets_that_open_nothing(host):
    mine, other, unknown = ticket_for(host), ticket_for(host), None
    unknown = make_ticket(
        host.keys.authority, now_s=time.time(), valid_s=60, random_bytes=secrets.token_bytes
    )
    revoked = ticket_for(host)
    host.store.roster.revoke(enrollment(revoked).certificate.subject.rfc4514_string()[3:35], 0.0)
    for ticket, secret in (
        (mine, other.secret),
        (mine, b""),
        (mine, bytes(32)),
        (unknown, unknown.secret),
        (revoked, revoked.secret),
    ):
        with stub(host, enrollment(ticket)) as new, refused("untrusted"):
            new.Enroll(request(secret, new_key()))
    assert host.store.roster.devices() == []
    with pytest.raises(Untrusted, match="expired"):
        read_ticket(write_ticket(mine), time.time() + 2 * HOUR_S)


def test_the_proof_is_checked(host):
    ticket, key = ticket_for(host), new_key()
    good = request(ticket.secret, key)
    with stub(host, enrollment(ticket)) as new:
        for change in (
            {"proof": request(b"other", key).proof},
            {"public_key": request(b"", new_key()).public_key},
            {"public_key": b"noise"},
            {"public_key": _p384()},
        ):
            bad = pb.EnrollRequest()
            bad.CopyFrom(good)
            for name, value in change.items():
                setattr(bad, name, value)
            with refused("untrusted"):
                new.Enroll(bad)
        bad = pb.EnrollRequest()
        bad.CopyFrom(good)
        bad.protocol = 2
        with refused("protocol"):
            new.Enroll(bad)
        new.Enroll(good)


def _p384() -> bytes:
    return (
        ec.generate_private_key(ec.SECP384R1())
        .public_key()
        .public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    )


def test_a_ticket_opens_nothing_but_the_enrollment(host):
    with stub(host, enrollment(ticket_for(host))) as new:
        for call in (
            lambda: new.Report(REPORT),
            lambda: next(new.Wait(pb.WaitRequest(protocol=PROTOCOL))),
            lambda: next(new.FetchModel(pb.FetchModelRequest(digest=bytes(32)))),
            lambda: new.SendUpdate(iter([pb.UpdatePart()])),
            lambda: new.UpdateOffset(pb.UpdateOffsetRequest()),
            lambda: new.Decline(pb.DeclineRequest()),
            lambda: new.Heartbeat(pb.HeartbeatRequest()),
            lambda: new.Leave(pb.LeaveRequest()),
        ):
            with refused("wrong-role"):
                call()


def test_the_handshake_keeps_strangers_out(host, keys):
    now_s = time.time()
    stranger = make_authority("fedpoet", now_s=now_s, valid_s=HOUR_S)
    expired = issue_new(keys.authority, Role.DEVICE, "1", now_s=now_s - 2 * HOUR_S, valid_s=HOUR_S)
    for identity in (None, make_device(stranger, 1, now_s=now_s), expired):
        with stub(host, identity) as new, pytest.raises(grpc.RpcError) as caught:
            new.Hello(pb.HelloRequest(protocol=PROTOCOL), timeout=10)
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
    assert host.counts.calls == {}


def test_a_coordinator_that_the_device_does_not_know(host, tmp_path):
    with peer(host) as device:
        wrong = make_authority("fedpoet", now_s=time.time(), valid_s=HOUR_S)
        credentials = grpc.ssl_channel_credentials(
            wrong.certificate_pem, device.identity.key_pem, device.identity.certificate_pem
        )
        with grpc.secure_channel(f"localhost:{host.port}", credentials) as found:
            new = device_pb2_grpc.DeviceServiceStub(found)
            with pytest.raises(grpc.RpcError) as caught:
                new.Report(REPORT, timeout=10)
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE


def test_devices_that_are_not_enrolled_here(host, keys):
    unknown = make_device(keys.authority, new_id(), now_s=time.time())
    with stub(host, unknown) as new, refused("unknown-device"):
        new.Report(REPORT)
    for role, name in ((Role.TASKS, "tasks"), (Role.COORDINATOR, "c"), (Role.DEVICE, "me")):
        identity = issue_new(keys.authority, role, name, now_s=time.time(), valid_s=HOUR_S)
        with stub(host, identity) as new, pytest.raises(grpc.RpcError):
            new.Report(REPORT, timeout=10)


def test_a_revoked_device_is_out_at_once(tmp_path, keys):
    limits = Limits(keep_alive_s=0.1)
    with hosted(tmp_path, keys, limits) as host, peer(host, label="lamp") as device:
        task = push(host, device.device_id)
        waiting = device.wait(held=(task.task_id,))
        assert next(waiting).WhichOneof("notice") == "keep_alive"
        assert host.store.roster.revoke("lamp", time.time()) == f"device {device.device_id}"
        with refused("revoked"):
            device.stub.Report(REPORT)
        with refused("revoked"):
            list(waiting)
        eventually("it is gone", lambda: host.presence.there() == {})
        entry = host.store.tasks.find(task.task_id)
        assert (entry.state, entry.reason) == (State.DECLINED, "the device was revoked")


class Clock:
    now_s = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now_s


def test_a_certificate_that_expires_while_the_connection_is_open(host, keys):
    clock = Clock()
    identity = issue_new(keys.authority, Role.ENROLLMENT, "x", now_s=clock.now_s, valid_s=HOUR_S)
    gate = Gate(host.store.roster, keys.authority.certificate, Limits(), clock)
    shown = {CERTIFICATE: [identity.certificate_pem]}
    assert gate.admit(shown, [Role.ENROLLMENT]).name == "x"
    clock.now_s += 2 * HOUR_S
    with pytest.raises(Refusal, match="valid from") as caught:
        gate.admit(shown, [Role.ENROLLMENT])
    assert caught.value.reason is Reason.UNTRUSTED


def test_calls_are_counted_per_device(tmp_path, keys):
    with hosted(tmp_path, keys, Limits(calls=5, calls_per_s=0.01)) as host:
        with peer(host) as greedy, peer(host) as modest:
            for _ in range(4):
                greedy.stub.Heartbeat(pb.HeartbeatRequest())
            with refused("too-many-calls"):
                greedy.stub.Heartbeat(pb.HeartbeatRequest())
            modest.stub.Heartbeat(pb.HeartbeatRequest())
        assert host.counts.refusals == {Reason.TOO_MANY_CALLS: 1}
        assert host.counts.calls["Heartbeat"] == 6


def test_health_and_reflection(host):
    with peer(host) as device:
        health = health_pb2_grpc.HealthStub(device.channel)
        for name in ("", SERVICE):
            reply = health.Check(health_pb2.HealthCheckRequest(service=name))
            assert reply.status == health_pb2.HealthCheckResponse.SERVING
        reflected = reflection_pb2_grpc.ServerReflectionStub(device.channel)
        ask = reflection_pb2.ServerReflectionRequest
        listed, found = reflected.ServerReflectionInfo(
            iter([ask(list_services=""), ask(file_containing_symbol=SERVICE)])
        )
        names = {s.name for s in listed.list_services_response.service}
        assert SERVICE == "fedpoet.v1.DeviceService"
        assert SERVICE in names
        assert found.file_descriptor_response.file_descriptor_proto


def idle_connection(folder, device: Peer) -> ssl.SSLSocket:
    """A connection of a device that has made no call yet."""
    write_identity(folder, "device", device.identity)
    (folder / "authority.pem").write_bytes(device.keys.authority.certificate_pem)
    context = ssl.create_default_context(cafile=folder / "authority.pem")
    context.load_cert_chain(folder / "device.pem", folder / "device.key")
    context.set_alpn_protocols(["h2"])
    plain = socket.create_connection(("localhost", device.port), 30)
    secure = context.wrap_socket(plain, server_hostname="localhost")
    secure.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
    return secure


def test_connections_without_calls_end(tmp_path, keys):
    with hosted(tmp_path / "store", keys, Limits(idle_s=0.3)) as host, peer(host) as device:
        waiting = device.wait()
        with contextlib.ExitStack() as stack:
            many = [stack.enter_context(idle_connection(tmp_path, device)) for _ in range(30)]
            for idle in many:
                while idle.recv(
                    4096
                ):  # until the service closes it; else the socket's timeout fails
                    pass
        push(host, device.device_id)
        device.next_task(waiting)  # the one with a Wait stayed


def calls_that_last(connection: grpc.Channel, ended: threading.Event):
    """Calls of gRPC's own services, which a device could keep open on as many connections as it likes."""
    yield health_pb2_grpc.HealthStub(connection).Watch(health_pb2.HealthCheckRequest())
    reflected = reflection_pb2_grpc.ServerReflectionStub(connection)
    yield reflected.ServerReflectionInfo(one_question(ended))


def one_question(ended: threading.Event):
    yield reflection_pb2.ServerReflectionRequest(list_services="")
    ended.wait()


def test_connections_of_one_device_are_limited_and_others_go_on(tmp_path, keys):
    limits = Limits(connections=3, calls=10_000, calls_per_s=1e6, keep_alive_s=0.05)
    with hosted(tmp_path, keys, limits) as host, peer(host) as greedy, peer(host) as other:
        with contextlib.ExitStack() as stack:
            calls, connections, ended = [], [], threading.Event()
            stack.callback(ended.set)
            for _ in range(4):
                opened = stack.enter_context(channel(host.port, keys, greedy.identity))
                connections.append(opened)
            for opened in connections[:3]:
                calls.append(list(calls_that_last(opened, ended)))
                for call in calls[-1]:
                    next(call)  # it is let in, before the next connection is made
            beyond = device_pb2_grpc.DeviceServiceStub(connections[3])
            waiting = beyond.Wait(pb.WaitRequest(protocol=PROTOCOL))
            for call in (waiting, *calls_that_last(connections[3], ended)):
                with refused("too-many-connections"):
                    next(call)
            for call in calls[0]:  # one connection less: another may take its place
                call.cancel()
            task = push(host, other.device_id)
            assert other.fetch(task) == MODEL
            other.send(task.task_id, update_blob())
            assert host.store.tasks.find(task.task_id).state is State.DONE
            eventually("a free place", lambda: heard(beyond.Heartbeat))
        with Peer(greedy.device_id, keys, host.port, greedy.identity) as later:
            eventually("all places are free", lambda: heard(later.stub.Heartbeat))
        assert host.counts.refusals[Reason.TOO_MANY_CONNECTIONS] >= 3


def heard(heartbeat) -> bool:
    """Whether a call is let in; refusals for the connection alone are waited out."""
    try:
        heartbeat(pb.HeartbeatRequest())
    except grpc.RpcError as error:
        if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
            raise
        return False
    return True


def test_a_revoked_device_asks_for_no_health_either(host):
    with peer(host, label="lamp") as device:
        health = health_pb2_grpc.HealthStub(device.channel)
        with pytest.raises(grpc.RpcError) as caught:
            health.Check(health_pb2.HealthCheckRequest(service="another"))
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        host.store.roster.revoke("lamp", time.time())
        with refused("revoked"):
            health.Check(health_pb2.HealthCheckRequest())
        with refused("revoked"):
            list(health.Watch(health_pb2.HealthCheckRequest()))
