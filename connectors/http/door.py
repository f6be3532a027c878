"""The server that devices post to, shared by all sources of the process that name the same address. aiohttp speaks HTTP."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable
from pathlib import Path

from aiohttp import web

from connectors.http.route import Route
from pipelines.errors import ConfigError, NotConnected

CONNECTIONS_MAX = 1_000  # at once; more are told to come later
IDLE_S_MAX = 30.0  # without a whole head of a request, from the connection's begin or its last answer
HANDSHAKE_S_MAX = 10.0  # of TLS
HEAD_LINE_BYTES_MAX = 2_048  # of strangers, too: with the limits around it, what they can make us hold is bounded
HEADERS_MAX = 32
READ_BYTES_MAX = 16_384  # of a body that nobody has asked for yet
CLOSE_S_MAX = 1.0
LINGER_S_MAX = 2.0  # for the rest of a body that nobody wants
BACKLOG = 128
FULL = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
Tls = tuple[Path, Path] | None  # certificate and key
log = logging.getLogger("collect")
_quiet = logging.getLogger("collect.http")  # what strangers send is not for our log
_quiet.setLevel(logging.CRITICAL)
_doors: dict[tuple[str, int], Door] = {}


class _Full(asyncio.Protocol):
    """Turns a connection away."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        assert isinstance(transport, asyncio.WriteTransport)
        transport.write(FULL)
        transport.close()


class Door:
    """A server at an address; it is open while it has routes."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._address = address
        self._tls: Tls = None
        self._routes: list[Route] = []
        self._changing = asyncio.Lock()
        self._http: web.Server | None = None
        self._server: asyncio.Server | None = None

    async def add(self, route: Route, tls: Tls) -> None:
        """Serve a route, too. `NotConnected` if the address cannot be had, `ConfigError` if routes contradict each other."""
        async with self._changing:
            where = "{}:{}".format(*self._address)
            if any(r.path == route.path for r in self._routes):
                raise ConfigError(f"http push: {where} has two sources with the path {route.path}: give each its own")
            if self._routes and self._tls != tls:
                raise ConfigError(f"http push: sources at {where} name different certificates: a port has one")
            if self._server is None:
                self._tls = tls
                await self._listen(None if tls is None else context_of(*tls))
            self._routes.append(route)

    async def remove(self, route: Route) -> None:
        """Serve it no more; its posts are answered."""
        async with self._changing:
            if route in self._routes:
                self._routes.remove(route)
            server, http = self._server, self._http
            if self._routes or server is None or http is None:
                return
            self._server = self._http = None
            server.close()
            http.pre_shutdown()
            await http.shutdown(CLOSE_S_MAX)
            _doors.pop(self._address, None)

    async def _listen(self, tls: ssl.SSLContext | None) -> None:
        self._http = web.Server(
            self._handle, access_log=None, logger=_quiet, keepalive_timeout=IDLE_S_MAX, lingering_time=LINGER_S_MAX,
            max_line_size=HEAD_LINE_BYTES_MAX, max_field_size=HEAD_LINE_BYTES_MAX, max_headers=HEADERS_MAX, auto_decompress=False,
            read_bufsize=READ_BYTES_MAX,
        )  # fmt: skip
        host, port = self._address
        handshake_s = None if tls is None else HANDSHAKE_S_MAX
        try:
            self._server = await asyncio.get_running_loop().create_server(
                self._connection(self._http), host, port, ssl=tls, ssl_handshake_timeout=handshake_s, backlog=BACKLOG
            )
        except OSError as e:
            raise NotConnected(
                f"http push: {host}:{port} cannot be listened on ({e.strerror}): does another program?"
            ) from e

    @staticmethod
    def _connection(http: web.Server) -> Callable[[], asyncio.Protocol]:
        return lambda: http() if len(http.connections) < CONNECTIONS_MAX else _Full()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        for route in self._routes:
            key = route.key(request.rel_url.raw_path)
            if key is not None:
                return await _answered(route, request, key)
        return web.Response(status=404, text="nothing is posted here: correct the path")


async def _answered(route: Route, request: web.BaseRequest, key: str) -> web.Response:
    try:
        return await route.answer(request, key)
    except Exception:  # ours: aiohttp would tell a logger that is silent
        log.exception("http push: %s", route.path)
        return web.Response(status=500, text="a mistake of ours: send it again later", headers={"Retry-After": "30"})


def door(address: tuple[str, int]) -> Door:
    """The one at an address."""
    return _doors.setdefault(address, Door(address))


def context_of(certificate: Path, key: Path) -> ssl.SSLContext:
    """TLS 1.2 or 1.3 with a certificate; `ConfigError` if the files hold none."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key)
    except ssl.SSLError as e:
        raise ConfigError(
            f"secrets {certificate.name!r} and {key.name!r} are no certificate and its key in PEM form: {e}"
        ) from e
    return context
