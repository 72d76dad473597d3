"""The commands of a device in the field: join and doctor. Heavy imports are inside the commands."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scheduler.cli import RamOption
from scheduler.errors import BadInput
from scheduler.units import parse_bytes

if TYPE_CHECKING:
    from .policy import Policy

CoordinatorOption = Annotated[
    str | None, typer.Option(help="HOST:PORT of the coordinator; the host is named as in its keys.")
]
DataOption = Annotated[
    Path, typer.Option(help="This device's folder: identity and state, encrypted.")
]
ChargingOption = Annotated[bool, typer.Option("--charging", help="Train only while charging.")]
IdleOption = Annotated[bool, typer.Option("--idle", help="Train only while nobody uses it.")]
UnmeteredOption = Annotated[
    bool, typer.Option("--unmetered", help="Train and send only where bytes cost nothing.")
]
BatteryOption = Annotated[
    int, typer.Option(min=0, max=100, help="Train only with at least this much battery, in %.")
]
QuietOption = Annotated[
    list[str] | None,
    typer.Option(help="Never train in these hours, as 22:00-07:00; can be given again."),
]
RootOption = Annotated[
    Path, typer.Option(help="Where proc/ and sys/ are, to read the facts; a host's in a container.")
]
DATA = Path("device")
WORKLOADS = ("watch", "digits")


def register(app: typer.Typer) -> None:
    """Add the commands to an app."""
    app.command()(join)
    app.command()(doctor)


def join(
    coordinator: CoordinatorOption = None,
    data: DataOption = DATA,
    ticket: Annotated[
        str | None,
        typer.Option(
            envvar="FEDPOET_TICKET",
            help="Needed once: a ticket (fedpoet keys ticket), or a file that has one.",
        ),
    ] = None,
    workload: Annotated[
        list[str] | None,
        typer.Option(help="What may be trained: watch, digits, or your own, path.py:name."),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(help="Device profile, a name or .toml file; measured once if there is none."),
    ] = None,
    ram: RamOption = None,
    partition: Annotated[int, typer.Option(min=0, help="Whose data this device has.")] = 0,
    charging: ChargingOption = False,
    idle: IdleOption = False,
    unmetered: UnmeteredOption = False,
    battery: BatteryOption = 0,
    quiet_hours: QuietOption = None,
    compress: Annotated[
        str, typer.Option(help="Send fewer bytes, not exact: int8, top-k or top-k:SHARE.")
    ] = "",
    keep_warm: Annotated[
        float, typer.Option(min=0, help="Seconds that the training process stays after work.")
    ] = 120.0,
    rest: Annotated[
        float, typer.Option(min=0.1, help="Seconds between looks at the facts while waiting.")
    ] = 10.0,
    facts_root: RootOption = Path("/"),
    via: Annotated[
        str, typer.Option(help="What the coordinator is: service, or superlink (Flower's).")
    ] = "service",
    root_certificates: Annotated[
        Path | None, typer.Option(help="Of a SuperLink: its authority's certificate (PEM).")
    ] = None,
    node_key: Annotated[
        Path | None,
        typer.Option(help="For a SuperLink that authenticates nodes: the private key (OpenSSH)."),
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="To a SuperLink without TLS; only for trying out.")
    ] = False,
    show_egress: Annotated[
        bool, typer.Option("--show-egress", help="Print all that may ever leave, and end.")
    ] = False,
) -> None:
    """Take part in a federation: wait, train when the owner allows it, send the update."""
    if show_egress:
        from .egress import egress_text

        typer.echo(egress_text())
        return
    if coordinator is None:
        raise BadInput("name the coordinator: --coordinator HOST:PORT")
    import asyncio
    import logging
    import os
    import random
    import time

    from protos.compression import parse_compression

    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")  # the training child is a new program
    from .facts import system_sources
    from .start import SuperLinkKeys, Wishes, take_part
    from .watch import Pace

    if via not in ("service", "superlink"):
        raise BadInput(f"--via is service or superlink, not {via!r}")
    if parse_compression(compress) is not None and via == "superlink":
        raise BadInput("a SuperLink passes updates on as they are: --compress needs the service")
    keys = SuperLinkKeys(root_certificates=root_certificates, node_key=node_key, insecure=insecure)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)  # else a line for each poll of a SuperLink
    wishes = Wishes(
        address=coordinator,
        superlink=keys if via == "superlink" else None,
        folder=data,
        ticket=_ticket(ticket),
        workloads=tuple(workload or WORKLOADS),
        device=device,
        ram_bytes=None if ram is None else parse_bytes(ram),
        partition=partition,
        compression=compress,
        policy=_policy(charging, idle, unmetered, battery, quiet_hours),
        pace=Pace(rest_s=rest),
        keep_warm_s=keep_warm,
    )
    sources = system_sources(facts_root)
    asyncio.run(take_part(wishes, sources, generator=random.SystemRandom(), now_s=time.time))


def doctor(
    coordinator: CoordinatorOption = None,
    data: DataOption = DATA,
    charging: ChargingOption = False,
    idle: IdleOption = False,
    unmetered: UnmeteredOption = False,
    battery: BatteryOption = 0,
    quiet_hours: QuietOption = None,
    facts_root: RootOption = Path("/"),
) -> None:
    """Check that this machine can take part, and say who tells each fact that a policy may ask for."""
    import time

    from .doctor import Subject, examine
    from .facts import system_sources

    subject = Subject(
        folder=data,
        address=coordinator,
        policy=_policy(charging, idle, unmetered, battery, quiet_hours),
        sources=system_sources(facts_root),
        now_s=time.time,
    )
    findings = tuple(examine(subject))
    for finding in findings:
        typer.echo(f"{finding.mark:7} {finding.what:12} {finding.text}")
    if not all(finding.good for finding in findings):
        raise typer.Exit(code=1)


def _policy(
    charging: bool, idle: bool, unmetered: bool, battery: int, quiet_hours: list[str] | None
) -> Policy:
    from .policy import Policy, parse_hours

    return Policy(
        charging=charging,
        idle=idle,
        unmetered=unmetered,
        least_battery=battery / 100,
        quiet_hours=tuple(map(parse_hours, quiet_hours or ())),
    )


def _ticket(given: str | None) -> str | None:
    """A word, or the file that has it: on a command line, everybody on the machine could read it."""
    from scheduler.files import read_bytes

    if given is None or given.startswith("fedpoet1."):
        return given
    return read_bytes(Path(given)).decode("ascii", "replace")
