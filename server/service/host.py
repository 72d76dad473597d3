"""The device service, running: a gRPC server with an event loop in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Collection, Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import grpc
import grpc.aio
from cryptography.hazmat.primitives import serialization

from scheduler.errors import BadInput
from server.keyring import Keyring

from .calls import Calls
from .gate import Gate
from .handlers import SERVICE, Around, Handlers
from .limits import Limits
from .presence import Presence
from .refusals import Counts, Reason, Refusal
from .standard import Admission, add_standard_services
from .store import Store

THREADS = 4  # for files and the database
START_S = 30.0
Result = TypeVar("Result")


class ServiceHost:
    """The device service on one port. Use it as a context; `port` is known inside.

    `address` is HOST:PORT, port 0 for any that is free. `now_s` is seconds since 1970, UTC. `new_id`
    draws the id of a new device, 1 to 2**63 - 1. Raises Untrusted for keys that have expired, and BadInput
    where it cannot listen.
    """

    def __init__(
        self,
        *,
        store: Store,
        keys: Keyring,
        address: str,
        limits: Limits,
        now_s: Callable[[], float],
        new_id: Callable[[], int],
    ) -> None:
        keys.require_valid(now_s())
        self.store, self.keys, self.limits, self.now_s = store, keys, limits, now_s
        self.presence, self.counts = Presence(), Counts()
        self.port = 0
        self._address, self._new_id = address, new_id
        self._listeners: list[Callable[[Collection[bytes]], None]] = []
        self._loop = asyncio.new_event_loop()
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="fedpoet-service")
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="fedpoet-service", daemon=True
        )
        self._server: grpc.aio.Server | None = None

    def on_change(self, call: Callable[[Collection[bytes]], None]) -> None:
        """Have `call` called, in the service's thread, with tasks that have ended; none: a device came."""
        self._listeners.append(call)

    def tell(self, devices: Iterable[int]) -> None:
        """There is something new for these devices. From any thread."""
        for device_id in set(devices):
            self._loop.call_soon_threadsafe(self.presence.tell, device_id)

    def __enter__(self) -> ServiceHost:
        self._thread.start()
        try:
            self.port = self._call(self._start(), START_S)
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._call(self._stop(), START_S)
        finally:
            self._close()

    async def _start(self) -> int:
        gate = Gate(self.store.roster, self.keys.authority.certificate, self.limits, self.now_s)
        calls = Calls(gate, self.limits, self.counts)
        server = grpc.aio.server(interceptors=[Admission(calls)], options=_options(self.limits))
        around = Around(
            store=self.store,
            authority=self.keys.authority,
            limits=self.limits,
            gate=gate,
            presence=self.presence,
            pool=self._pool,
            now_s=self.now_s,
            new_id=self._new_id,
            on_change=self._changed,
        )
        methods = Handlers(around).registered(calls)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))
        await add_standard_services(server)
        port = self._bind(server)
        await server.start()
        self._server = server
        return port

    def _bind(self, server: grpc.aio.Server) -> int:
        mine = self.keys.coordinator
        credentials = grpc.ssl_server_credentials(
            [(mine.key_pem, mine.certificate_pem)],
            root_certificates=self.keys.authority.certificate.public_bytes(
                serialization.Encoding.PEM
            ),
            require_client_auth=True,
        )
        try:
            port = server.add_secure_port(self._address, credentials)
        except RuntimeError as error:
            raise BadInput(f"cannot listen on {self._address}: {error}; choose another") from error
        if not port:
            raise BadInput(f"cannot listen on {self._address}; choose another address or port")
        return port

    async def _stop(self) -> None:
        self.presence.end(Refusal(Reason.ENDING, "the coordinator ends; try again later"))
        if self._server is not None:
            await self._server.stop(grace=1.0)
        # Handlers of calls that a device gave up end by themselves, but not at once.
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)

    def _changed(self, ended: Collection[bytes]) -> None:
        for call in self._listeners:
            call(ended)

    def _call(self, coroutine: Coroutine[Any, Any, Result], timeout_s: float) -> Result:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(timeout_s)

    def _close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._pool.shutdown()


def _options(limits: Limits) -> list[tuple[str, int]]:
    return [
        # Beyond what is refused and counted, in case somebody sends very much more.
        ("grpc.max_receive_message_length", 2 * limits.message_bytes),
        ("grpc.max_metadata_size", 16 * 1024),
        ("grpc.max_concurrent_streams", limits.connection_streams),
        ("grpc.server_handshake_timeout_ms", int(limits.handshake_s * 1000)),
        ("grpc.max_connection_idle_ms", int(limits.idle_s * 1000)),
        # A device that is gone without a word is found out by these.
        ("grpc.keepalive_time_ms", int(limits.stall_s * 1000)),
        ("grpc.keepalive_timeout_ms", int(limits.stall_s * 1000)),
        ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.so_reuseport", 0),
    ]
