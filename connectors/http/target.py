"""One URL that is polled: when it is due, what the server knows us to have, and what a page of it gives."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from connectors.backoff import Backoff
from connectors.http import PollSource
from connectors.http.client import Client, Page
from connectors.http.codec import Body, Codec, Decoded
from connectors.http.links import next_page, position, retry_after_s, with_query
from pipelines.clock import Clock
from pipelines.errors import BadData, NotConnected
from pipelines.units import duration_s

PAGES_MAX = 100  # of one poll; the rest comes with the next one
log = logging.getLogger("collect")


class Refused(BadData):
    """The server answers, and not with readings."""

    def __init__(self, page: Page) -> None:
        super().__init__(f"{page.url} answers with status {page.status}", reason=f"status_{page.status // 100}xx")
        self.page = page


class Position(msgspec.Struct, frozen=True):
    """What a URL has given, all of it: where it goes on."""

    url: str
    since: str | None  # the parameter
    newest_ns: int
    digest: str  # of the body, if it was one page
    validators: dict[str, str]


@dataclass(slots=True)
class _Known:
    """What was fetched last, acknowledged or not."""

    validators: dict[str, str] = field(default_factory=dict)
    digest: str = ""  # of the body
    newest_ns: int = 0
    last: Body | None = None  # of a URL whose readings have no time of their own


class Target:
    """See the module. `give(decoded)` takes readings; `fail(key, reason)` says that a poll gave none; `reached(position)` that
    all is given up to there.
    """

    def __init__(
        self, source: PollSource[Any], key: str | None, url: str, codec: Codec, clock: Clock, *,
        give: Callable[[Decoded], None], fail: Callable[[str | None, str], None], room: Callable[[], bool],
        missed: Callable[[int], None], latest: Callable[[], int], changed: Callable[[], None],
        reached: Callable[[Position], None],
    ) -> None:  # fmt: skip
        self._source, self._key, self.url, self._codec, self._clock = source, key, url, codec, clock
        self._give, self._fail, self._room, self._missed = give, fail, room, missed
        self._latest, self._changed, self._reached = latest, changed, reached
        self._at = self._position(_Known())
        self._every_s, self._timeout_s = duration_s(source.every), duration_s(source.timeout)
        spread = random.Random(f"{key}/{url}").random()  # noqa: S311 - spreads load, guards nothing
        self._phase_s = duration_s(source.offset) + spread * duration_s(source.jitter)
        self._known, self._backoff = _Known(), Backoff()
        self._due_s: float | None = None
        self._first_s = 0.0
        self._failing = ""
        self.up = False
        self.error: Exception | None = None  # why it is not up

    def resume(self, at: Position) -> None:
        """Go on from there, unless it is of another URL or another parameter."""
        if (at.url, at.since) == (self.url, self._source.since):
            self._at = at
            self._known = _Known(at.validators, at.digest, at.newest_ns)

    def _position(self, known: _Known) -> Position:
        return Position(self.url, self._source.since, known.newest_ns, known.digest, known.validators)

    async def run(self, client: Client) -> None:
        """Poll until cancelled."""
        if self._due_s is None:
            self._first_s = self._due_s = self._clock.monotonic_s() + self._phase_s
        while True:
            await self._clock.sleep(max(0.0, self._due_s - self._clock.monotonic_s()))
            wait_s = 0.0
            if not self._room():
                self._missed(1)
            else:
                wait_s = await self._poll(client)
            self._due_s = self._next(wait_s)

    def _next(self, wait_s: float) -> float:
        """When it is due next: at its regular time, or earlier after a failure, or later if the server asks for it."""
        now_s = self._clock.monotonic_s()
        ticks = int((now_s - self._first_s) // self._every_s) + 1
        regular_s = self._first_s + ticks * self._every_s
        late = round((regular_s - (self._due_s or now_s)) / self._every_s) - 1
        if late > 0 and not wait_s:
            self._missed(late)
        return now_s + wait_s if wait_s else regular_s

    async def _poll(self, client: Client) -> float:
        """Fetch all that is new; how long to wait if that failed, else 0."""
        try:
            await self._pages(client)
        except NotConnected as e:
            self.up, self.error = False, e
            self._failed("not_connected", e)
        except BadData as e:
            self.up, self.error = True, None
            self._failed(e.reason, e)
            asked_s = retry_after_s(e.page.headers, self._clock.now_ns()) if isinstance(e, Refused) else 0.0
            self._changed()
            return max(asked_s, self._backoff.delay_s())
        else:
            self.up, self.error = True, None
            self._backoff.reset()
            if self._failing:
                log.info("%s: %s answers again", self._source.stream, self.url)
                self._failing = ""
            self._changed()
            return 0.0
        self._changed()
        return self._backoff.delay_s()

    def _failed(self, reason: str, error: Exception) -> None:
        if self._failing != reason:
            log.warning("%s: %s", self._source.stream, error)
            self._failing = reason
        self._fail(self._key, reason)

    async def _pages(self, client: Client) -> None:
        url = self._first_url()
        headers = self._known.validators
        newest_ns = 0
        for number in range(PAGES_MAX):
            if not self._room():
                return
            page = await client.get(url, headers if number == 0 else {}, self._timeout_s)
            if not self._room():  # others were quicker: a full buffer would drop what nobody has
                return
            if page.status == 304 and number == 0:
                self._same()
                return
            if page.status != 200:
                raise Refused(page)
            following = next_page(self._source, page.url, page.link, page.content)
            newest_ns = max(newest_ns, self._take(page, alone=number == 0 and following is None))
            if following is None:
                break
            url = following
            await asyncio.sleep(0)
        known = self._known
        known.newest_ns = max(known.newest_ns, newest_ns)  # not before all is here: pages may begin with the newest
        if self._source.keeps_positions and (at := self._position(known)) != self._at:
            self._at = at
            self._reached(at)

    def _first_url(self) -> str:
        since, newest_ns = self._source.since, self._known.newest_ns
        if since is None or not newest_ns:
            return self.url
        return with_query(self.url, **{since: position(newest_ns, self._source.time_unit)})

    def _take(self, page: Page, *, alone: bool) -> int:
        """The newest time of the readings of a page. If it is the only one, the next poll asks whether it has changed."""
        known = self._known
        digest = hashlib.sha256(page.content).hexdigest()
        known.validators = _validators(page) if alone and self._source.since is None else {}
        if alone and digest == known.digest:
            self._same()
            return 0
        known.digest = digest if alone else ""
        body = Body(page.content, f"GET {page.url}", self._clock.now_ns(), self._key)
        known.last = body if alone and self._source.time is None else None
        return self._decode(body)

    def _decode(self, body: Body) -> int:
        decoded = self._codec.decode([body], latest_ns=self._latest())
        self._give(decoded)
        return int(decoded.batch.time.max()) if len(decoded.batch) else 0

    def _same(self) -> None:
        """Nothing is new: values without a time of their own hold still, others were given before."""
        last = self._known.last
        if last is not None:
            self._decode(Body(last.content, last.origin, self._clock.now_ns(), last.key))


def _validators(page: Page) -> dict[str, str]:
    """Headers with which the server is asked for what it has changed since (RFC 9110, 13.1)."""
    pairs = (("If-None-Match", "ETag"), ("If-Modified-Since", "Last-Modified"))
    return {ask: page.headers[name] for ask, name in pairs if page.headers.get(name)}
