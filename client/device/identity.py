"""Who this device is: its key and certificate, and whom it trusts. Made once from a ticket, then renewed."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from protos.device_pb2 import EnrollReply, EnrollRequest, Ticket
from protos.trust import PROTOCOL, Role, enrollment_proof, holder_of, require_valid
from scheduler.errors import DamagedState, Untrusted

from .vault import Vault

RECORD = "identity"
KEY_RECORD = "key"
# A certificate is renewed when less than this share of its time is left.
_RENEW_SHARE = 1 / 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """What TLS needs, in PEM: whom to trust, and with what to show who calls."""

    authority_pem: str
    certificate_pem: str
    key_pem: str

    @property
    def authority(self) -> x509.Certificate:
        """The authority's certificate."""
        return x509.load_pem_x509_certificate(self.authority_pem.encode())

    @property
    def certificate(self) -> x509.Certificate:
        """The own certificate, the first of its chain."""
        return x509.load_pem_x509_certificate(self.certificate_pem.encode())


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """An enrolled device."""

    device_id: int
    credentials: Credentials

    def is_due(self, now_s: float) -> bool:
        """Whether it is time for a newer certificate."""
        certificate = self.credentials.certificate
        start_s = certificate.not_valid_before_utc.timestamp()
        end_s = certificate.not_valid_after_utc.timestamp()
        return end_s - now_s < (end_s - start_s) * _RENEW_SHARE


def read_identity(vault: Vault) -> Identity | None:
    """The device's identity, None before it is enrolled. Raises DamagedState."""
    if (data := vault.get(RECORD)) is None:
        return None
    try:
        fields = json.loads(data)
        return Identity(
            device_id=fields["device_id"], credentials=Credentials(**fields["credentials"])
        )
    except (ValueError, LookupError, TypeError) as error:
        raise DamagedState(
            f"{vault.folder} holds no identity of this version; join with a new ticket in a new folder"
        ) from error


def write_identity(vault: Vault, identity: Identity) -> None:
    """Keep an identity for the next start."""
    vault.put(RECORD, json.dumps(asdict(identity)).encode())


def own_key(vault: Vault) -> ec.EllipticCurvePrivateKey:
    """The device's private key, made when there is none yet.

    It is kept before it is first sent anywhere: should the answer to Enroll be lost, the ticket works
    again for the same key only.
    """
    if (data := vault.get(KEY_RECORD)) is None:
        made = ec.generate_private_key(ec.SECP256R1())
        vault.put(KEY_RECORD, _private_pem(made))
        return made
    key = serialization.load_pem_private_key(data, password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise DamagedState(f"{vault.folder} holds a key that is not on a curve")
    return key


def credentials_of(ticket: Ticket) -> Credentials:
    """What a ticket brings to call Enroll with. Raises Untrusted for certificates that cannot be read."""
    try:
        key = serialization.load_der_private_key(ticket.private_key, password=None)
        return Credentials(
            authority_pem=_pem(x509.load_der_x509_certificate(ticket.authority)),
            certificate_pem=_pem(x509.load_der_x509_certificate(ticket.certificate)),
            key_pem=_private_pem(key).decode(),  # type: ignore[arg-type]
        )
    except (ValueError, TypeError) as error:
        raise Untrusted(f"the ticket is damaged: {error}; copy the whole of it") from error


def enrollment(key: ec.EllipticCurvePrivateKey, secret: bytes = b"") -> EnrollRequest:
    """The request for a certificate: the first one with a ticket's secret, a newer one without."""
    public_key = key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return EnrollRequest(
        secret=secret,
        public_key=public_key,
        proof=enrollment_proof(key, secret, public_key),
        protocol=PROTOCOL,
    )


def enrolled(
    reply: EnrollReply, key: ec.EllipticCurvePrivateKey, authority_pem: str, now_s: float
) -> Identity:
    """The identity in an answer, checked. Raises Untrusted when it is not one of this key and authority."""
    credentials = Credentials(
        authority_pem=authority_pem,
        certificate_pem=reply.certificate_chain.decode("ascii", "replace"),
        key_pem=_private_pem(key).decode(),
    )
    try:
        certificate = credentials.certificate
    except ValueError as error:
        raise Untrusted("the coordinator sent a certificate that cannot be read") from error
    require_valid(certificate, credentials.authority, now_s)
    holder = holder_of(certificate)
    if (
        holder.role is not Role.DEVICE
        or holder.name != str(reply.device_id)
        or certificate.public_key() != key.public_key()
    ):
        raise Untrusted("the coordinator sent a certificate that is not this device's")
    return Identity(device_id=reply.device_id, credentials=credentials)


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
