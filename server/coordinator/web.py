"""The coordinator's page, its figures as JSON and its metrics for Prometheus, over HTTP, to be read only."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import asdict
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse
from starlette.middleware.trustedhost import TrustedHostMiddleware

from scheduler.errors import BadInput

from .metrics import CONTENT_TYPE, exposition
from .page import live_part, whole_page
from .values import finite
from .watch import Snapshot

START_S = 10.0
HEADERS = {
    # The page's own script and styles, and nothing from anywhere else.
    "Content-Security-Policy": "default-src 'none'; script-src 'unsafe-inline'; "
    "style-src 'unsafe-inline'; connect-src 'self'; img-src 'self' data:",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


def build_web(look: Callable[[], Snapshot], hosts: tuple[str, ...]) -> FastAPI:
    """The web application.

    It answers only requests that name one of `hosts` as their host, so that a page from elsewhere cannot
    read it by giving its own name this address.
    """
    web = FastAPI(title="fedpoet coordinator", docs_url=None, redoc_url=None, openapi_url=None)
    web.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts))

    @web.middleware("http")
    async def secure(request: Request, go_on: Callable[[Request], Awaitable[Response]]) -> Response:
        answer = await go_on(request)
        answer.headers.update(HEADERS)
        return answer

    @web.get("/")
    def page() -> HTMLResponse:
        return HTMLResponse(whole_page(look()))

    @web.get("/live")
    def live() -> HTMLResponse:
        return HTMLResponse(live_part(look()))

    @web.get("/status.json")
    def status() -> JSONResponse:
        values: dict[str, Any] = asdict(look())
        return JSONResponse(finite(values))

    @web.get("/metrics")
    def metrics() -> PlainTextResponse:
        return PlainTextResponse(exposition(look()), media_type=CONTENT_TYPE)

    @web.get("/healthz")
    def health() -> PlainTextResponse:
        return PlainTextResponse("ok\n")

    return web


@contextlib.contextmanager
def serving(web: FastAPI, host: str, port: int) -> Iterator[int]:
    """Serve in a thread of its own; yields the port, which is chosen freely for port 0.

    Raises BadInput when the address cannot be had.
    """
    try:
        listening = socket.create_server((host, port))
    except OSError as error:
        raise BadInput(
            f"cannot listen on {host}:{port}: {error.strerror}; choose another with --web"
        ) from error
    server = uvicorn.Server(
        uvicorn.Config(web, log_level="warning", access_log=False, lifespan="off", ws="none")
    )
    thread = threading.Thread(
        target=server.run, kwargs={"sockets": [listening]}, name="fedpoet-web", daemon=True
    )
    thread.start()
    try:
        yield int(listening.getsockname()[1])
    finally:
        server.should_exit = True
        thread.join(START_S)
        listening.close()
