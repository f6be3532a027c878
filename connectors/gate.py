"""Takes connections in, so many and no more; those count, too, that are still at the handshake of TLS."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from pathlib import Path

from aiohttp import web

from pipelines.errors import ConfigError

HANDSHAKE_S_MAX = 10.0  # of TLS
BACKLOG = 128
PAUSE_S = 1.0  # when the system has no file left for a connection
FULL = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
log = logging.getLogger("gate")


class Gate:
    """Between a listening socket and a server of aiohttp."""

    def __init__(
        self, address: tuple[str, int], http: web.Server, tls: ssl.SSLContext | None, connections_max: int
    ) -> None:
        """`OSError` if the address cannot be had."""
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self._socket = socket.create_server(address, family=family, backlog=BACKLOG)
        self._socket.setblocking(False)
        self._http, self._tls, self.connections_max = http, tls, connections_max
        self._where = "{}:{}".format(*address)
        self._greeted: set[asyncio.Task[None]] = set()
        self._accepting = asyncio.create_task(self._accept())

    @property
    def _full(self) -> bool:
        return len(self._greeted) + len(self._http.connections) >= self.connections_max

    async def close(self) -> None:
        """Take no more in, and give up those at the handshake."""
        tasks = [self._accepting, *self._greeted]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._socket.close()

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                made, _ = await loop.sock_accept(self._socket)
            except OSError as e:
                log.warning("%s: no connection can be taken in: %s", self._where, e)
                await asyncio.sleep(PAUSE_S)
                continue
            if self._full:
                self._turn_away(made)
                continue
            task = asyncio.create_task(self._greet(made))
            self._greeted.add(task)
            task.add_done_callback(self._greeted.discard)

    def _turn_away(self, made: socket.socket) -> None:
        with contextlib.suppress(OSError), made:
            if self._tls is None:
                made.send(FULL)
                made.shutdown(socket.SHUT_WR)

    async def _greet(self, made: socket.socket) -> None:
        handshake_s = None if self._tls is None else HANDSHAKE_S_MAX
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                self._http, made, ssl=self._tls, ssl_handshake_timeout=handshake_s
            )
        except OSError:  # no TLS, or a stranger who left; among them are ssl.SSLError and TimeoutError
            made.close()


def tls_context(certificate: Path, key: Path) -> ssl.SSLContext:
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
