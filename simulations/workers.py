"""Jobs done in other processes of this machine, or by Ray on several. The numbers are the same as here.

What is pickled between processes comes from this very program: nothing from a device or a file.
"""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import pickle
import signal
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Self

import torch
from flwr.app import ArrayRecord

from scheduler.errors import BadInput, RunFailed

from .training import Done, Job, Recipe, do

PARCELS = 8  # per worker and call, so that workers end at about the same time
END_S = 10.0  # that a worker has to end by itself


class Processes:
    """Does jobs in `workers` processes; a context manager. Each trains on one thread.

    Raises RunFailed when a process ends, as when memory runs out.
    """

    def __init__(self, recipe: Recipe, workers: int) -> None:
        if workers < 1:
            raise BadInput(f"training needs 1 worker or more, not {workers}")
        self._recipe, self._count = recipe, workers
        self._workers: list[_Worker] = []

    def __enter__(self) -> Self:
        try:
            for _ in range(self._count):
                self._workers.append(_Worker(self._recipe))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.end()
        self._workers.clear()

    def __call__(self, jobs: Sequence[Job]) -> list[Done]:
        """What came of the jobs, in their order."""
        done: dict[int, Done] = {}
        waiting = parcels(len(jobs), self._count)
        idle = list(self._workers)
        busy: dict[Any, tuple[_Worker, range]] = {}
        while len(done) < len(jobs):
            for worker, parcel in zip(list(idle), waiting, strict=False):
                worker.send([jobs[k] for k in parcel])
                idle.remove(worker)
                busy[worker.connection] = worker, parcel
            for ready in wait(list(busy)):
                worker, parcel = busy.pop(ready)
                done.update(zip(parcel, worker.receive(), strict=True))
                idle.append(worker)
        return [done[k] for k in range(len(jobs))]


def parcels(jobs: int, workers: int) -> Iterator[range]:
    """Positions of so many jobs, in parcels for so many workers."""
    size = max(1, jobs // (workers * PARCELS))
    return (range(start, min(start + size, jobs)) for start in range(0, jobs, size))


class _Worker:
    """One process, and what it was sent last: a model goes to each process once."""

    def __init__(self, recipe: Recipe) -> None:
        # torch's threads do not survive a fork: a process without any has it in RAM, once for all workers.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["simulations.training"])
        self.connection, other = context.Pipe()
        self._process: BaseProcess = context.Process(
            target=_serve, args=(other, recipe), daemon=True
        )
        self._process.start()
        other.close()
        self._latest: ArrayRecord | None = None

    def send(self, jobs: list[Job]) -> None:
        """Give it jobs."""
        file = io.BytesIO()
        _Pickler(file, self._latest).dump(jobs)
        self._latest = _model(jobs[-1])
        with self._alive():
            self.connection.send_bytes(file.getbuffer())

    def receive(self) -> list[Done]:
        """What came of them."""
        with self._alive():
            done: list[Done] = self.connection.recv()
        return done

    def end(self) -> None:
        """Let the process end, or end it."""
        self.connection.close()  # it ends when it reads on
        self._process.join(0 if self._process.exitcode is not None else END_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    @contextlib.contextmanager
    def _alive(self) -> Iterator[None]:
        try:
            yield
        except (EOFError, OSError) as error:
            self._process.join(END_S)
            raise RunFailed(
                f"a training process ended with exit code {self._process.exitcode}; if memory ran out "
                "(-9), use fewer workers"
            ) from error


def _serve(connection: Connection, recipe: Recipe) -> None:
    """Do jobs until the other end is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that asked
    torch.set_num_threads(1)
    app = recipe.app()
    latest: ArrayRecord | None = None
    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            jobs = _Unpickler(io.BytesIO(connection.recv_bytes()), latest).load()
            latest = _model(jobs[-1])
            connection.send([do(app, job) for job in jobs])


def _model(job: Job) -> ArrayRecord:
    (record,) = job.message.content.array_records.values()
    return record


class _Pickler(pickle.Pickler):
    """Names the model that the other side has, in place of its arrays."""

    def __init__(self, file: io.BytesIO, known: ArrayRecord | None) -> None:
        super().__init__(file, pickle.HIGHEST_PROTOCOL)
        self._known = known

    def persistent_id(self, obj: Any) -> str | None:
        """For the model that is known; everything else is pickled."""
        return "latest" if self._known is not None and obj is self._known else None


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, known: ArrayRecord | None) -> None:
        super().__init__(file)
        self._known = known

    def persistent_load(self, pid: Any) -> Any:
        """The model that is known."""
        if pid != "latest":
            raise pickle.UnpicklingError(f"unknown name {pid!r}")
        return self._known
