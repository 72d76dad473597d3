"""The coordinator's memory on disk: rounds in a database, models as files beside it.

A round is either all there or not at all: its files are written and synced first, then one transaction names
them. A process that is killed at any moment leaves at most files that nothing names, and they are
deleted when the journal is next opened.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from protos.arrays import read_arrays, write_arrays
from scheduler.errors import BadFile, BadInput, BadMessage
from scheduler.files import make_atomically
from server.database import open_sqlite
from server.federation import Pending, Progress, Round
from server.history import SEEN, History
from server.updates import Arrays

FILE, LOCK, MODELS, STATES = "journal.sqlite", "lock", "models", "states"
VERSION = 1

Config = Mapping[str, bool | int | float | str | None]

_tables = sa.MetaData()
_run = sa.Table("run", _tables, sa.Column("config", sa.Text, nullable=False))
_cohorts = sa.Table(
    "cohorts",
    _tables,
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("nodes", sa.Text, nullable=False),
)
_rounds = sa.Table(
    "rounds",
    _tables,
    sa.Column("id", sa.Integer, primary_key=True),  # also the name of its files
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("model", sa.Integer, nullable=False),  # the id of the round that made its model
    sa.Column("record", sa.Text, nullable=False),
    sa.Column("progress", sa.Text, nullable=False),
    sa.Column("rolled_back", sa.Boolean, nullable=False),
    sa.Index("rounds_by_number", "number"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A round as it is kept; `record` is the Round as plain values."""

    id: int
    number: int
    model: int
    record: Mapping[str, Any]
    rolled_back: bool


class Journal:
    """A run's rounds and models in `folder`. Made by `opened`, which holds the folder for one process."""

    def __init__(self, folder: Path, engine: sa.Engine) -> None:
        self._folder, self._engine = folder, engine
        self._models, self._states = folder / MODELS, folder / STATES
        for part in (self._models, self._states):
            part.mkdir(exist_ok=True)
        self._sweep()

    def start(self, config: Config) -> None:
        """Note what is run, or make sure that it is what was run before. Raises BadInput if it is not."""
        with self._engine.begin() as db:
            before = db.execute(sa.select(_run.c.config)).scalar()
            if before is None:
                db.execute(_run.insert().values(config=json.dumps(dict(config))))
                return
        was: dict[str, Any] = json.loads(before)
        if differ := sorted(k for k in was.keys() | config.keys() if was.get(k) != config.get(k)):
            told = ", ".join(f"{k} was {was.get(k)!r} and is {config.get(k)!r}" for k in differ)
            raise BadInput(
                f"{self._folder} holds another run: {told}; "
                "go on with the same settings, or name another folder"
            )

    def note_cohort(self, number: int, cohort: tuple[int, ...]) -> None:
        """Whom round `number` asks; noted before anybody is asked."""
        with self._engine.begin() as db:
            db.execute(_cohorts.delete())
            db.execute(_cohorts.insert().values(number=number, nodes=json.dumps(cohort)))

    def note_round(self, done: Round, progress: Progress) -> None:
        """A round with all that is needed to go on from it."""
        row = self.last_id() + 1
        same = done.skipped is not None and row > 0
        if not same:
            _write(progress.arrays, self._model(row))
        _write(_state_arrays(progress), self._state(row))
        with self._engine.begin() as db:
            model = row
            if same:
                model = self._newest(db).model
            db.execute(
                _rounds.insert().values(
                    id=row,
                    number=done.number,
                    model=model,
                    record=json.dumps(asdict(done)),
                    progress=json.dumps(_progress_values(progress)),
                    rolled_back=False,
                )
            )
        for old in self._states.glob("*.safetensors"):
            if old != self._state(row):
                old.unlink()

    def resume(self) -> Progress | None:
        """Where the run goes on, or None where it has not begun. Raises BadFile for damaged files."""
        if self.last_id() < 0:
            return None
        with self._engine.connect() as db:
            newest = self._newest(db)
            values = json.loads(newest.progress)
            drawn = db.execute(
                sa.select(_cohorts.c.nodes).where(_cohorts.c.number == newest.number + 1)
            ).scalar()
            bases = {v: self._model_of(db, v) for v in values["bases"]}
        state = self._read(self._state(newest.id))
        return Progress(
            number=newest.number,
            arrays=self._read(self._model(newest.model)),
            strategy=_part(state, "strategy"),
            history=_history(_part(state, "history")),
            pending=tuple(Pending(**pending) for pending in values["pending"]),
            bases={version: self._read(path) for version, path in bases.items()},
            skipped=values["skipped"],
            cohort=None if drawn is None else tuple(json.loads(drawn)),
        )

    def last_id(self) -> int:
        """The id of the round that was noted last, -1 before the first."""
        with self._engine.connect() as db:
            last = db.execute(sa.select(sa.func.max(_rounds.c.id))).scalar()
        return -1 if last is None else int(last)

    def entries(self, after_id: int = -1) -> list[Entry]:
        """Rounds that were noted after the one with this id, rolled back ones included."""
        query = _rounds.select().where(_rounds.c.id > after_id).order_by(_rounds.c.id)
        with self._engine.connect() as db:
            return [
                Entry(
                    id=row.id,
                    number=row.number,
                    model=row.model,
                    record=json.loads(row.record),
                    rolled_back=row.rolled_back,
                )
                for row in db.execute(query)
            ]

    def model(self, number: int) -> Path:
        """The file of the model after a round. Raises BadInput when there is none."""
        with self._engine.connect() as db:
            return self._model_of(db, number)

    def roll_back(self, number: int) -> None:
        """Let the run go on from the model after round `number`; later rounds stay on record.

        The strategy's memory and all messages under way are dropped: they belong to the rounds that are
        taken back. Raises BadInput when there is no such round, or no model of it any more.
        """
        with self._engine.begin() as db:
            path = self._model_of(db, number)
            if not path.exists():
                raise BadInput(f"the model of round {number} was not kept in {self._models}")
            kept = self._row(db, number)
            progress = json.loads(kept.progress) | {"pending": [], "bases": [], "skipped": 0}
            _write(_no_state(), self._state(kept.id))
            db.execute(_rounds.update().where(_rounds.c.number > number).values(rolled_back=True))
            db.execute(
                _rounds.update()
                .where(_rounds.c.id == kept.id)
                .values(progress=json.dumps(progress))
            )
            db.execute(_cohorts.delete())

    def keep_models(self, newest: int) -> None:
        """Delete models but the `newest` ones and those that replies under way began with."""
        with self._engine.connect() as db:
            values = json.loads(self._newest(db).progress)
            named = {self._row(db, v).model for v in values["bases"]}
            rows = sa.select(_rounds.c.model).where(_rounds.c.rolled_back.is_(False)).distinct()
            named |= set(sorted(db.execute(rows).scalars())[-max(1, newest) :])
        for path in self._models.glob("*.safetensors"):
            if int(path.stem) not in named:
                path.unlink()

    def _newest(self, db: sa.Connection) -> sa.Row[Any]:
        query = _rounds.select().where(_rounds.c.rolled_back.is_(False))
        return db.execute(query.order_by(_rounds.c.id.desc()).limit(1)).one()

    def _row(self, db: sa.Connection, number: int) -> sa.Row[Any]:
        query = _rounds.select().where(_rounds.c.number == number, _rounds.c.rolled_back.is_(False))
        row = db.execute(query).first()
        if row is None:
            last = db.execute(sa.select(sa.func.max(_rounds.c.number))).scalar()
            raise BadInput(f"{self._folder} has rounds 0 to {last}, not {number}")
        return row

    def _model_of(self, db: sa.Connection, number: int) -> Path:
        return self._model(self._row(db, number).model)

    def _model(self, row: int) -> Path:
        return self._models / f"{row:08d}.safetensors"

    def _state(self, row: int) -> Path:
        return self._states / f"{row:08d}.safetensors"

    def _sweep(self) -> None:
        """Delete files that no round names, and drafts of files."""
        with self._engine.connect() as db:
            models = set(db.execute(sa.select(_rounds.c.model)).scalars())
            rounds = set(db.execute(sa.select(_rounds.c.id)).scalars())
        for folder, named in ((self._models, models), (self._states, rounds)):
            for path in folder.iterdir():
                if not (path.stem.isdigit() and int(path.stem) in named):
                    path.unlink()

    def _read(self, path: Path) -> Arrays:
        try:
            return read_arrays(path)
        except BadMessage as error:
            raise BadFile(f"{path} of the journal cannot be read: {error}") from error


