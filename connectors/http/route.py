"""One source's side of the server: takes posts in, and answers each once Kafka has its readings."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web_exceptions import HTTPRequestEntityTooLarge

from connectors.base import Context
from connectors.buffer import TOLD_EVERY_S, Buffer
from connectors.http import PushSource
from connectors.http.admission import BYTES_MAX, REQUESTS_MAX, RETRY_S_MAX, Admission, Head, Load, Refusal, busy
from connectors.http.codec import Body, Verdict, told
from connectors.http.guard import Guard
from pipelines import metrics

BODY_S_MAX = 10.0  # for a body to come
ANSWER_S_MAX = 30.0  # for Kafka to have its readings
ERRORS_TOLD_MAX = 20  # of one post
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
log = logging.getLogger("collect")


@dataclass(eq=False, slots=True)
class Post:
    """A body, and who waits for what becomes of it: None if it is not known to be safe."""

    body: Body
    answer: asyncio.Future[Verdict | None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def settle(self, verdict: Verdict | None) -> None:
        """Say what became of it; the first word counts."""
        if not self.answer.done():
            self.answer.set_result(verdict)


class Route:
    """The posts to one path."""

    def __init__(self, source: PushSource[Any], guard: Guard, context: Context) -> None:
        self._source, self._admission, self._clock = source, Admission(source, guard), context.clock
        self._labels = {"site": context.site, "stream": source.stream}
        self._buffer: Buffer[Post] = Buffer(
            context.site, source.stream, context.clock, rows_max=REQUESTS_MAX, bytes_max=BYTES_MAX
        )
        self._posts: set[Post] = set()
        self._requests = self._nbytes = 0
        self._open = True
        self._told_s = float("-inf")

    @property
    def path(self) -> str:
        """As the source has it."""
        return self._source.path

    @property
    def waiting(self) -> int:
        """Posts whose bodies are here, and that are not answered."""
        return len(self._posts)

    def key(self, raw_path: str) -> str | None:
        """See `PostPath.match`."""
        return self._source.place.match(raw_path)

    async def take(self, requests_max: int, linger_s: float) -> list[Post]:
        """Posts that have come, in their order; see `Buffer.get`."""
        return await self._buffer.get(requests_max, linger_s)

    def close(self) -> None:
        """Send away all who wait: what they posted may be safe or not, and they must post it again."""
        self._open = False
        for post in self._posts:
            post.settle(None)
        self._buffer.clear()

    async def answer(self, request: web.BaseRequest, key: str) -> web.Response:
        """Take a post in and answer it."""
        retry_s = random.randint(1, RETRY_S_MAX)  # noqa: S311 - spreads load, guards nothing
        head, load = Head(request.method, request.headers, key), Load(self._requests, self._nbytes)
        no = self._admission.refusal(head, load, retry_s=retry_s, now_s=self._clock.monotonic_s())
        if no is None and not self._open:
            no = busy("it is being stopped: send it again", retry_s)
        if no is not None:
            self._tell(no)
            return self._said(no)
        length = int(request.headers["Content-Length"])
        self._requests, self._nbytes = self._requests + 1, self._nbytes + length
        try:
            return await self._taken(request, key, retry_s)
        finally:
            self._requests, self._nbytes = self._requests - 1, self._nbytes - length

    async def _taken(self, request: web.BaseRequest, key: str, retry_s: int) -> web.Response:
        try:
            async with asyncio.timeout(BODY_S_MAX):
                content = await self._body(request)
        except TimeoutError:
            return self._said(Refusal(408, f"the body did not come within {BODY_S_MAX:g} s", {"Connection": "close"}))
        except (HttpProcessingError, HTTPRequestEntityTooLarge, ConnectionError) as e:
            return self._said(Refusal(400, f"the body did not come whole: {e}", {"Connection": "close"}))
        place = f"{self._source.path}" if not key else request.rel_url.raw_path
        post = Post(Body(content, f"POST {place}", self._clock.now_ns(), key or None))
        if not self._open:
            return self._said(busy("it is being stopped: send it again", retry_s))
        self._posts.add(post)
        self._buffer.put(post, nbytes=len(content))
        try:
            await asyncio.wait([post.answer], timeout=ANSWER_S_MAX)
        finally:
            self._posts.discard(post)
        verdict = post.answer.result() if post.answer.done() else None
        if verdict is None:
            return self._said(busy("it is not known whether Kafka has it: send it again", retry_s))
        return self._response(200 if not verdict.faults else 400, told(verdict, ERRORS_TOLD_MAX), {})

    async def _body(self, request: web.BaseRequest) -> bytes:
        if request.headers.get("Expect", "").lower() == "100-continue" and request.transport is not None:
            request.transport.write(CONTINUE)
        return await request.read()

    def _tell(self, no: Refusal) -> None:
        """Who posts too much is for the log, now and then."""
        now_s = self._clock.monotonic_s()
        if no.status == 429 and now_s - self._told_s >= TOLD_EVERY_S:
            self._told_s = now_s
            log.warning("%s: %s", self._source.stream, no.text)

    def _said(self, no: Refusal) -> web.Response:
        return self._response(no.status, no.text.encode(), no.headers)

    def _response(self, status: int, text: bytes, headers: Mapping[str, str]) -> web.Response:
        metrics.collect_http_answers.labels(**self._labels, status=str(status)).inc()
        kind = "application/json" if text.startswith(b"{") else "text/plain"
        response = web.Response(body=text, status=status, headers=headers, content_type=kind)
        if headers.get("Connection") == "close":
            response.force_close()
        return response
