"""HTTP for operators: `/metrics` for Prometheus and `/healthz` for the engine's health check."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from socketserver import TCPServer, ThreadingMixIn
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import make_wsgi_app

from pipelines.errors import ConfigError

if TYPE_CHECKING:
    from wsgiref.types import WSGIApplication


@dataclass
class Health:
    """What a service says of itself: it is healthy when no condition is false. Safe to set from any thread."""

    conditions: dict[str, bool] = field(default_factory=dict)

    def set(self, **conditions: bool) -> None:
        """State conditions such as `assigned=True`; a service declares all of them (False) before it serves."""
        self.conditions = {**self.conditions, **conditions}

    @property
    def ok(self) -> bool:
        """True if every condition holds."""
        return all(self.conditions.values())


class _HttpServer(ThreadingMixIn, WSGIServer):
    """One slow client does not keep the others waiting."""

    daemon_threads = True

    def server_bind(self) -> None:
        """Without the look-up of the host's name that the base class does: where there is no DNS it takes long."""
        TCPServer.server_bind(self)
        host, self.server_port = self.server_address[:2]
        self.server_name = str(host)
        self.setup_environ()


class _Quiet(WSGIRequestHandler):
    timeout = 30  # seconds that a client may say nothing

    def log_message(self, format: str, *args: object) -> None:
        pass


@dataclass
class Server:
    """A running HTTP server in a daemon thread."""

    port: int
    stop: Callable[[], None]


def serve(port: int, health: Health, host: str = "0.0.0.0") -> Server:  # noqa: S104 - scraped from outside the container
    """Serve metrics and health on `port` (0: any free one); `ConfigError` if it is taken."""
    metrics: Any = make_wsgi_app()

    def app(environ: dict[str, Any], respond: Callable[..., Any]) -> Iterable[bytes]:
        if environ["PATH_INFO"] != "/healthz":
            return metrics(environ, respond)  # type: ignore[no-any-return]  # prometheus_client's app is untyped here
        respond("200 OK" if health.ok else "503 Service Unavailable", [("Content-Type", "application/json")])
        return [json.dumps({"healthy": health.ok, "conditions": health.conditions}).encode()]

    return serve_app(port, app, "metrics", host)


def serve_app(port: int, app: WSGIApplication, name: str, host: str = "0.0.0.0") -> Server:  # noqa: S104 - as above
    """Serve a WSGI application on `port` (0: any free one); `ConfigError` if it is taken."""
    try:
        server = make_server(host, port, app, server_class=_HttpServer, handler_class=_Quiet)
    except OSError as e:
        raise ConfigError(f"{name} port {port} cannot be used ({e.strerror}): set another `{name}_port`") from e
    thread = threading.Thread(target=server.serve_forever, daemon=True, name=name)
    thread.start()

    def stop() -> None:
        server.shutdown()
        thread.join()
        server.server_close()

    return Server(server.server_port, stop)
