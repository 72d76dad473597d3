"""The coordinator's folder of keys, and the tickets it gives to new devices."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from protos.device_pb2 import Ticket
from protos.trust import PROTOCOL, Role, holder_of, require_valid
from scheduler.errors import BadFile, BadInput
from scheduler.files import read_bytes

from .identity import DAY_S, Identity, issue_new, make_authority

AUTHORITY, COORDINATOR, TASKS = "authority", "coordinator", "tasks"
AUTHORITY_S = 10 * 365 * DAY_S
COORDINATOR_S = 2 * 365 * DAY_S
DEVICE_S = 365 * DAY_S
SECRET_BYTES = 32
PASSPHRASE_BYTES = 1023  # what OpenSSL takes


@dataclass(frozen=True, slots=True, kw_only=True)
class Keyring:
    """Who a coordinator is: the authority, its own server certificate, and the one that signs tasks."""

    authority: Identity
    coordinator: Identity
    tasks: Identity

    def require_valid(self, now_s: float) -> None:
        """Raise Untrusted when one of the certificates has expired or is of another authority."""
        for identity in (self.coordinator, self.tasks):
            require_valid(identity.certificate, self.authority.certificate, now_s)


def make_keys(folder: Path, *, now_s: float, passphrase: bytes | None = None) -> Identity:
    """A new authority, its key encrypted where there is a passphrase, and a key for signing tasks.

    Raises BadInput where there is an authority already.
    """
    if (folder / f"{AUTHORITY}.pem").exists():
        raise BadInput(
            f"{folder} has an authority; its devices would not know another. Choose another folder"
        )
    authority = make_authority("fedpoet", now_s=now_s, valid_s=AUTHORITY_S)
    tasks = issue_new(authority, Role.TASKS, "tasks", now_s=now_s, valid_s=COORDINATOR_S)
    write_identity(folder, TASKS, tasks)
    write_identity(folder, AUTHORITY, authority, passphrase)  # last: with it the folder is complete
    return authority


def make_coordinator(
    folder: Path, hosts: Sequence[str], *, now_s: float, passphrase: bytes | None = None
) -> Identity:
    """A certificate for the server under these names and addresses, and a fresh one for tasks."""
    if not hosts:
        raise BadInput("name the host under which devices reach the coordinator: --host NAME")
    authority = read_identity(folder, AUTHORITY, passphrase)
    coordinator = issue_new(
        authority, Role.COORDINATOR, hosts[0], now_s=now_s, valid_s=COORDINATOR_S, hosts=hosts
    )
    write_identity(
        folder,
        TASKS,
        issue_new(authority, Role.TASKS, "tasks", now_s=now_s, valid_s=COORDINATOR_S),
    )
    write_identity(folder, COORDINATOR, coordinator)
    return coordinator


def read_keys(folder: Path, passphrase: bytes | None = None) -> Keyring:
    """The keys of a folder. Raises BadFile, with what to do, when one is missing, damaged or locked."""
    return Keyring(
        authority=read_identity(folder, AUTHORITY, passphrase),
        coordinator=read_identity(folder, COORDINATOR),
        tasks=read_identity(folder, TASKS),
    )


def make_ticket(
    authority: Identity, *, now_s: float, valid_s: float, random_bytes: Callable[[int], bytes]
) -> Ticket:
    """A ticket to enroll one device, until it expires; the store has to be told of it."""
    secret = random_bytes(SECRET_BYTES)
    enrollment = issue_new(
        authority, Role.ENROLLMENT, ticket_name(secret), now_s=now_s, valid_s=valid_s
    )
    return Ticket(
        protocol=PROTOCOL,
        authority=authority.certificate.public_bytes(serialization.Encoding.DER),
        certificate=enrollment.certificate.public_bytes(serialization.Encoding.DER),
        private_key=enrollment.key.private_bytes(
            serialization.Encoding.DER,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
        secret=secret,
        expires_at_s=now_s + valid_s,
    )


def make_device(authority: Identity, device_id: int, *, now_s: float) -> Identity:
    """A key and certificate for a device, made here; the store has to be told of it."""
    return issue_new(authority, Role.DEVICE, str(device_id), now_s=now_s, valid_s=DEVICE_S)


def ticket_name(secret: bytes) -> str:
    """The name of a ticket and of its certificate, from which the secret cannot be told."""
    return hashlib.sha256(secret).hexdigest()[:32]


def read_passphrase(path: Path | None) -> bytes | None:
    """The first line of a file, None without one. Raises BadFile, and BadInput when it is no passphrase."""
    if path is None:
        return None
    passphrase = read_bytes(path).partition(b"\n")[0].rstrip(b"\r")
    if not 0 < len(passphrase) <= PASSPHRASE_BYTES:
        raise BadInput(
            f"the first line of {path} has {len(passphrase)} bytes; "
            f"a passphrase has 1 to {PASSPHRASE_BYTES}"
        )
    return passphrase


def write_identity(
    folder: Path, name: str, identity: Identity, passphrase: bytes | None = None
) -> None:
    """NAME.pem and NAME.key in a folder that only its owner can read; each is written whole."""
    key = identity.key_pem if passphrase is None else identity.encrypted_key_pem(passphrase)
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        _write(folder / f"{name}.key", key, 0o600)
        _write(folder / f"{name}.pem", identity.certificate_pem, 0o644)
    except OSError as error:
        raise BadFile(f"cannot write keys to {folder}: {error.strerror}") from error


def read_identity(folder: Path, name: str, passphrase: bytes | None = None) -> Identity:
    """What `write_identity` wrote. Raises BadFile when it is missing, damaged, locked, or not one pair."""
    path = folder / f"{name}.key"
    if not path.exists():
        command = "init" if name == AUTHORITY else "coordinator"
        raise BadFile(f"no {path}; make it with: fedpoet keys {command}")
    try:
        key = serialization.load_pem_private_key(read_bytes(path), password=passphrase)
        certificate = x509.load_pem_x509_certificate(read_bytes(folder / f"{name}.pem"))
    except TypeError as error:
        locked = "encrypted: name the file that has its" if passphrase is None else "open: give no"
        raise BadFile(f"{path} is {locked} passphrase (--passphrase-file)") from error
    except ValueError as error:
        wrong = "" if passphrase is None else ", or the passphrase is another"
        raise BadFile(f"{path} or its certificate is damaged{wrong}: {error}") from error
    if (
        not isinstance(key, ec.EllipticCurvePrivateKey)
        or certificate.public_key() != key.public_key()
    ):
        raise BadFile(f"{path} is not the key of {name}.pem beside it")
    holder_of(certificate)
    return Identity(certificate=certificate, key=key)


def _write(path: Path, data: bytes, mode: int) -> None:
    draft = path.with_name(f".{path.name}.draft")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
