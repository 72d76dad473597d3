"""What gRPC brings: health checks and reflection, behind the same gate as the service's own methods."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from .calls import Calls
from .handlers import SERVICE

if TYPE_CHECKING:
    Handler = grpc.RpcMethodHandler[Any, Any]


class Admission(grpc.aio.ServerInterceptor):
    """Admits callers of what does not ask the gate itself, so that nobody holds streams without limit."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """The handler of a method, None where there is none."""
        handler = await continuation(details)
        service, _, name = details.method.removeprefix("/").partition("/")
        if handler is None or service == SERVICE:
            return handler
        guarded: Handler = self._calls.around(name, handler)
        return guarded


async def add_standard_services(server: grpc.aio.Server) -> None:
    """Health of the whole and of the device service, and reflection."""
    checks = health.aio.HealthServicer()
    for name in (health.OVERALL_HEALTH, SERVICE):
        await checks.set(name, health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    names = (SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)
    reflection.enable_server_reflection(names, server)
