"""Where to go on: the next page, the query with a position, another place of the same host, and when. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import parse_qsl, urlencode, urljoin, urlsplit

import msgspec

from connectors.columns import UNITS_NS, shown
from connectors.http import PollSource
from pipelines.errors import BadData

RETRY_AFTER_S_MAX = 3_600.0
_PORTS = {"http": 80, "https": 443}


def joined(base: str, to: str) -> str:
    """The URL that `to` means on the page `base`; `BadData` if that is on another host, port or scheme."""
    url = urljoin(base, to)
    try:
        if _origin(url) != _origin(base):
            raise BadData(f"{base} leads to another host, {shown(url)}: name that in url=", reason="elsewhere")
    except ValueError as e:
        raise BadData(f"{base} leads to {shown(url)}, which is no URL", reason="elsewhere") from e
    return url


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or _PORTS.get(parts.scheme)


def with_query(url: str, **more: str) -> str:
    """The URL with parameters of its query set."""
    parts = urlsplit(url)
    kept = [(n, v) for n, v in parse_qsl(parts.query, keep_blank_values=True) if n not in more]
    return parts._replace(query=urlencode([*kept, *more.items()])).geturl()


def position(newest_ns: int, unit: str) -> str:
    """A time as the device writes it, to ask for what is newer."""
    if unit != "iso":
        return str(newest_ns // UNITS_NS[unit])
    seconds, rest = divmod(newest_ns, 10**9)
    text = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{text}.{rest:09}".rstrip("0").rstrip(".") + "Z"


def next_page(source: PollSource[Any], url: str, link: str | None, content: bytes) -> str | None:
    """The URL of the page after this one; None if it is the last. `link`: of its header Link, rel="next"."""
    if source.next_page is None:
        return None
    if source.next_page == "link":
        return None if link is None else joined(url, link)
    found = _field(content, source.next_page)
    if found is None or found == "" or found is False:
        return None
    if not isinstance(found, str | int) or isinstance(found, bool):
        raise BadData(f"{source.next_page} is {shown(found)}: text is needed", reason="next_page")
    return joined(url, str(found)) if source.cursor is None else with_query(url, **{source.cursor: str(found)})


def _field(content: bytes, path: str) -> Any:
    try:
        value = msgspec.json.decode(content)
    except (msgspec.DecodeError, RecursionError):
        return None  # it was refused as a whole
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


def retry_after_s(headers: Mapping[str, str], now_ns: int) -> float:
    """For how long the server asks to be left alone (RFC 9110, 10.2.3); 0 if it does not."""
    text = headers.get("Retry-After", "").strip()
    if text.isdecimal():
        return min(float(text), RETRY_AFTER_S_MAX)
    try:
        at = parsedate_to_datetime(text)
    except ValueError:
        return 0.0
    return min(max(0.0, at.replace(tzinfo=at.tzinfo or UTC).timestamp() - now_ns / 1e9), RETRY_AFTER_S_MAX)
