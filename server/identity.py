"""Certificates: the authority, and what it issues to coordinators, devices and whoever wants to enroll.

All keys are on P-256. A certificate says by its role what it is good for, so that none can be used for
another's work: a device's certificate is no server's, and signs no tasks.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from protos.trust import Role
from scheduler.errors import Untrusted

EARLIER = timedelta(minutes=10)  # clocks of devices are not exact
DAY_S = 86_400.0

_USES = {
    Role.COORDINATOR: ExtendedKeyUsageOID.SERVER_AUTH,
    Role.TASKS: ExtendedKeyUsageOID.CODE_SIGNING,
    Role.ENROLLMENT: ExtendedKeyUsageOID.CLIENT_AUTH,
    Role.DEVICE: ExtendedKeyUsageOID.CLIENT_AUTH,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """A certificate and its private key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def certificate_pem(self) -> bytes:
        """The certificate as text."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        """The private key as text, PKCS 8, not encrypted."""
        return self.key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )

    def encrypted_key_pem(self, passphrase: bytes) -> bytes:
        """The private key as text, PKCS 8, that opens with a passphrase only."""
        return self.key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(passphrase),
        )

    @property
    def public_key(self) -> bytes:
        """The public key, DER of SubjectPublicKeyInfo."""
        return self.key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )


def new_key() -> ec.EllipticCurvePrivateKey:
    """A private key, drawn by the operating system."""
    return ec.generate_private_key(ec.SECP256R1())


def make_authority(name: str, *, now_s: float, valid_s: float) -> Identity:
    """An authority that certifies itself."""
    key = new_key()
    subject = _subject(Role.AUTHORITY, name)
    certificate = (
        _unsigned(subject, subject, key.public_key(), now_s, valid_s)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(authority=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return Identity(certificate=certificate, key=key)


def issue(
    authority: Identity,
    role: Role,
    name: str,
    public_key: ec.EllipticCurvePublicKey,
    *,
    now_s: float,
    valid_s: float,
    hosts: Sequence[str] = (),
) -> x509.Certificate:
    """A certificate for somebody's public key, at most until the authority's own ends.

    `hosts` are the names and addresses under which a coordinator is reached.
    """
    left_s = authority.certificate.not_valid_after_utc.timestamp() - now_s
    if left_s <= 0:
        raise Untrusted("the authority's certificate has expired; make new keys")
    issuer = authority.certificate.subject
    builder = (
        _unsigned(_subject(role, name), issuer, public_key, now_s, min(valid_s, left_s))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(authority=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([_USES[role]]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()),
            critical=False,
        )
    )
    if hosts:
        names = x509.SubjectAlternativeName([_host(host) for host in hosts])
        builder = builder.add_extension(names, critical=False)
    return builder.sign(authority.key, hashes.SHA256())


def issue_new(
    authority: Identity,
    role: Role,
    name: str,
    *,
    now_s: float,
    valid_s: float,
    hosts: Sequence[str] = (),
) -> Identity:
    """A new key and the certificate for it."""
    key = new_key()
    certificate = issue(
        authority, role, name, key.public_key(), now_s=now_s, valid_s=valid_s, hosts=hosts
    )
    return Identity(certificate=certificate, key=key)


def device_public_key(data: bytes) -> ec.EllipticCurvePublicKey:
    """A public key as a device sends it (DER). Raises Untrusted unless it is one on P-256."""
    try:
        key = serialization.load_der_public_key(data)
    except Exception as error:  # the library raises its own kinds for some damaged keys
        raise Untrusted("not a public key in DER") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise Untrusted("a public key that is not on P-256")
    return key


def _unsigned(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    now_s: float,
    valid_s: float,
) -> x509.CertificateBuilder:
    now = datetime.fromtimestamp(now_s, UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - EARLIER)
        .not_valid_after(now + timedelta(seconds=valid_s))
    )


def _subject(role: Role, name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "fedpoet"),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, role),
            x509.NameAttribute(NameOID.COMMON_NAME, name),
        ]
    )


def _key_usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
