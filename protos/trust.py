"""Whom both sides of the device service trust: roles of certificates, and tickets."""

from __future__ import annotations

import base64
import binascii
import enum
from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from google.protobuf.message import DecodeError

from scheduler.errors import Untrusted

from .device_pb2 import Ticket

PROTOCOL = 1
TICKET_PREFIX = "fedpoet1."
ENROLL_TEXT = b"fedpoet.v1.Enroll\0"
SIGNATURE = ec.ECDSA(hashes.SHA256())


class Role(enum.StrEnum):
    """What a certificate may be used for; its organizational unit."""

    AUTHORITY = "authority"
    COORDINATOR = "coordinator"
    TASKS = "tasks"
    ENROLLMENT = "enrollment"
    DEVICE = "device"


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """Of whom a certificate is; `name` is its common name."""

    role: Role
    name: str


def read_certificate(der: bytes) -> x509.Certificate:
    """A certificate, which still has to be checked. Raises Untrusted when it cannot be read."""
    try:
        certificate = x509.load_der_x509_certificate(der)
        certificate.public_key()  # the library reads some parts only when they are asked for
    except Exception as error:  # and raises kinds of its own beside ValueError
        raise Untrusted("a certificate that cannot be read") from error
    return certificate


def holder_of(certificate: x509.Certificate) -> Holder:
    """Role and name in a certificate, which still has to be checked. Raises Untrusted if it has none."""
    try:
        role = Role(_only(certificate, NameOID.ORGANIZATIONAL_UNIT_NAME))
        return Holder(role=role, name=_only(certificate, NameOID.COMMON_NAME))
    except Exception as error:  # as above
        raise Untrusted(f"a certificate that fedpoet did not make: {error}") from error


def require_valid(certificate: x509.Certificate, authority: x509.Certificate, now_s: float) -> None:
    """Raise Untrusted unless the authority issued the certificate and it is valid at `now_s` (UTC)."""
    try:
        certificate.verify_directly_issued_by(authority)
    except Exception as error:  # as above
        raise Untrusted("a certificate of another authority; enroll with a new ticket") from error
    now = datetime.fromtimestamp(now_s, UTC)
    if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
        raise Untrusted(
            f"a certificate that is valid from {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} to "
            f"{certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC, and it is {now:%Y-%m-%d %H:%M}; "
            "check the clock, or enroll with a new ticket"
        )


def require_signature(certificate: x509.Certificate, signature: bytes, signed: bytes) -> None:
    """Raise Untrusted unless the certificate's key signed these bytes."""
    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise Untrusted("a certificate whose key is not on an elliptic curve")
    _verify(key, signature, signed)


def enrollment_proof(key: ec.EllipticCurvePrivateKey, secret: bytes, public_key: bytes) -> bytes:
    """What shows in EnrollRequest that the device has the private key. `public_key` is DER."""
    return key.sign(ENROLL_TEXT + secret + public_key, SIGNATURE)


def require_proof(
    public_key: ec.EllipticCurvePublicKey, proof: bytes, secret: bytes, as_sent: bytes
) -> None:
    """Raise Untrusted unless `enrollment_proof` made the proof. `as_sent` is the public key's DER."""
    _verify(public_key, proof, ENROLL_TEXT + secret + as_sent)


def write_ticket(ticket: Ticket) -> str:
    """The ticket as one word."""
    data = base64.urlsafe_b64encode(ticket.SerializeToString()).decode()
    return TICKET_PREFIX + data.rstrip("=")


def read_ticket(text: str, now_s: float) -> Ticket:
    """The ticket that `write_ticket` wrote. Raises Untrusted for another text, and when it has expired."""
    word = "".join(text.split())
    if not word.startswith(TICKET_PREFIX):
        raise Untrusted(f"not a ticket: it does not begin with {TICKET_PREFIX}")
    body = word.removeprefix(TICKET_PREFIX)
    try:
        data = base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True)
        ticket = Ticket.FromString(data)
    except (binascii.Error, ValueError, DecodeError) as error:
        raise Untrusted("the ticket is damaged; copy the whole of it") from error
    if ticket.protocol != PROTOCOL:
        raise Untrusted(
            f"the ticket is for protocol {ticket.protocol}, this is {PROTOCOL}; update fedpoet"
        )
    if now_s > ticket.expires_at_s:
        raise Untrusted("the ticket has expired; ask for a new one")
    return ticket


def _verify(key: ec.EllipticCurvePublicKey, signature: bytes, signed: bytes) -> None:
    try:
        key.verify(signature, signed, SIGNATURE)
    except InvalidSignature as error:
        raise Untrusted("a signature that does not hold") from error


def _only(certificate: x509.Certificate, oid: x509.ObjectIdentifier) -> str:
    values = [str(a.value) for a in certificate.subject.get_attributes_for_oid(oid)]
    if len(values) != 1:
        raise ValueError(f"it has {len(values)} entries for {oid.dotted_string}, not 1")
    return values[0]
