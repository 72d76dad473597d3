"""Commands of the coordinator: `fedpoet keys`. Heavy imports are inside the commands."""

from __future__ import annotations

import secrets
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scheduler.errors import BadInput

if TYPE_CHECKING:
    from .identity import Identity
    from .service.roster import Roster

KEYS = "keys"  # in the coordinator's folder
HOUR_S = 3600.0
MOST_TICKETS = 10_000

DataOption = Annotated[Path, typer.Option(help="The coordinator's folder.")]
HostOption = Annotated[
    list[str] | None,
    typer.Option(help="Name or address under which devices reach the coordinator; give all."),
]
PassphraseOption = Annotated[
    Path | None,
    typer.Option(help="File whose first line opens authority.key, where it is encrypted."),
]
DATA = Path("coordinator")


def register(app: typer.Typer) -> None:
    """Add the commands to an app."""
    keys = typer.Typer(
        no_args_is_help=True,
        help="Who may take part: certificates, tickets for new devices, revocation (docs/service.md).",
    )
    for command in (init, coordinator, ticket, device, revoke):
        keys.command()(command)
    keys.command("list")(list_all)
    app.add_typer(keys, name=KEYS)


def init(
    data: DataOption = DATA,
    host: HostOption = None,
    passphrase_file: Annotated[
        Path | None, typer.Option(help="File whose first line authority.key is encrypted with.")
    ] = None,
) -> None:
    """Make an authority, and with --host the coordinator's certificate too."""
    from .keyring import make_coordinator, make_keys, read_passphrase

    folder, passphrase = data / KEYS, read_passphrase(passphrase_file)
    make_keys(folder, now_s=time.time(), passphrase=passphrase)
    if host:
        make_coordinator(folder, host, now_s=time.time(), passphrase=passphrase)
    typer.echo(f"wrote {folder}; whoever has authority.key can let devices in: keep it safe")


def coordinator(
    data: DataOption = DATA, host: HostOption = None, passphrase_file: PassphraseOption = None
) -> None:
    """Make the coordinator's certificates anew: for other hosts, or before they expire."""
    from .keyring import make_coordinator, read_passphrase

    passphrase = read_passphrase(passphrase_file)
    made = make_coordinator(data / KEYS, host or [], now_s=time.time(), passphrase=passphrase)
    until = made.certificate.not_valid_after_utc
    typer.echo(f"wrote {data / KEYS}; valid until {until:%Y-%m-%d}. Restart the coordinator")


def ticket(
    data: DataOption = DATA,
    label: Annotated[str, typer.Option(help="What to call the device.")] = "",
    hours: Annotated[
        float, typer.Option(min=0.01, max=24 * 365, help="How long it can be used.")
    ] = 24.0,
    count: Annotated[int, typer.Option(min=1, max=MOST_TICKETS, help="How many, one a line.")] = 1,
    passphrase_file: PassphraseOption = None,
) -> None:
    """Make tickets: each lets one device enroll, once. Give it to nobody else."""
    from protos.trust import write_ticket

    from .keyring import make_ticket

    authority, roster = _authority(data, passphrase_file), _roster(data)
    for _ in range(count):
        now_s = time.time()
        made = make_ticket(
            authority, now_s=now_s, valid_s=hours * HOUR_S, random_bytes=secrets.token_bytes
        )
        roster.add_ticket(made, label, now_s)
        typer.echo(write_ticket(made))


def device(
    out: Annotated[Path, typer.Option(help="Folder for the device's key and certificates.")],
    data: DataOption = DATA,
    label: Annotated[str, typer.Option(help="What to call the device.")] = "",
    passphrase_file: PassphraseOption = None,
) -> None:
    """Make a device's key and certificate here, for devices that cannot enroll by themselves."""
    from .keyring import make_device, write_identity

    if out.exists() and any(out.iterdir()):
        raise BadInput(f"{out} is not empty; choose another folder")
    authority, now_s = _authority(data, passphrase_file), time.time()
    device_id = new_device_id()
    made = make_device(authority, device_id, now_s=now_s)
    _roster(data).add(device_id, label, made.public_key, made.certificate, now_s)
    write_identity(out, "device", made)
    (out / "authority.pem").write_bytes(authority.certificate_pem)
    typer.echo(f"wrote {out}; device {device_id}. Move it to the device, and keep no copy")


def revoke(
    who: Annotated[str, typer.Argument(help="A device's id or label, or a ticket's name.")],
    data: DataOption = DATA,
) -> None:
    """Shut out a device or a ticket, for good and at once, also from a coordinator that runs."""
    typer.echo(f"revoked {_roster(data).revoke(who, time.time())}")


def list_all(data: DataOption = DATA) -> None:
    """List devices and tickets."""
    from rich.console import Console
    from rich.table import Column, Table

    roster, now_s = _roster(data), time.time()
    table = Table(
        Column("device", no_wrap=True), "label", "enrolled", "seen", "certificate until", "state"
    )
    for found in roster.devices():
        state = _state(found.revoked_at_s, found.expires_at_s, now_s)
        times = (found.enrolled_at_s, found.seen_at_s, found.expires_at_s)
        table.add_row(str(found.id), found.label, *map(_when, times), state)
    tickets = Table(
        Column("ticket", no_wrap=True), "label", "until", Column("state", overflow="fold")
    )
    for note in roster.tickets():
        state = _state(note.revoked_at_s, note.expires_at_s, now_s)
        if note.device_id is not None:
            state = f"used by {note.device_id}"
        tickets.add_row(note.name, note.label, _when(note.expires_at_s), state)
    console = Console()
    console.print(table, tickets)


def new_device_id() -> int:
    """An id that nobody can guess and no other device will have."""
    return secrets.randbelow(2**63 - 1) + 1


def _authority(data: Path, passphrase_file: Path | None) -> Identity:
    from .keyring import AUTHORITY, read_identity, read_passphrase

    return read_identity(data / KEYS, AUTHORITY, read_passphrase(passphrase_file))


def _roster(data: Path) -> Roster:
    from .service.database import open_database
    from .service.roster import Roster

    if not (data / KEYS).is_dir():
        raise BadInput(f"no keys in {data}; make them with: fedpoet keys init --data {data}")
    return Roster(open_database(data))


def _state(revoked_at_s: float | None, expires_at_s: float, now_s: float) -> str:
    if revoked_at_s is not None:
        return f"revoked {_when(revoked_at_s)}"
    return "expired" if now_s > expires_at_s else "valid"


def _when(seconds: float | None) -> str:
    return "never" if seconds is None else time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
