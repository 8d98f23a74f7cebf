"""Serves the provider over HTTP: one loopback socket, starlette for the routes, uvicorn for HTTP.

uvicorn's own ``serve`` takes over the process's signals and takes tenths of a second to end. So
this file uses uvicorn's startup and ends by itself: it closes the connections, each handler sees
its client leave, and the context ends when the last task has.
"""

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import uvicorn
from anyio.lowlevel import checkpoint
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from .batches import PAGE, BatchFault, not_found
from .delivery import Delivery, Ending
from .frontend import Frontend, Read, Settings
from .ledger import Ledger
from .refusals import bad_request
from .request import read_chat, read_embeddings

CLIENT_LEFT = "client_left"

# Longer than clients keep an idle connection: the provider never closes one under a request.
_KEEP_ALIVE_SECONDS = 75

# The event loop gives an accepted connection its protocol some iterations later. `stop` waits for
# that, or it would leave such a connection open.
_ACCEPT_SECONDS = 0.002

HangUp = Callable[[Scope], None]
Handler = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class SimulatedProvider:
    """A running provider. ``base_url`` is for OpenAI clients: it ends in ``/v1``."""

    base_url: str
    ledger: Ledger

    @property
    def ledger_url(self) -> str:
        """The URL whose ``GET`` returns the ledger as JSON."""
        return self.base_url.removesuffix("/v1") + "/ledger"


@asynccontextmanager
async def simulated_provider(
    settings: Settings | None = None, *, port: int = 0, ledger_path: Path | None = None
) -> AsyncIterator[SimulatedProvider]:
    """Run a provider on loopback until the context ends. Port 0 takes any free port.

    ``ledger_path``: a file to which each finished request is appended. Raises OSError if the port
    is taken or the file cannot be written.
    """
    with (
        _listen(port) as listener,
        closing(Ledger(path=ledger_path)) as ledger,
    ):
        base_url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        site = _Site(Frontend(settings or Settings(), ledger))
        await site.start(listener)
        try:
            yield SimulatedProvider(base_url, ledger)
        finally:
            with anyio.CancelScope(shield=True):
                await site.stop()


def _listen(port: int) -> socket.socket:
    listener = socket.create_server(("127.0.0.1", port))
    # Its connections inherit this. asyncio would set it only on a socket that names its protocol,
    # and without it every answer waits 40 ms for the client's delayed acknowledgement.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


