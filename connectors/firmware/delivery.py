"""How a device gets an image: in chunks over MQTT, or over HTTP with ranges and a token. Both read the same verified file."""

from __future__ import annotations

import hashlib
import hmac
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from connectors.firmware.protocol import CHUNK_BYTES_MAX, pack

REQUESTS_MAX = 32  # over HTTP at the same time; each has a thread
PIECE_BYTES = 64 * 2**10
_RANGE = re.compile(r"bytes=(\d+)-(\d*)")
_PATH = re.compile(r"/([^/]+)/([0-9a-f]{64})")
Counted = Callable[[int], object]


def chunks(place: Path, sha256: str, offset: int, want: int) -> Iterator[bytes]:
    """Chunks of an image from an offset on."""
    with place.open("rb") as file:
        file.seek(offset)
        for _ in range(want):
            data = file.read(CHUNK_BYTES_MAX)
            if not data:
                return
            yield pack(sha256, offset, data)
            offset += len(data)


class Store:
    """`GET /{device}/{sha256}` as a WSGI application. Images are served once they are verified, and to whom holds the token."""

    def __init__(self, key: bytes, counted: Counted) -> None:
        self._key, self._counted = key, counted
        self._images: dict[str, Path] = {}
        self._free = threading.BoundedSemaphore(REQUESTS_MAX)

    def offer(self, images: dict[str, Path]) -> None:
        """From now on these are served, by sha256, and no others."""
        self._images = dict(images)

    def token(self, device: str, sha256: str) -> str:
        """What a device must show for an image."""
        return hmac.new(self._key, f"{sha256} {device}".encode(), hashlib.sha256).hexdigest()

    def __call__(self, environ: dict[str, Any], respond: Callable[..., Any]) -> Iterable[bytes]:
        """See PEP 3333."""
        if not self._free.acquire(blocking=False):
            return _refuse(respond, "503 Service Unavailable", ("Retry-After", "10"))
        try:
            return self._held(self._answer(environ, respond))
        except BaseException:
            self._free.release()
            raise

    def _held(self, body: Iterable[bytes]) -> Iterator[bytes]:
        try:
            yield from body
        finally:
            self._free.release()

    def _answer(self, environ: dict[str, Any], respond: Callable[..., Any]) -> Iterable[bytes]:
        asked = _PATH.fullmatch(environ.get("PATH_INFO", ""))
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD") or asked is None:
            return _refuse(respond, "404 Not Found")
        device, sha256 = asked.groups()
        token = f"Bearer {self.token(device, sha256)}"
        if not hmac.compare_digest(environ.get("HTTP_AUTHORIZATION", "").encode(), token.encode()):
            return _refuse(respond, "401 Unauthorized")
        place = self._images.get(sha256)
        if place is None:
            return _refuse(respond, "404 Not Found")
        return self._send(place, environ, respond)

    def _send(self, place: Path, environ: dict[str, Any], respond: Callable[..., Any]) -> Iterable[bytes]:
        size = place.stat().st_size
        span = _span(environ.get("HTTP_RANGE", ""), size)
        if span is None:
            return _refuse(respond, "416 Range Not Satisfiable", ("Content-Range", f"bytes */{size}"))
        begin, end = span
        headers = [("Content-Length", str(end - begin)), ("Accept-Ranges", "bytes")]
        headers.append(("Content-Type", "application/octet-stream"))
        whole = (begin, end) == (0, size)
        if not whole:
            headers.append(("Content-Range", f"bytes {begin}-{end - 1}/{size}"))
        respond("200 OK" if whole else "206 Partial Content", headers)
        return [] if environ["REQUEST_METHOD"] == "HEAD" else self._pieces(place, begin, end)

    def _pieces(self, place: Path, begin: int, end: int) -> Iterator[bytes]:
        with place.open("rb") as file:
            file.seek(begin)
            while begin < end:
                data = file.read(min(PIECE_BYTES, end - begin))
                begin += len(data)
                self._counted(len(data))
                yield data


def _span(text: str, size: int) -> tuple[int, int] | None:
    """First byte and the one after the last; None if there are no such bytes. A form that is not known is no range (RFC 9110)."""
    found = _RANGE.fullmatch(text)
    if found is None:
        return 0, size
    begin, end = int(found[1]), min(int(found[2]) + 1 if found[2] else size, size)
    return (begin, end) if begin < end else None


def _refuse(respond: Callable[..., Any], status: str, *headers: tuple[str, str]) -> list[bytes]:
    respond(status, [("Content-Length", "0"), *headers])
    return []
