"""Commands of a coordinator: `fedpoet coordinate` and `fedpoet rollback`. Heavy imports are inside them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scheduler.errors import BadInput
from server.cli import KEYS, PassphraseOption, new_device_id

if TYPE_CHECKING:
    from server.keyring import Keyring

    from .run import Model, Settings

RUN = "run"  # in the coordinator's folder
LISTEN, WEB = "127.0.0.1:9093", "127.0.0.1:9094"

DataOption = Annotated[Path, typer.Option(help="The coordinator's folder (fedpoet keys init).")]
DATA = Path("coordinator")


def register(app: typer.Typer, read_model: Callable[[str, int], Model]) -> None:
    """Add the commands. `read_model` tells what a coordinator knows of a workload, by name and seed."""

    @app.command()
    def coordinate(
        workload: Annotated[str, typer.Option(help="What is trained; devices must have it too.")],
        data: DataOption = DATA,
        listen: Annotated[str, typer.Option(help="HOST:PORT for devices.")] = LISTEN,
        web: Annotated[
            str,
            typer.Option(help="HOST:PORT of the page and metrics, which anybody there can read."),
        ] = WEB,
        rounds: Annotated[int, typer.Option(min=1, help="Rounds in all.")] = 30,
        strategy: Annotated[
            str, typer.Option(help="fedavg, fedprox, fedadam, median, trimmed-mean, krum, ...")
        ] = "fedavg",
        sampler: Annotated[str, typer.Option(help="uniform, utility or energy-fair.")] = "uniform",
        seed: Annotated[int, typer.Option(min=0, help="Of the model and the cohorts.")] = 0,
        cohort: Annotated[
            int | None, typer.Option(min=1, help="Updates per round; all that may be asked.")
        ] = None,
        over_selection: Annotated[
            float, typer.Option(min=1, help="Ask so many times as many devices.")
        ] = 1.0,
        deadline: Annotated[
            float | None, typer.Option(help="Seconds after which a round ends.")
        ] = None,
        least_updates: Annotated[
            int, typer.Option(min=1, help="With fewer updates the model stays as it is.")
        ] = 1,
        patience: Annotated[
            float, typer.Option(min=0, help="Seconds a round waits for enough devices.")
        ] = 3600.0,
        most_skipped: Annotated[
            int, typer.Option(min=0, help="Rounds in a row without a new model before it gives up.")
        ] = 10,
        buffer: Annotated[
            int | None, typer.Option(min=1, help="Asynchronous: a round is so many updates.")
        ] = None,
        late: Annotated[str, typer.Option(help="Late updates: drop or add.")] = "drop",
        largest_change: Annotated[
            float | None, typer.Option(help="Refuse updates that go further (L2 distance).")
        ] = None,
        charging: Annotated[bool, typer.Option("--charging", help="Only such devices.")] = False,
        idle: Annotated[bool, typer.Option("--idle", help="Only such devices.")] = False,
        unmetered: Annotated[bool, typer.Option("--unmetered", help="Only such devices.")] = False,
        battery: Annotated[float, typer.Option(min=0, max=1, help="At least so full.")] = 0.0,
        batch_size: Annotated[int | None, typer.Option(min=1)] = None,
        local_epochs: Annotated[int | None, typer.Option(min=1)] = None,
        deadline_factor: Annotated[
            float | None, typer.Option(help="A step's time, in times of computing all once.")
        ] = None,
        keep_models: Annotated[int, typer.Option(min=1, help="Versions for rollback.")] = 10,
        passphrase_file: PassphraseOption = None,
    ) -> None:
        """Run a federation over the device service. Stopped or killed, the same command goes on with it."""
        from server.keyring import read_keys, read_passphrase
        from server.rules import Eligibility, Late, Rules

        from .run import Settings

        if late not in tuple(Late):
            raise BadInput(f"--late is drop or add, not {late!r}")
        eligibility = Eligibility(
            charging=charging, idle=idle, unmetered=unmetered, battery_at_least=battery
        )
        rules = Rules(
            cohort=cohort,
            over_selection=over_selection,
            deadline_s=deadline,
            least_updates=least_updates,
            patience_s=patience,
            most_skipped=most_skipped,
            eligibility=eligibility,
            late=Late(late),
            buffer=buffer,
            largest_change=largest_change,
        )
        train = {
            "seed": seed,
            "batch-size": batch_size,
            "local-epochs": local_epochs,
            "deadline-factor": deadline_factor,
        }
        settings = Settings(
            rounds=rounds,
            strategy=strategy,
            sampler=sampler,
            seed=seed,
            rules=rules,
            train_config={name: value for name, value in train.items() if value is not None},
            keep_models=keep_models,
        )
        keys = read_keys(data / KEYS, read_passphrase(passphrase_file))
        _coordinate(settings, read_model(workload, seed), data, keys, listen, web)

    @app.command()
    def rollback(
        number: Annotated[
            int, typer.Argument(min=0, help="The round whose model is gone back to.")
        ],
        data: DataOption = DATA,
    ) -> None:
        """Let a stopped run go on from the model after an earlier round."""
        from .journal import opened

        with opened(data / RUN) as journal:
            journal.roll_back(number)
        typer.echo(f"the next round starts from the model of round {number}")


def _coordinate(
    settings: Settings, model: Model, data: Path, keys: Keyring, listen: str, web: str
) -> None:
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # it would print every failed handshake
    from server.service.host import ServiceHost
    from server.service.limits import Limits
    from server.service.store import open_store

    from .fabrics import kinds_of, service_fabric
    from .journal import opened
    from .logs import log_as_json
    from .memory import allow_many_connections, give_freed_arrays_back
    from .run import coordinate
    from .watch import Watch
    from .web import build_web, serving

    host_name, port = _address(web)
    log_as_json()
    give_freed_arrays_back()
    allow_many_connections()
    with opened(data / RUN) as journal:
        store = open_store(data)
        with ServiceHost(
            store=store,
            keys=keys,
            address=listen,
            limits=Limits(),
            now_s=time.time,
            new_id=new_device_id,
        ) as host:
            watch = Watch(
                model.workload,
                settings.rounds,
                journal.entries(),
                time.time,
                lambda: kinds_of(host),
            )
            with serving(
                build_web(watch.snapshot, (host_name, "localhost")), host_name, port
            ) as web_port:
                typer.echo(f"devices: {listen.rpartition(':')[0]}:{host.port}")
                typer.echo(f"watch:   http://{host_name}:{web_port}")
                fabric = service_fabric(host, model)
                coordinate(settings, model, fabric, journal, watch, time.time)
                typer.echo(f"model:   {journal.model(settings.rounds)}")
        store.close()


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise BadInput(f"{text!r} is not HOST:PORT")
    return host.strip("[]"), int(port)