class _Site:
    """The routes of one frontend, and the uvicorn server that serves them."""

    def __init__(self, frontend: Frontend) -> None:
        self._frontend = frontend
        routes = [
            Route("/v1/chat/completions", partial(self._take, read_chat), methods=["POST"]),
            Route("/v1/embeddings", partial(self._take, read_embeddings), methods=["POST"]),
            Route("/v1/models", self._models),
            self._of_batches("/files", self._upload, "POST"),
            self._of_batches("/files/{name}/content", self._content, "GET"),
            self._of_batches("/batches", self._batches, "GET", "POST"),
            self._of_batches("/batches/{name}", self._batch, "GET"),
            self._of_batches("/batches/{name}/cancel", self._batch, "POST"),
            Route("/ledger", self._ledger),
        ]
        self._server = _new_server(Starlette(routes=routes))

    async def start(self, listener: socket.socket) -> None:
        """Accept connections from now on."""
        await self._server.startup(sockets=[listener])

    async def stop(self) -> None:
        """Close every connection and wait until no handler is left."""
        for listener in self._server.servers:
            listener.close()
        await anyio.sleep(_ACCEPT_SECONDS)
        state = self._server.server_state
        for connection in list(state.connections):
            connection.transport.abort()
        while state.tasks:
            await asyncio.wait(list(state.tasks))
            await checkpoint()  # tasks leave the set in a callback

    async def _take(self, read: Read, request: Request) -> Response:
        try:
            raw = await request.body()
        except ClientDisconnect:
            return Response()
        delivery = self._frontend.take(raw, request.headers, read)
        if self._frontend.hold is not None and delivery.status == 200:
            await self._frontend.hold(json.loads(raw))
        return _Played(delivery, self._hang_up)

    async def _models(self, _: Request) -> Response:
        data = [{"id": name, "object": "model", "created": 0} for name in self._frontend.models()]
        return JSONResponse({"object": "list", "data": data})

    def _of_batches(self, path: str, handle: Handler, *methods: str) -> Route:
        """Return a route of files or batches; its requests may be refused."""

        async def handled(request: Request) -> Response:
            refusal = self._frontend.batch_refusal(f"{request.method} {request.url.path}")
            if refusal is not None:
                return JSONResponse(refusal.body(), refusal.status)
            return await handle(request)

        return Route(f"/v1{path}", handled, methods=list(methods))

    async def _upload(self, request: Request) -> Response:
        kind = request.headers.get("content-type", "")
        if not self._frontend.takes_batches:
            return JSONResponse(not_found("page"), 404)
        if (elsewhere := self._frontend.moved_to) is not None:
            return RedirectResponse(f"{elsewhere}/files", 307)
        if self._frontend.batch_fault is BatchFault.PAGE_FOR_FILE:
            return HTMLResponse(PAGE)
        batches = self._frontend.batches
        return await self._made(request, lambda raw: batches.upload(kind, raw, time.time()))

    async def _content(self, request: Request) -> Response:
        found = self._frontend.batches.content(request.path_params["name"])
        match self._frontend.batch_fault:
            case BatchFault.GONE:
                found = None
            case BatchFault.NO_LINES:
                found = PAGE
            case _:
                pass
        return JSONResponse(not_found("file"), 404) if found is None else Response(found)

    async def _batches(self, request: Request) -> Response:
        batches, now = self._frontend.batches, time.time()
        if request.method == "GET":
            return JSONResponse({"object": "list", "data": batches.listed(), "has_more": False})
        if self._frontend.batch_fault is BatchFault.PAGE_FOR_BATCH:
            return HTMLResponse(PAGE)
        return await self._made(request, lambda raw: batches.create(json.loads(raw), now))

    async def _made(self, request: Request, make: Callable[[bytes], Any]) -> Response:
        """Answer what ``make`` makes of a body, once the time for that is over."""
        try:
            made = make(await request.body())
        except ClientDisconnect:
            return Response()
        except ValueError as problem:
            return JSONResponse(bad_request(str(problem)).body(), 400)
        await anyio.sleep(self._frontend.batch_reply_seconds)
        return JSONResponse(made)

    async def _batch(self, request: Request) -> Response:
        batches, now = self._frontend.batches, time.time()
        act = batches.cancel if request.method == "POST" else batches.find
        match self._frontend.batch_fault:
            case BatchFault.PAGE_FOR_LOOK:
                return HTMLResponse(PAGE)
            case BatchFault.ODD_ERRORS:
                return JSONResponse({"status": "failed", "errors": {"data": [{"code": {}}, 5]}})
            case _:
                pass
        found = act(request.path_params["name"], now)
        return JSONResponse(not_found("batch"), 404) if found is None else JSONResponse(found)

    async def _ledger(self, _: Request) -> Response:
        return JSONResponse(self._frontend.ledger.as_json())

    def _hang_up(self, scope: Scope) -> None:
        for connection in list(self._server.server_state.connections):
            if isinstance(connection, H11Protocol) and connection.client == scope["client"]:
                connection.transport.close()


def _new_server(app: Starlette) -> uvicorn.Server:
    """A server that leaves logging, signals and lifespan to the process that it runs in."""
    config = uvicorn.Config(
        app,
        http="h11",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
    )
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    return server


class _Played(Response):
    """A delivery as a response: sent part by part until it ends or the client leaves."""

    def __init__(self, delivery: Delivery, hang_up: HangUp) -> None:
        super().__init__(status_code=delivery.status)
        self.raw_headers = [
            (name.encode("latin-1"), value.encode("latin-1"))
            for name, value in delivery.headers.items()
        ]
        self._delivery = delivery
        self._hang_up = hang_up
        self._finished = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(_client_left, receive, group.cancel_scope)
                await self._send(scope, send)
                if self._delivery.ending is Ending.WHOLE:
                    group.cancel_scope.cancel()
        finally:
            self._finish("" if self._delivery.ending is Ending.HANG else CLIENT_LEFT)

    async def _send(self, scope: Scope, send: Send) -> None:
        parts, ending = self._delivery.parts, self._delivery.ending
        start = {"type": "http.response.start", "status": self.status_code}
        for number, part in enumerate(parts):
            await anyio.sleep(part.wait_seconds)
            last = number == len(parts) - 1
            if last and ending is Ending.WHOLE:
                self._finish("")  # before it is sent: a client that has it finds it in the ledger
            if number == 0:
                await send({**start, "headers": self.raw_headers})
            more = not last or ending is not Ending.WHOLE
            await send({"type": "http.response.body", "body": part.data, "more_body": more})
        if ending is Ending.CUT:
            self._finish("")
            self._hang_up(scope)

    def _finish(self, why: str) -> None:
        if not self._finished:
            self._finished = True
            self._delivery.finish(why)


async def _client_left(receive: Receive, scope: anyio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()
