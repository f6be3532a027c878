"""Control's HTTP API: signed commands in, what became of them out. Served only where the site asks for it.

    POST /v1/commands                      a signed command, as `pipeline device sign` prints it
    POST /v1/commands/{id}/approvals       a signed command `approve` for that one
    GET  /v1/commands/{id}                 what became of it
    GET  /v1/devices/{device}/commands     what a device was told, newest first
    GET  /v1/approvals                     what waits for a second signature

`?wait=10s` waits until the command has come to an end, so long at most. A command goes to the command topic, as from anybody: the
API adds no authority and no second way. Errors are JSON: {"error": "…", "reason": "…"}.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from connectors.control.api_admission import Tokens
from connectors.control.api_names import CERTIFICATE, KEY, TOKENS
from connectors.control.commands import COMMAND_BYTES_MAX, Command, decode
from connectors.control.desk import Desk
from connectors.control.devices import APPROVE
from connectors.control.ledger import OPEN, Entry
from connectors.gate import Gate, tls_context
from pipelines import metrics
from pipelines.clock import Clock
from pipelines.errors import BadData, ConfigError, Unavailable
from pipelines.settings import Settings
from pipelines.units import duration_s

CONNECTIONS_MAX = 100  # at once; more are told to come later
WAITING_MAX = 50  # of them those that wait for a command
WAIT_S_MAX = 30.0
LIST_MAX = 1_000  # commands in one answer
BODY_S_MAX = 10.0  # for a body to come
SEND_S_MAX = 5.0  # for Kafka to take a command
IDLE_S_MAX = 60.0
HEAD_LINE_BYTES_MAX = 4_096
CLOSE_S_MAX = 1.0
RETRY_S = 5
Send = Callable[[Command], Awaitable[None]]
log = logging.getLogger("control")
_quiet = logging.getLogger("control.api")  # what strangers send is not for our log
_quiet.setLevel(logging.CRITICAL)


class Refusal(Exception):
    """What is not done: the status, what is told, and a word for programs."""

    def __init__(self, status: int, reason: str, text: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(text)
        self.status, self.reason, self.headers = status, reason, headers


class Api:
    """The answers, without the server."""

    def __init__(self, site: str, desk: Desk, send: Send, tokens: Tokens, clock: Clock) -> None:
        self._site, self._desk, self._send, self._tokens, self._clock = site, desk, send, tokens, clock
        self._waiting = 0

    def app(self) -> web.Application:
        """As an application of aiohttp."""
        app = web.Application(middlewares=[self._guarded], client_max_size=COMMAND_BYTES_MAX)
        app.router.add_post("/v1/commands", self.post)
        app.router.add_post("/v1/commands/{id}/approvals", self.approve)
        app.router.add_get("/v1/commands/{id}", self.get)
        app.router.add_get("/v1/devices/{device}/commands", self.of_device)
        app.router.add_get("/v1/approvals", self.approvals)
        return app

    async def post(self, request: web.Request) -> web.Response:
        """Take a command in: 202, 200 if it has come to an end by now or was known before."""
        return await self._take(request, await self._command(request))

    async def approve(self, request: web.Request) -> web.Response:
        """Take in an approval of the command in the path; as `post`, for the approval."""
        command = await self._command(request)
        if command.verb != APPROVE or command.args.get("id") != request.match_info["id"]:
            raise Refusal(400, "approval", f"send a signed command 'approve' with id={request.match_info['id']}")
        if self._desk.entry(request.match_info["id"]) is None:
            raise _unknown(request.match_info["id"])
        return await self._take(request, command)

    async def get(self, request: web.Request) -> web.Response:
        """What became of a command."""
        entry = await self._settled(request.match_info["id"], _wait_s(request), patient=False)
        if entry is None:
            raise _unknown(request.match_info["id"])
        return _json(200, shown(entry))

    async def of_device(self, request: web.Request) -> web.Response:
        """The commands of a device, newest first."""
        device = request.match_info["device"]
        found = [e for e in self._desk.entries() if e.command.device == device]
        return _json(200, {"device": device, "commands": _listed(found, _limit(request))})

    async def approvals(self, request: web.Request) -> web.Response:
        """What waits for a second signature."""
        found = [e for e in self._desk.entries() if e.state == "AWAITING_APPROVAL"]
        return _json(200, {"commands": _listed(found, _limit(request))})

    async def _command(self, request: web.Request) -> Command:
        try:
            async with asyncio.timeout(BODY_S_MAX):
                raw = await request.read()
        except TimeoutError as e:
            raise Refusal(408, "slow", f"the body did not come within {BODY_S_MAX:.0f} s") from e
        except (ConnectionError, HttpProcessingError, web.RequestPayloadError) as e:
            raise Refusal(400, "body", f"the body is cut short, or none of HTTP: {e}") from e
        try:
            named = msgspec.json.decode(raw, type=dict[str, Any]).get("device", "")
            return decode(raw, str(named).encode())
        except (BadData, msgspec.DecodeError, UnicodeError) as e:
            raise Refusal(400, e.reason if isinstance(e, BadData) else "json", str(e)) from e

    async def _take(self, request: web.Request, command: Command) -> web.Response:
        wait_s = _wait_s(request)
        known = self._desk.entry(command.id)
        if known is None or known.command.sig != command.sig:
            if why := await self._desk.forged(command):
                raise Refusal(403, "signature", f"command {command.id}: {why}")
            if known is not None:
                raise Refusal(409, "id", f"command {command.id} is on record, and is another: make a new id")
            await self._sent(command)
        entry = await self._settled(command.id, wait_s, patient=True)
        place = {"Location": f"/v1/commands/{command.id}"}
        if entry is None:
            return _json(202, {"id": command.id, "device": command.device, "state": "SENT"}, place)
        return _json(202 if entry.state in OPEN else 200, shown(entry), place)

    async def _sent(self, command: Command) -> None:
        try:
            async with asyncio.timeout(SEND_S_MAX):
                await self._send(command)
        except (Unavailable, TimeoutError) as e:
            text = f"Kafka did not take command {command.id} in time: send the same again later"
            raise Refusal(503, "kafka", text, {"Retry-After": str(RETRY_S)}) from e

    async def _settled(self, command_id: str, wait_s: float, *, patient: bool) -> Entry | None:
        """The command once it has come to an end, or as it is after `wait_s`. None if it is not on record; who is `patient` has
        just sent it.
        """
        entry = self._desk.entry(command_id)
        if not wait_s or (entry is None and not patient) or (entry is not None and entry.state not in OPEN):
            return entry
        if self._waiting >= WAITING_MAX:
            text = f"{WAITING_MAX} requests wait for commands: leave ?wait= away"
            raise Refusal(503, "waiting", text, {"Retry-After": str(RETRY_S)})
        self._waiting += 1
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    while (entry := self._desk.entry(command_id)) is None or entry.state in OPEN:
                        await self._desk.change()
        finally:
            self._waiting -= 1
        return self._desk.entry(command_id)

    @web.middleware
    async def _guarded(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        try:
            self._admit(request)
            answer = await handler(request)
        except Refusal as e:
            answer = _json(e.status, {"error": str(e), "reason": e.reason}, e.headers)
        except Unavailable as e:  # the service ends
            answer = _json(503, {"error": str(e), "reason": "kafka"}, {"Retry-After": str(RETRY_S)})
        except web.HTTPException as e:  # the router's, and that of a body that is too large
            answer = _json(e.status, _HTTP.get(e.status, {"error": e.reason, "reason": "http"}), _allow(e))
        except Exception:
            log.exception("%s %s", request.method, request.path)
            answer = _json(500, {"error": "this is a bug: the log of control has its trace", "reason": "bug"})
        metrics.control_api_answers.labels(self._site, str(answer.status)).inc()
        return answer

    def _admit(self, request: web.Request) -> None:
        status, wait_s = self._tokens.admit(request.headers.get("Authorization", ""), self._clock.monotonic_s())
        if status == 401:
            text = "send the header  Authorization: Bearer TOKEN  with a token that is known here"
            raise Refusal(401, "token", text, {"WWW-Authenticate": "Bearer"})
        if status:
            raise Refusal(429, "rate", f"too many requests: come again in {wait_s} s", {"Retry-After": str(wait_s)})


def shown(entry: Entry) -> dict[str, object]:
    """A command as it stands. Times are nanoseconds since the epoch."""
    c = entry.command
    return {
        "id": c.id, "device": c.device, "verb": c.verb, "args": c.args, "issuer": c.issuer, "state": entry.state.value,
        "detail": entry.detail, "final": entry.state not in OPEN, "attempts": entry.attempts, "signers": entry.signers,
        "issued_at_ns": c.issued_at_ns, "expires_at_ns": c.expires_at_ns, "updated_at_ns": entry.updated_at_ns,
    }  # fmt: skip


def _listed(entries: list[Entry], limit: int) -> list[dict[str, object]]:
    return [shown(e) for e in sorted(entries, key=lambda e: e.command.issued_at_ns, reverse=True)[:limit]]


def _wait_s(request: web.Request) -> float:
    text = request.query.get("wait", "")
    try:
        wait_s = duration_s(text) if text else 0.0
    except ConfigError as e:
        raise Refusal(400, "wait", f"wait: {e}") from e
    if not 0 <= wait_s <= WAIT_S_MAX:
        raise Refusal(400, "wait", f"wait={text}: at most {WAIT_S_MAX:.0f}s")
    return wait_s


def _limit(request: web.Request) -> int:
    text = request.query.get("limit", "100")
    if not text.isascii() or not text.isdecimal() or not 1 <= int(text[:9]) <= LIST_MAX:
        raise Refusal(400, "limit", f"limit={text}: write 1 to {LIST_MAX}")
    return int(text)


def _unknown(command_id: str) -> Refusal:
    return Refusal(404, "id", f"no command {command_id} is on record: it is forgotten a day after it expired")


def _json(status: int, body: object, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.Response(
        status=status, body=msgspec.json.encode(body), content_type="application/json",
        headers={"Cache-Control": "no-store", **(headers or {})},
    )  # fmt: skip


_HTTP = {
    404: {"error": "there is nothing at this path: docs/control.md lists what there is", "reason": "path"},
    405: {"error": "this path does not take that method", "reason": "method"},
    413: {"error": f"a command has at most {COMMAND_BYTES_MAX} bytes", "reason": "size"},
}


def _allow(e: web.HTTPException) -> dict[str, str]:
    return {"Allow": e.headers["Allow"]} if "Allow" in e.headers else {}


@contextlib.asynccontextmanager
async def serving(settings: Settings, desk: Desk, send: Send, clock: Clock) -> AsyncIterator[None]:
    """Serve it at the option `listen` while the context lasts; nothing without that option.

    `ConfigError` if a secret is missing or wrong, or the address cannot be used.
    """
    listen = settings.options.get("listen", "")
    if not listen:
        yield
        return
    address = _address(listen)
    folder = Path(settings.secrets_dir)
    api = Api(settings.site, desk, send, Tokens(TOKENS.read(folder)), clock)
    runner = web.AppRunner(
        api.app(), access_log=None, logger=_quiet, keepalive_timeout=IDLE_S_MAX, max_line_size=HEAD_LINE_BYTES_MAX,
        max_field_size=HEAD_LINE_BYTES_MAX, auto_decompress=False, handle_signals=False, shutdown_timeout=CLOSE_S_MAX,
    )  # fmt: skip
    await runner.setup()
    http = runner.server
    assert http is not None  # it is set up
    tls = _tls(folder)
    try:
        gate = Gate(address, http, tls, CONNECTIONS_MAX)
    except OSError as e:
        raise ConfigError(f"option listen: {listen} cannot be listened on ({e.strerror}): does another program?") from e
    log.info("commands are taken at %s://%s", "https" if tls else "http", listen)
    try:
        yield
    finally:
        await gate.close()
        await runner.cleanup()


def _address(listen: str) -> tuple[str, int]:
    host, _, port = listen.rpartition(":")
    if not host or not port.isdecimal() or not 1 <= int(port) <= 65535:
        raise ConfigError(f"option listen = {listen!r}: write address:port, such as '127.0.0.1:9471'")
    return host.strip("[]"), int(port)


def _tls(folder: Path) -> ssl.SSLContext | None:
    """TLS 1.2 or 1.3 with the certificate in the secrets; None if there is none."""
    there = [s for s in (CERTIFICATE, KEY) if (folder / s.name).is_file()]
    if not there:
        return None
    return tls_context(CERTIFICATE.file(folder), KEY.file(folder))
