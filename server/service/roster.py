"""Devices and tickets, as the store keeps them."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from cryptography import x509

from protos.device_pb2 import Capabilities, Ticket
from scheduler.errors import BadInput, Untrusted
from server.keyring import ticket_name

from .database import devices, tickets


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A device that is enrolled. Times are seconds since 1970, UTC."""

    id: int
    label: str
    serial: str
    expires_at_s: float
    enrolled_at_s: float
    seen_at_s: float | None
    revoked_at_s: float | None
    report: Capabilities | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TicketNote:
    """What is known of a ticket that was given out; not its secret."""

    name: str
    label: str
    expires_at_s: float
    device_id: int | None
    revoked_at_s: float | None


class Roster:
    """Who is enrolled, and which tickets are out. Every change is one transaction."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def add_ticket(self, ticket: Ticket, label: str, now_s: float) -> str:
        """Let this ticket be used once; its name."""
        name = ticket_name(ticket.secret)
        with self._engine.begin() as db:
            db.execute(
                tickets.insert().values(
                    name=name,
                    secret_digest=hashlib.sha256(ticket.secret).digest(),
                    label=label,
                    issued_at_s=now_s,
                    expires_at_s=ticket.expires_at_s,
                )
            )
        return name

    def enroll(
        self,
        secret: bytes,
        public_key: bytes,
        *,
        issue: Callable[[int], x509.Certificate],
        new_id: Callable[[], int],
        now_s: float,
    ) -> tuple[int, x509.Certificate]:
        """The id and certificate of the device that uses a ticket.

        A ticket is for one device. The same device, by its public key, may use it again until it
        expires, since the answer may have been lost on its way. Raises Untrusted.
        """
        with self._engine.begin() as db:
            row = db.execute(tickets.select().where(tickets.c.name == ticket_name(secret))).first()
            if row is None or not hmac.compare_digest(
                row.secret_digest, hashlib.sha256(secret).digest()
            ):
                raise Untrusted("a ticket that this coordinator did not give out")
            if now_s > row.expires_at_s or row.revoked_at_s is not None:
                raise Untrusted("the ticket has expired or was revoked; ask for a new one")
            used_by = row.device_id
            if used_by is not None and not self._has_key(db, used_by, public_key):
                raise Untrusted("the ticket was used by another device; ask for a new one")
            device_id = new_id() if used_by is None else used_by
            certificate = issue(device_id)
            if used_by is None:
                # In the same statement as the check, so that of two devices at once only one gets in.
                taken = db.execute(
                    tickets.update()
                    .where(tickets.c.name == row.name, tickets.c.device_id.is_(None))
                    .values(device_id=device_id)
                )
                if taken.rowcount != 1:
                    raise Untrusted("the ticket was used by another device; ask for a new one")
                db.execute(_new_device(device_id, row.label, public_key, certificate, now_s))
            else:
                db.execute(_renewed(device_id, public_key, certificate))
        return device_id, certificate

    def add(
        self, device_id: int, label: str, public_key: bytes, cert: x509.Certificate, now_s: float
    ) -> None:
        """Enroll a device whose certificate was made here."""
        with self._engine.begin() as db:
            db.execute(_new_device(device_id, label, public_key, cert, now_s))

    def renew(self, device_id: int, public_key: bytes, cert: x509.Certificate) -> None:
        """Note a device's newer certificate."""
        with self._engine.begin() as db:
            db.execute(_renewed(device_id, public_key, cert))

    def revoke(self, name: str, now_s: float) -> str:
        """Shut out the device of this id or label, or the ticket of this name; what was shut out.

        Raises BadInput when there is none, or more than one device of that label.
        """
        mine = devices.c.label == name
        if name.isascii() and name.isdigit() and len(name) < 20:
            mine = mine | (devices.c.id == int(name))
        with self._engine.begin() as db:
            found = list(db.execute(sa.select(devices.c.id).where(mine)).scalars())
            if len(found) > 1:
                raise BadInput(f"{len(found)} devices are called {name!r}; give the id of one")
            if found:
                db.execute(
                    devices.update().where(devices.c.id == found[0]).values(revoked_at_s=now_s)
                )
                return f"device {found[0]}"
            revoked = db.execute(
                tickets.update().where(tickets.c.name == name).values(revoked_at_s=now_s)
            )
            if revoked.rowcount:
                return f"ticket {name}"
        raise BadInput(f"no device and no ticket {name!r}; see: fedpoet keys list")

    def find(self, device_id: int) -> Device | None:
        """A device by its id."""
        with self._engine.connect() as db:
            row = db.execute(devices.select().where(devices.c.id == device_id)).first()
        return None if row is None else _device(row)

    def devices(self) -> list[Device]:
        """All devices, in the order in which they enrolled."""
        with self._engine.connect() as db:
            rows = db.execute(devices.select().order_by(devices.c.enrolled_at_s, devices.c.id))
            return [_device(row) for row in rows]

    def tickets(self) -> list[TicketNote]:
        """All tickets, in the order in which they were given out."""
        names = ("name", "label", "expires_at_s", "device_id", "revoked_at_s")
        with self._engine.connect() as db:
            rows = db.execute(tickets.select().order_by(tickets.c.issued_at_s, tickets.c.name))
            return [TicketNote(**{name: getattr(row, name) for name in names}) for row in rows]

    def report(self, device_id: int, report: Capabilities, now_s: float) -> None:
        """Note what a device says of itself."""
        values = {"report": report.SerializeToString(), "seen_at_s": now_s}
        with self._engine.begin() as db:
            db.execute(devices.update().where(devices.c.id == device_id).values(**values))

    def saw(self, device_id: int, now_s: float) -> None:
        """Note that a device was there."""
        with self._engine.begin() as db:
            db.execute(devices.update().where(devices.c.id == device_id).values(seen_at_s=now_s))

    @staticmethod
    def _has_key(db: sa.Connection, device_id: int, public_key: bytes) -> bool:
        row = db.execute(
            sa.select(devices.c.public_key, devices.c.revoked_at_s).where(devices.c.id == device_id)
        ).first()
        return row is not None and row.revoked_at_s is None and row.public_key == public_key


def _new_device(
    device_id: int, label: str, public_key: bytes, certificate: x509.Certificate, now_s: float
) -> sa.Insert:
    return devices.insert().values(
        id=device_id,
        label=label,
        enrolled_at_s=now_s,
        **_certified(public_key, certificate),
    )


def _renewed(device_id: int, public_key: bytes, certificate: x509.Certificate) -> sa.Update:
    return (
        devices.update()
        .where(devices.c.id == device_id)
        .values(**_certified(public_key, certificate))
    )


def _certified(public_key: bytes, certificate: x509.Certificate) -> dict[str, Any]:
    return {
        "public_key": public_key,
        "serial": f"{certificate.serial_number:x}",
        "expires_at_s": certificate.not_valid_after_utc.timestamp(),
    }


def _device(row: sa.Row[Any]) -> Device:
    return Device(
        id=row.id,
        label=row.label,
        serial=row.serial,
        expires_at_s=row.expires_at_s,
        enrolled_at_s=row.enrolled_at_s,
        seen_at_s=row.seen_at_s,
        revoked_at_s=row.revoked_at_s,
        report=None if row.report is None else Capabilities.FromString(row.report),
    )
