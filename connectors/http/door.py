"""The server that devices post to, shared by all sources of the process that name the same address. aiohttp speaks HTTP."""

from __future__ import annotations

import asyncio
import logging
import ssl
from pathlib import Path

from aiohttp import web

from connectors.gate import Gate, tls_context
from connectors.http.route import Route
from pipelines.errors import ConfigError, NotConnected

CONNECTIONS_MAX = 1_000  # at once; more are told to come later
CONNECTIONS_TLS_MAX = 250  # each takes 275 KiB, asyncio's buffers for the most part, of the 256 MiB that collect has
IDLE_S_MAX = 30.0  # without a whole head of a request, from the connection's begin or its last answer
HEAD_LINE_BYTES_MAX = 1_024  # of strangers, too: a thousand of them can make us hold 70 MB, of 256 that collect has
HEADERS_MAX = 32
READ_BYTES_MAX = 16_384  # of a body that nobody has asked for yet
CLOSE_S_MAX = 1.0
LINGER_S_MAX = 2.0  # for the rest of a body that nobody wants
Tls = tuple[Path, Path] | None  # certificate and key
log = logging.getLogger("collect")
_quiet = logging.getLogger("collect.http")  # what strangers send is not for our log
_quiet.setLevel(logging.CRITICAL)
_doors: dict[tuple[str, int], Door] = {}


class Door:
    """A server at an address; it is open while it has routes."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._address = address
        self._tls: Tls = None
        self._routes: list[Route] = []
        self._changing = asyncio.Lock()
        self._http: web.Server | None = None
        self._gate: Gate | None = None

    async def add(self, route: Route, tls: Tls) -> None:
        """Serve a route, too. `NotConnected` if the address cannot be had, `ConfigError` if routes contradict each other."""
        async with self._changing:
            where = "{}:{}".format(*self._address)
            if any(r.path == route.path for r in self._routes):
                raise ConfigError(f"http push: {where} has two sources with the path {route.path}: give each its own")
            if self._routes and self._tls != tls:
                raise ConfigError(f"http push: sources at {where} name different certificates: a port has one")
            if self._gate is None:
                self._tls = tls
                self._listen(None if tls is None else tls_context(*tls))
            self._routes.append(route)

    async def remove(self, route: Route) -> None:
        """Serve it no more; its posts are answered."""
        async with self._changing:
            if route in self._routes:
                self._routes.remove(route)
            gate, http = self._gate, self._http
            if self._routes or gate is None or http is None:
                return
            self._gate = self._http = None
            await gate.close()
            http.pre_shutdown()
            await http.shutdown(CLOSE_S_MAX)
            _doors.pop(self._address, None)

    def _listen(self, tls: ssl.SSLContext | None) -> None:
        self._http = web.Server(
            self._handle, access_log=None, logger=_quiet, keepalive_timeout=IDLE_S_MAX, lingering_time=LINGER_S_MAX,
            max_line_size=HEAD_LINE_BYTES_MAX, max_field_size=HEAD_LINE_BYTES_MAX, max_headers=HEADERS_MAX, auto_decompress=False,
            read_bufsize=READ_BYTES_MAX,
        )  # fmt: skip
        host, port = self._address
        try:
            most = CONNECTIONS_MAX if tls is None else CONNECTIONS_TLS_MAX
            self._gate = Gate(self._address, self._http, tls, most)
        except OSError as e:
            raise NotConnected(
                f"http push: {host}:{port} cannot be listened on ({e.strerror}): does another program?"
            ) from e

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
