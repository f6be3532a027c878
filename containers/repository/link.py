"""HTTP to one registry: TLS, authentication, and errors that say what to do."""

from __future__ import annotations

import contextlib
import ipaddress
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import SplitResult, urljoin, urlsplit

import requests
import urllib3.exceptions
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from containers.repository.auth import PASSWORD_VARIABLE, USER_VARIABLE, Challenge, Credentials, challenge
from containers.repository.errors import NotFound, TooLarge, Unauthorised, Unreachable, WrongDigest
from pipelines.errors import ConfigError
from pipelines.urls import masked

CONNECT_TIMEOUT_S, READ_TIMEOUT_S = 10, 60
ANSWER_BYTES_MAX = 1 << 20  # of anything but blobs and manifests
ERROR_BYTES_MAX = 4096  # that are looked at
TOKENS_MAX = 256
PIECE_BYTES = 64 << 10  # small, since what is lost when a link breaks is fetched again


@dataclass(frozen=True)
class Address:
    """Where a registry is: `base` ends with '/v2/', `prefix` stands before every name in it."""

    host: str
    base: str
    prefix: str


def parse_address(text: str, *, plain: bool = False) -> Address:
    """Read '[https://]host[:port][/prefix]'; `ConfigError` if it is no address, or http to elsewhere without `plain`.

    Without a scheme it is https, but http for this machine, as Docker has it.
    """
    try:
        local = "://" not in text and _is_loopback(urlsplit(f"//{text}").hostname or "")
        url = urlsplit(text if "://" in text else f"{'http' if local or plain else 'https'}://{text}")
        port = url.port
    except ValueError:
        url, port = urlsplit(""), 0
    if port == 0 or url.scheme not in ("http", "https") or not url.hostname or url.query or url.username:
        raise ConfigError(
            f"{masked(text)!r} is no address of a registry: write host:port/folder, such as 'registry.example.com/plants'"
        )
    if not may_go(url, plain=plain):
        raise ConfigError(
            f"{text} is plain http, where anybody on the way can read passwords: use https, or say expressly that it may be plain"
        )
    return Address(url.netloc, f"{url.scheme}://{url.netloc}/v2/", url.path.strip("/"))


def may_go(url: SplitResult, *, plain: bool) -> bool:
    """Whether passwords may be sent there."""
    return url.scheme == "https" or plain or _is_loopback(url.hostname or "")


def _is_loopback(host: str) -> bool:
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


# a registry that reads what it is just writing, as Docker's does with tags, fails at it
_ONCE_MORE = Retry(
    total=3, connect=0, read=0, redirect=0, other=0, status_forcelist=(500, 502, 503, 504), allowed_methods=("GET", "HEAD"),
    backoff_factor=0.2, backoff_jitter=0.1, raise_on_status=False, respect_retry_after_header=False,
)  # fmt: skip


