"""What is answered to a request before its body is read: decided from its head alone. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from connectors.http.codec import BODY_BYTES_MAX
from connectors.http.guard import Guard

REQUESTS_MAX = 500  # that wait for Kafka, of one source
BYTES_MAX = 8 * 2**20  # of their bodies
RETRY_S_MAX = 5  # those who are sent away come back some time within this


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


def refusal(
    method: str, headers: Mapping[str, str], guard: Guard, media: tuple[str, ...], load: Load, retry_s: int
) -> Refusal | None:
    """Why a post is not taken; None if its body may be read. Whoever is not known learns nothing but that."""
    if method != "POST":
        return Refusal(405, "readings are posted here", {"Allow": "POST"})
    if not guard.admits(headers.get("Authorization", "")):
        return Refusal(401, "send a token or an account that is known here", {"WWW-Authenticate": guard.challenge})
    kind = headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if kind not in media:
        return Refusal(
            415, f"the content type is {kind or 'missing'!r}: send {' or '.join(media)}", {"Accept": media[0]}
        )
    if headers.get("Content-Encoding", "identity").lower() != "identity":
        return Refusal(415, "the body is compressed: send it as it is", {"Accept-Encoding": "identity"})
    length = headers.get("Content-Length", "")
    if not length.isdecimal():
        return Refusal(411, "send the length of the body (Content-Length), not chunks")
    if int(length) > BODY_BYTES_MAX:
        return Refusal(413, f"the body has {length} bytes: send at most {BODY_BYTES_MAX} at once")
    if load.requests >= REQUESTS_MAX or load.nbytes + int(length) > BYTES_MAX:
        return busy("more readings come than Kafka takes: send it again later", retry_s)
    return None


def busy(text: str, retry_s: int) -> Refusal:
    """It was not taken, or that is not known; the same may be sent again."""
    return Refusal(503, text, {"Retry-After": str(retry_s)})
