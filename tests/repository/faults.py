"""Bad links and liars: a proxy that cuts connections, and a server that answers as it is told."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Proxy:
    """Passes TCP on to a port; each connection is cut after so many bytes in one direction."""

    def __init__(self, to: int, *, down: int | None = None, up: int | None = None, cuts_max: int = 1 << 30) -> None:
        self._to, self.down, self.up, self._cuts_max = to, down, up, cuts_max
        self.cuts = self.connections = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self.connections += 1
                server = socket.create_connection(("127.0.0.1", self._to))
                for a, b, budget in ((client, server, self.up), (server, client, self.down)):
                    threading.Thread(target=self._pass_on, args=(a, b, budget), daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket, budget: int | None) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if self.cuts >= self._cuts_max:
                    budget = None
                if budget is not None:
                    data, budget = data[:budget], budget - len(data)
                target.sendall(data)
                if budget is not None and budget <= 0:
                    self.cuts += 1
                    break
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        source.close()


@contextlib.contextmanager
def proxy(to: int, *, down: int | None = None, up: int | None = None, cuts_max: int = 1 << 30) -> Iterator[Proxy]:
    between = Proxy(to, down=down, up=up, cuts_max=cuts_max)
    try:
        yield between
    finally:
        between.close()


Answer = Callable[[BaseHTTPRequestHandler], None]


@contextlib.contextmanager
def server(answer: Answer) -> Iterator[str]:
    """host:port of a server that gives every request to `answer`."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_one_request(self) -> None:
            with contextlib.suppress(OSError):
                super().handle_one_request()

        def log_message(self, *_: object) -> None: ...

        def do(self) -> None:
            answer(self)

        do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.daemon_threads = True
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"127.0.0.1:{httpd.server_port}"
    finally:
        httpd.shutdown()
        thread.join()
        httpd.server_close()


def reply(request: BaseHTTPRequestHandler, status: int, body: bytes = b"", **headers: str) -> None:
    """One whole answer."""
    request.send_response(status)
    for name, value in {"Content_Length": str(len(body)), **headers}.items():
        request.send_header(name.replace("_", "-"), value)
    request.end_headers()
    if request.command != "HEAD":
        request.wfile.write(body)
