"""An update that arrives: in order, in time, onto the disk, and only then counted."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import BinaryIO, TypeVar

from protos.arrays import require_arrays
from protos.blobs import DIGEST_BYTES, Arriving, Blob
from protos.device_pb2 import Chunk, Receipt, UpdateHeader, UpdatePart
from scheduler.errors import BadMessage

from .limits import Limits
from .refusals import Reason, Refusal
from .requests import check_header, require_as_asked
from .store import Store
from .taskbook import Entry, State, require_same

REREAD_BYTES = 2**20

Taken = Callable[[], Awaitable[UpdatePart | None]]
Result = TypeVar("Result")


@dataclass(slots=True, kw_only=True, eq=False)
class Upload:
    """One that is under way. It ends when `superseded`, and says so with `over`."""

    superseded: asyncio.Event = field(default_factory=asyncio.Event)
    over: asyncio.Event = field(default_factory=asyncio.Event)


class Uploads:
    """All updates that arrive now. Used in the event loop; files are touched in threads of `pool`.

    `end` ends tasks without an update, for a reason; `on_received` gets the task of an update that counts,
    also when the device's call was over before it could hear of it.
    """

    def __init__(
        self,
        store: Store,
        limits: Limits,
        pool: Executor,
        now_s: Callable[[], float],
        end: Callable[[list[bytes], str], Awaitable[None]],
        on_received: Callable[[bytes], None],
    ) -> None:
        self._store, self._limits, self._pool = store, limits, pool
        self._now_s, self._end, self._on_received = now_s, end, on_received
        self._under_way: dict[bytes, Upload] = {}

    def offset(self, device_id: int, task_id: bytes, digest: bytes) -> tuple[int, Receipt | None]:
        """How much of an update has arrived, and its receipt when that is all of it. Raises Refusal."""
        if len(digest) != DIGEST_BYTES:
            raise Refusal(Reason.MALFORMED, f"a digest has {DIGEST_BYTES} bytes")
        entry = self._own(device_id, task_id)
        if entry.state is not State.OPEN:
            receipt = require_same(entry, digest)
            return (entry.update.size_bytes if entry.update else 0), receipt
        if entry.task.expires_at_s < self._now_s():
            raise Refusal(Reason.TASK_ENDED, "the task has expired; no update is wanted")
        return self._store.blobs.incoming_bytes(task_id, digest), None

    async def receive(self, device_id: int, take: Taken) -> Receipt:
        """Take in an update and count it. Raises Refusal or BadMessage; what arrived before stays.

        An update that was not made as the task asks ends the task: the device has no other.
        """
        until_s = self._now_s() + self._limits.transfer_s
        upload = Upload()
        header = await self._header(take, upload, until_s)
        blob = check_header(header, self._limits)
        self.offset(device_id, header.task_id, header.digest)  # it is this device's
        try:
            require_as_asked(header, self._own(device_id, header.task_id).task)
        except Refusal as refusal:
            await self._end([header.task_id], str(refusal))
            raise
        while old := self._under_way.get(header.task_id):
            old.superseded.set()
            await old.over.wait()
        self._under_way[header.task_id] = upload  # with no pause since the last look: the only one
        try:
            offset_bytes, receipt = self.offset(device_id, header.task_id, header.digest)
            if receipt is not None:
                # Some clients take an answer before their last word for a broken connection.
                while await self._next(take, upload, until_s) is not None:
                    pass
                return receipt
            if header.offset_bytes != offset_bytes:
                raise Refusal(
                    Reason.OUT_OF_ORDER,
                    f"the update goes on at byte {offset_bytes}, not {header.offset_bytes}",
                )
            return await self._body(header, blob, take, upload, until_s)
        finally:
            del self._under_way[header.task_id]
            upload.over.set()

    def _own(self, device_id: int, task_id: bytes) -> Entry:
        entry = self._store.tasks.find(task_id)
        if entry is None or entry.task.device_id != device_id:
            raise Refusal(Reason.NO_SUCH_TASK, "this device has no such task")
        return entry

    async def _header(self, take: Taken, upload: Upload, until_s: float) -> UpdateHeader:
        part = await self._next(take, upload, until_s)
        if part is None or part.WhichOneof("part") != "header":
            raise Refusal(Reason.OUT_OF_ORDER, "an update begins with its header")
        return part.header

    async def _body(
        self, header: UpdateHeader, blob: Blob, take: Taken, upload: Upload, until_s: float
    ) -> Receipt:
        blobs = self._store.blobs
        opening = asyncio.ensure_future(
            self._in_thread(lambda: blobs.open_incoming(header.task_id, header.digest))
        )
        try:
            file = await asyncio.shield(opening)
        except asyncio.CancelledError:
            # The call is over, but the thread opens the file all the same.
            opening.add_done_callback(_close)
            raise
        try:
            arriving = await self._in_thread(
                lambda: Arriving(blob, _pieces(file), chunk_bytes=self._limits.chunk_bytes)
            )
            while arriving.offset_bytes < blob.size_bytes:
                if (part := await self._next(take, upload, until_s)) is None:
                    break
                if part.WhichOneof("part") != "chunk":
                    raise Refusal(Reason.OUT_OF_ORDER, "after its header an update has chunks only")
                await self._in_thread(partial(_keep, file, arriving, part.chunk))
            finishing = asyncio.ensure_future(
                self._in_thread(lambda: self._finish(header, arriving, file))
            )
            finishing.add_done_callback(self._finished)
            return await asyncio.shield(finishing)  # a call that is over does not stop the thread
        finally:
            file.close()  # here: a call that is over gets no thread any more

    def _finished(self, finishing: asyncio.Future[Receipt]) -> None:
        if not finishing.cancelled() and finishing.exception() is None:
            self._on_received(finishing.result().task_id)

    def _finish(self, header: UpdateHeader, arriving: Arriving, file: BinaryIO) -> Receipt:
        blobs = self._store.blobs
        try:
            arriving.finish()
            require_arrays(Path(file.name))
            blobs.complete(header.task_id, header.digest, file)
        except BadMessage:
            if arriving.offset_bytes == arriving.blob.size_bytes:
                blobs.drop_incoming(header.task_id)  # all of it came, and it is of no use
            raise
        except FileNotFoundError as error:
            raise Refusal(Reason.TASK_ENDED, "the task ended while its update came") from error
        try:
            return self._store.tasks.receive(header, self._now_s())
        except Refusal:
            blobs.drop_update(header.task_id)  # the task ended a moment ago
            raise

    async def _next(self, take: Taken, upload: Upload, until_s: float) -> UpdatePart | None:
        """The next message. Raises Refusal when it does not come in time, or another upload takes over."""
        left_s = min(self._limits.stall_s, until_s - self._now_s())
        coming = asyncio.ensure_future(take())
        superseded = asyncio.ensure_future(upload.superseded.wait())
        try:
            done, _ = await asyncio.wait(
                {coming, superseded}, timeout=left_s, return_when=asyncio.FIRST_COMPLETED
            )
            if superseded in done:
                raise Refusal(Reason.REPLACED, "the device sends this update anew")
            if coming not in done:
                raise Refusal(
                    Reason.TOO_SLOW,
                    f"nothing came for {self._limits.stall_s:g} s, or the update took longer than "
                    f"{self._limits.transfer_s:g} s; go on with it in another call",
                )
            return coming.result()
        finally:
            coming.cancel()
            superseded.cancel()

    async def _in_thread(self, do: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._pool, do)


def _keep(file: BinaryIO, arriving: Arriving, chunk: Chunk) -> None:
    file.write(arriving.take(chunk))
    file.flush()  # so that the file's size says what has arrived


def _close(opening: asyncio.Future[BinaryIO]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    file.seek(0)
    while piece := file.read(REREAD_BYTES):
        yield piece
