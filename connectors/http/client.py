"""Fetches one page: GET and nothing else, within a time and a size, on one host. aiohttp speaks HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp

from connectors.base import Context
from connectors.http import PollSource
from connectors.http.links import joined
from connectors.secrets import authorization, trusted
from pipelines.errors import BadData, ConfigError, NotConnected

PAGE_BYTES_MAX = 4 * 2**20  # decompressed
REDIRECTS_MAX = 3
CONNECTIONS_MAX = 100
CONNECTIONS_MAX_HOST = 4
_REDIRECTS = (301, 302, 303, 307, 308)


@dataclass(frozen=True, slots=True)
class Page:
    """What a server answered."""

    url: str
    status: int
    headers: Mapping[str, str]
    content: bytes
    link: str | None  # to the next page


class Client:
    """Connections to the hosts of one source, with its account."""

    def __init__(self, source: PollSource[Any], context: Context) -> None:
        """`ConfigError` if a secret is missing."""
        where = context.secrets_dir
        headers = {"Accept": ", ".join(source.media), **{n: s.read(where) for n, s in source.headers}}
        headers |= authorization(source.token, source.username, source.password, where)
        if bad := next((n for n, v in headers.items() if not v.isprintable()), None):
            raise ConfigError(f"http poll: the secret for the header {bad} has characters that no header can have")
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                ssl=trusted(source.ca, where), limit=CONNECTIONS_MAX, limit_per_host=CONNECTIONS_MAX_HOST
            ),
            headers=headers, cookie_jar=aiohttp.DummyCookieJar(), trust_env=False,
        )  # fmt: skip

    async def get(self, url: str, headers: Mapping[str, str], timeout_s: float) -> Page:
        """A page. `NotConnected` if none comes; `BadData` if it is too large, or on another host."""
        try:
            async with asyncio.timeout(timeout_s):
                for _ in range(REDIRECTS_MAX + 1):
                    page = await self._once(url, headers)
                    to = page.headers.get("Location")
                    if page.status not in _REDIRECTS or to is None:
                        return page
                    url = joined(url, to)
        except TimeoutError as e:
            raise NotConnected(f"{url} does not answer within {timeout_s:g} s") from e
        except (aiohttp.ClientError, OSError, ValueError) as e:
            raise NotConnected(f"{url} cannot be fetched: {e or type(e).__name__}") from e
        raise BadData(f"{url} is led on more than {REDIRECTS_MAX} times: correct url=", reason="redirects")

    async def _once(self, url: str, headers: Mapping[str, str]) -> Page:
        async with self._session.get(url, headers=headers, allow_redirects=False) as answer:
            content = bytearray()
            async for chunk in answer.content.iter_any():
                content += chunk
                if len(content) > PAGE_BYTES_MAX:
                    raise BadData(
                        f"{url} has more than {PAGE_BYTES_MAX} bytes: ask for less at once", reason="too_large"
                    )
            link = _next(answer)
            return Page(url, answer.status, answer.headers, bytes(content), link)

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()


def _next(answer: aiohttp.ClientResponse) -> str | None:
    """The URL of the header Link with rel="next"."""
    link = answer.links.get("next")
    return None if link is None else str(link["url"])
