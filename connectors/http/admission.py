"""What is answered to a request before its body is read: decided from its head alone. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from connectors.bucket import Buckets
from connectors.http import PushSource
from connectors.http.codec import BODY_BYTES_MAX
from connectors.http.guard import Guard
from pipelines.units import rate

REQUESTS_MAX = 500  # that wait for Kafka, of one source
BYTES_MAX = 8 * 2**20  # of their bodies
RETRY_S_MAX = 5  # those who are sent away come back some time within this
METER_BYTES = 4_096  # a longer body counts as several posts
DEVICES_MAX = 10_000  # whose rates are known; there are at most 2,000 tokens and accounts


@dataclass(frozen=True, slots=True)
class Refusal:
    """A status and what to do about it."""

    status: int
    text: str
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Load:
    """What waits for Kafka."""

    requests: int = 0
    nbytes: int = 0


class Rates:
    """How often each device, and each token or account, may post to a source. What is refused costs nothing."""

    def __init__(self, source: PushSource[Any]) -> None:
        self._devices, self._bearers = _buckets(source.device_rate), _buckets(source.token_rate)

    def exceeded(self, device: str, bearer: str, now_s: float) -> tuple[str, int] | None:
        """Who posts too much and has to wait how many seconds; None if it may post. `device`: '' if the path has none."""
        asked = ((f"device {device!r}", self._devices, device), (bearer, self._bearers, bearer))
        waits = [(who, buckets.of(name).wait_s(now_s)) for who, buckets, name in asked if buckets and name]
        who, wait_s = max(waits, key=lambda w: w[1], default=("", 0))
        return (who, wait_s) if wait_s else None

    def count(self, device: str, bearer: str, nbytes: int) -> None:
        """It posts so much."""
        for buckets, name in ((self._devices, device), (self._bearers, bearer)):
            if buckets and name:
                buckets.of(name).take(max(1, -(-nbytes // METER_BYTES)))


def _buckets(given: str | None) -> Buckets | None:
    if given is None:
        return None
    count, ns = rate(given)
    return Buckets(count / (ns / 1e9), count, DEVICES_MAX)


@dataclass(frozen=True, slots=True)
class Head:
    """What is known of a post before its body."""

    method: str
    headers: Mapping[str, str]
    device: str  # '' if the path has none


class Admission:
    """Says whose posts to a source are taken."""

    def __init__(self, source: PushSource[Any], guard: Guard) -> None:
        self._media, self._guard, self._rates = source.media, guard, Rates(source)

    def refusal(self, head: Head, load: Load, *, retry_s: int, now_s: float) -> Refusal | None:
        """Why a post is not taken; None if its body may be read. Whoever is not known learns nothing but that."""
        if head.method != "POST":
            return Refusal(405, "readings are posted here", {"Allow": "POST"})
        bearer = self._guard.who(head.headers.get("Authorization", ""))
        if bearer is None:
            challenge = {"WWW-Authenticate": self._guard.challenge}
            return Refusal(401, "send a token or an account that is known here", challenge)
        if (no := self._body(head.headers)) is not None:
            return no
        if (too_much := self._rates.exceeded(head.device, bearer, now_s)) is not None:
            who, wait_s = too_much
            return Refusal(429, f"{who} posts too much: send it again in {wait_s} s", {"Retry-After": str(wait_s)})
        length = int(head.headers["Content-Length"])
        if load.requests >= REQUESTS_MAX or load.nbytes + length > BYTES_MAX:
            return busy("more readings come than Kafka takes: send it again later", retry_s)
        self._rates.count(head.device, bearer, length)
        return None

    def _body(self, headers: Mapping[str, str]) -> Refusal | None:
        """Why no such body is taken."""
        kind = headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if kind not in self._media:
            wanted = " or ".join(self._media)
            return Refusal(415, f"the content type is {kind or 'missing'!r}: send {wanted}", {"Accept": self._media[0]})
        if headers.get("Content-Encoding", "identity").lower() != "identity":
            return Refusal(415, "the body is compressed: send it as it is", {"Accept-Encoding": "identity"})
        length = headers.get("Content-Length", "")
        if not length.isdecimal():
            return Refusal(411, "send the length of the body (Content-Length), not chunks")
        if int(length) > BODY_BYTES_MAX:
            return Refusal(413, f"the body has {length} bytes: send at most {BODY_BYTES_MAX} at once")
        return None


def busy(text: str, retry_s: int) -> Refusal:
    """It was not taken, or that is not known; the same may be sent again."""
    return Refusal(503, text, {"Retry-After": str(retry_s)})