@contextlib.contextmanager
def opened(folder: Path) -> Iterator[Journal]:
    """The journal in a folder, made if there is none, for this process alone.

    Raises BadInput when another process has it, and BadFile when it cannot be used.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = os.open(folder / LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise BadFile(f"cannot keep a journal in {folder}: {error.strerror}") from error
    with contextlib.closing(os.fdopen(lock, "w")) as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise BadInput(f"another coordinator works in {folder}; stop it first") from error
        engine = open_sqlite(folder / FILE, _tables, VERSION, "a journal")
        try:
            yield Journal(folder, engine)
        finally:
            engine.dispose()


def _write(arrays: Arrays, path: Path) -> None:
    make_atomically(path, partial(write_arrays, arrays), durable=True)


def _progress_values(progress: Progress) -> dict[str, Any]:
    return {
        "pending": [asdict(pending) for pending in progress.pending],
        "bases": sorted(progress.bases),
        "skipped": progress.skipped,
    }


def _state_arrays(progress: Progress) -> dict[str, NDArray[Any]]:
    rows = progress.history.rows
    history = {f"history/{name}": rows[name] for name in SEEN.names or ()}
    return {f"strategy/{n}": np.asarray(v) for n, v in progress.strategy.items()} | history


def _no_state() -> dict[str, NDArray[Any]]:
    return {f"history/{name}": np.zeros(0, dtype=SEEN[name]) for name in SEEN.names or ()}


def _part(state: Arrays, name: str) -> dict[str, NDArray[Any]]:
    return {k.removeprefix(f"{name}/"): v for k, v in state.items() if k.startswith(f"{name}/")}


def _history(columns: Mapping[str, NDArray[Any]]) -> History:
    rows = np.zeros(len(columns["node"]), dtype=SEEN)
    for name, values in columns.items():
        rows[name] = values
    return History(rows=rows)