class Link:
    """Requests to one registry. What is only read is asked for again, for about a second, if the registry fails at it."""

    def __init__(self, address: Address, credentials: Credentials | None, ca: Path | None, *, plain: bool) -> None:
        if ca is not None and not ca.is_file():
            raise ConfigError(f"{ca}, the certificate authority of {address.host}, is not there: copy it there")
        self.address, self._credentials, self._plain = address, credentials, plain
        self._verify = str(ca) if ca else True
        self._session = requests.Session()
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, HTTPAdapter(max_retries=_ONCE_MORE))
        self._session.headers["Accept-Encoding"] = "identity"  # a blob that is decoded on the way has another digest
        self._authorization: dict[tuple[str, bool], str] = {}  # by name, and whether it is to write

    def close(self) -> None:
        """Close all connections."""
        self._session.close()

    @contextlib.contextmanager
    def send(
        self, method: str, path: str, name: str, *, body: bytes = b"", headers: dict[str, str] | None = None,
        params: dict[str, str] | None = None,
    ) -> Iterator[requests.Response]:  # fmt: skip
        """One request, `path` relative to /v2/ or absolute; the answer, if it is a good one, is open inside the `with`."""
        url = urljoin(self.address.base, path)
        scope = (name, method not in ("GET", "HEAD"))
        with self._explained():
            answer = self._once(method, url, scope, body, headers, params)
            if answer.status_code == requests.codes.unauthorized:
                with answer:
                    answer.raw.read(ERROR_BYTES_MAX)
                    asked = challenge(answer.headers.get("WWW-Authenticate", ""))
                if len(self._authorization) >= TOKENS_MAX:
                    self._authorization.clear()
                self._authorization[scope] = self._authorize(asked)
                answer = self._once(method, url, scope, body, headers, params)
            with answer:
                if not answer.ok:
                    self._refused(answer, name)
                yield answer
                if answer.raw.length_remaining == 0:
                    answer.raw.drain_conn()  # so that the connection can be used again

    def _once(
        self, method: str, url: str, scope: tuple[str, bool], body: bytes, headers: dict[str, str] | None,
        params: dict[str, str] | None,
    ) -> requests.Response:  # fmt: skip
        def sign(request: requests.PreparedRequest) -> requests.PreparedRequest:
            if (request.url or "").startswith(
                self.address.base
            ) and scope in self._authorization:  # nobody else gets it
                request.headers["Authorization"] = self._authorization[scope]
            return request

        return self._session.request(
            method, url, data=body or None, headers=headers, params=params, auth=sign, verify=self._verify, stream=True,
            timeout=(CONNECT_TIMEOUT_S, READ_TIMEOUT_S),
        )  # fmt: skip

    def _authorize(self, asked: Challenge) -> str:
        if asked.scheme == "basic" and self._credentials:
            return self._credentials.header
        if asked.scheme == "bearer":
            return f"Bearer {self._token(asked)}"
        raise Unauthorised(f"{self.address.host} does not let us in {self._who()}: {self._cure()}")

    def _token(self, asked: Challenge) -> str:
        realm = asked.parameters.get("realm", "")
        if not may_go(urlsplit(realm), plain=self._plain):
            raise Unauthorised(
                f"{self.address.host} asks to send the password to {realm!r} without encryption: it is not sent"
            )
        params = {k: asked.parameters[k] for k in ("service", "scope") if k in asked.parameters}

        def sign(request: requests.PreparedRequest) -> requests.PreparedRequest:
            if self._credentials:
                request.headers["Authorization"] = self._credentials.header
            return request

        with self._session.get(
            realm,
            params=params,
            auth=sign,
            verify=self._verify,
            stream=True,
            timeout=(CONNECT_TIMEOUT_S, READ_TIMEOUT_S),
        ) as answer:
            if answer.status_code in (requests.codes.unauthorized, requests.codes.forbidden):
                raise Unauthorised(f"{realm}, which issues the tokens of {self.address.host}, refuses: {self._cure()}")
            if not answer.ok:
                raise Unreachable(
                    f"{realm}, which issues the tokens of {self.address.host}, answers {answer.status_code}"
                )
            said: dict[str, Any] = json.loads(limited(answer, ANSWER_BYTES_MAX))
        return str(said.get("token") or said.get("access_token") or "")

    def _refused(self, answer: requests.Response, name: str) -> NoReturn:
        code, said = _said(answer)
        what = f"{self.address.host} ({answer.request.method} {name or '/'}): {said}"
        if answer.status_code == requests.codes.unauthorized:
            raise Unauthorised(f"{what}: it does not let us in {self._who()}: {self._cure()}")
        if answer.status_code == requests.codes.forbidden:
            raise Unauthorised(f"{what}: we may not do that {self._who()}: {self._cure()}")
        if answer.status_code == requests.codes.not_found:
            raise NotFound(what)
        if code == "DIGEST_INVALID":
            raise WrongDigest(f"{what}: what was sent is not what its digest says: build it anew")
        if answer.status_code >= 500 or answer.status_code == requests.codes.too_many_requests:
            raise Unreachable(f"{what}: try again later; if it stays so, look into the registry's log and at its disk")
        raise ConfigError(f"{what} (status {answer.status_code})")

    def _who(self) -> str:
        return f"as {self._credentials.user}" if self._credentials else "without credentials"

    def _cure(self) -> str:
        return f"docker login {self.address.host} , or set {USER_VARIABLE} and {PASSWORD_VARIABLE}"

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Turns the client library's errors into ours."""
        host = self.address.host
        try:
            yield
        except requests.exceptions.SSLError as e:
            raise Unreachable(
                f"{host} does not prove who it is ({_reason(e)}): give the certificate authority that issued its certificate, or "
                "correct the address"
            ) from e
        except (requests.RequestException, urllib3.exceptions.HTTPError) as e:
            raise Unreachable(
                f"the registry at {host} cannot be reached, or the link broke ({_reason(e)}): try again"
            ) from e
        except ValueError as e:
            raise Unreachable(f"what answers at {host} is no registry ({e}): correct the address") from e


def limited(answer: requests.Response, bytes_max: int) -> bytes:
    """The body of an answer; `TooLarge` if it is longer."""
    body: bytes = answer.raw.read(bytes_max + 1, decode_content=False)
    if len(body) > bytes_max:
        raise TooLarge(
            f"the answer of {urlsplit(answer.url).netloc} is longer than {bytes_max} bytes: nothing of it is used"
        )
    return body


def streamed(answer: requests.Response) -> Iterator[bytes]:
    """The body of an answer as it comes."""
    yield from answer.raw.stream(PIECE_BYTES, decode_content=False)


def _said(answer: requests.Response) -> tuple[str, str]:
    """The code and the text of a registry's error; of anything else its status."""
    try:
        first = json.loads(answer.raw.read(ERROR_BYTES_MAX))["errors"][0]
        return str(first["code"]), f"{first['code']}: {first.get('message', '')}"
    except (ValueError, LookupError, TypeError):
        return "", f"status {answer.status_code}"


def _reason(error: BaseException) -> str:
    """The innermost reason; what stands around it are addresses of objects."""
    inner = getattr(error, "reason", None)
    found = inner if isinstance(inner, Exception) else next((a for a in error.args if isinstance(a, Exception)), None)
    return _reason(found) if found else str(error).rpartition(": ")[2]
