"""Readings over HTTP: `push`, which devices post to `collect`, and `poll`, which `collect` fetches. Descriptions only.

`connectors.http.listener` and `connectors.http.poller` act on them. Nothing is ever sent to a device but GET.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Generic, TypeVar

from connectors.base import TimeUnit
from connectors.columns import KEY_CHARS_MAX
from connectors.conditions import Condition, check
from connectors.http.path import PostPath
from connectors.http.readings import Readings
from connectors.options import duration, durations, http_login, named, secrets
from connectors.secrets import Secret
from pipelines.errors import ConfigError, PlanError
from pipelines.schema import Schema
from pipelines.topics import named_after
from pipelines.units import rate, show_duration
from pipelines.urls import masked, parts_of

__all__ = ["PollSource", "PushSource", "poll", "push"]
S = TypeVar("S", bound=Schema)
LISTEN = "0.0.0.0:9470"
DEVICE_RATE = "1000/10s"
URLS_MAX = 1_000
RATE_MAX = 1_000_000  # posts
RATE_NS_MAX = 3600 * 10**9
_LISTEN = re.compile(r"(\d{1,3}(?:\.\d{1,3}){3}|\[[0-9a-fA-F:]+\]):(\d{1,5})")
_HEADER = re.compile(r"[A-Za-z0-9-]{1,100}")
_PARAMETER = re.compile(r"[A-Za-z0-9._~-]{1,100}")


@dataclass(frozen=True, kw_only=True)
class PushSource(Readings[S], Generic[S]):
    """See `push`."""

    reader: ClassVar[str] = "connectors.http.listener:PushReader"

    path: str
    listen: str
    tokens: Secret | None
    users: Secret | None
    certificate: Secret | None
    private_key: Secret | None
    device_rate: str | None
    token_rate: str | None

    @cached_property
    def place(self) -> PostPath:
        """The path in parts."""
        return PostPath(self.path, self.schema.measured().key)

    @property
    def key_field(self) -> str | None:
        """See `Readings.key_field`."""
        return super().key_field if self.place.place is None else None

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        host, _, port = self.listen.rpartition(":")
        return host.strip("[]"), int(port)

    def describe(self) -> dict[str, str]:
        """See `Source.describe`."""
        scheme = "http" if self.certificate is None else "https"
        told = {"http push": f"POST {scheme}://{self.listen}{self.path}"}
        return told | ({} if self.payload == "json" else {"payload": self.payload})


def push(
    schema: type[S],
    *,
    path: str,
    tokens: Secret | None = None,
    users: Secret | None = None,
    certificate: Secret | None = None,
    private_key: Secret | None = None,
    listen: str = LISTEN,
    device_rate: str | None = DEVICE_RATE,
    token_rate: str | None = None,
    stream: str | None = None,
    key: str | None = None,
    time: str | None = "time",
    time_unit: TimeUnit = "iso",
    future_max: str = "1m",
    silence: str = "2s",
    devices: Collection[str] = (),
    payload: str = "json",
    fields: Mapping[Any, str] | None = None,
    rows: str | None = None,
    conditions: Sequence[Condition] = (),
    stale: str | None = None,
) -> PushSource[S]:
    """Readings of `schema` that devices or gateways post; they are answered once Kafka has the readings.

    `path`: '/readings/{device}', where the part `{device}`, called as the schema's Key, is the key; or '/readings', and the key
    is the field `key` of each reading (by default the one called as the schema's Key).
    `tokens`: a secret with a bearer token on each line; `users`: one with `name:password` on each line (Basic). One of them is
    needed; while tokens are exchanged, old and new stand there together.
    `certificate`, `private_key`: secrets in PEM, for TLS. `listen`: address and port of the server, which all sources of the
    pipeline share that name the same.
    `device_rate`: how many posts of a device that stands in the path are taken, '1000/10s': so many at once, and so many in that
    time in the long run; `token_rate`: of each token or account. A body of more than 4 KiB counts as several. None: no limit.
    `payload`: 'json', 'cbor', 'msgpack', or 'csv:time,rms'. A body is one reading or a list of them; `rows`: where the list is,
    such as "readings[*]"; `fields`: where columns stand that do not stand under their own names.
    For `time`, `time_unit`, `future_max`, `silence`, `devices`, `conditions`, `stale` and `stream` see `mqtt.source`.
    """
    made = PushSource(
        schema=schema, stream=stream or named_after(schema.__name__), key=key, time=time, time_unit=time_unit,
        future_max=future_max, silence=silence, devices=frozenset(devices), payload=payload,
        fields=named("http push", schema, fields), rows=rows, conditions=check("http push", schema, conditions), stale=stale,
        path=path, listen=listen, tokens=tokens, users=users, certificate=certificate, private_key=private_key,
        device_rate=device_rate, token_rate=token_rate,
    )  # fmt: skip
    made.place.check()
    _check_push(made)
    made.check_readings("http push")
    return made


def _check_push(made: PushSource[Any]) -> None:
    secrets(
        "http push", tokens=made.tokens, users=made.users, certificate=made.certificate, private_key=made.private_key
    )
    if made.tokens is None and made.users is None:
        raise PlanError('http push: nobody may post: write tokens=secret("…"), or users=secret("…")')
    if (made.certificate is None) != (made.private_key is None):
        raise PlanError('http push certificate: write certificate=secret("…") and private_key=secret("…"), both')
    found = _LISTEN.fullmatch(made.listen)
    if found is None or not 1 <= int(found[2]) <= 65_535:
        raise PlanError(f"http push listen={made.listen!r}: write an IP address and a port, such as '{LISTEN}'")
    _check_rates(made)
    if made.key is not None and made.place.place is not None:
        raise PlanError(f"http push key={made.key!r}: the key stands in the path {made.path!r} already")
    if any(c.kind == "door" for c in made.conditions):
        raise PlanError(
            "http push conditions: a swinging door holds a reading back until the next one, and the device would wait for its "
            "answer so long: use a dead-band"
        )


def _check_rates(made: PushSource[Any]) -> None:
    for option, given in (("device_rate", made.device_rate), ("token_rate", made.token_rate)):
        try:
            count, ns = (1, 1) if given is None else rate(given)
        except ConfigError as e:
            raise PlanError(f"http push {option}: {e}") from e
        if not 1 <= count <= RATE_MAX or not 0 < ns <= RATE_NS_MAX:
            raise PlanError(
                f"http push {option}={given!r}: write 1 to {RATE_MAX} in at most an hour, such as '{DEVICE_RATE}'"
            )
    if made.device_rate not in (None, DEVICE_RATE) and made.place.place is None:
        raise PlanError(
            f"http push device_rate={made.device_rate!r}: the path {made.path!r} does not say which device posts: write "
            f"{{{made.place.key}}} into it, or token_rate="
        )


@dataclass(frozen=True, kw_only=True)
class PollSource(Readings[S], Generic[S]):
    """See `poll`."""

    reader: ClassVar[str] = "connectors.http.poller:PollReader"

    @property
    def keeps_positions(self) -> bool:
        """Whether there is anything to go on from: values of now have no past."""
        return self.time is not None

    urls: tuple[tuple[str | None, str], ...]
    every: str
    offset: str
    jitter: str
    timeout: str
    token: Secret | None
    username: str | None
    password: Secret | None
    headers: tuple[tuple[str, Secret], ...]
    ca: Secret | None
    next_page: str | None
    cursor: str | None
    since: str | None

    @property
    def key_field(self) -> str | None:
        """See `Readings.key_field`."""
        return super().key_field if self.urls[0][0] is None else None

    def describe(self) -> dict[str, str]:
        """See `Source.describe`."""
        told = ", ".join(f"{name}={url}" if name else url for name, url in self.urls)
        return {"http poll": f"GET {told}", "every": self.every}


def poll(
    schema: type[S],
    *,
    url: str | Mapping[str, str],
    every: str = "10s",
    offset: str = "0s",
    jitter: str = "0s",
    timeout: str = "10s",
    token: Secret | None = None,
    username: str | None = None,
    password: Secret | None = None,
    headers: Mapping[str, Secret] | None = None,
    ca: Secret | None = None,
    next_page: str | None = None,
    cursor: str | None = None,
    since: str | None = None,
    stream: str | None = None,
    key: str | None = None,
    time: str | None = "time",
    time_unit: TimeUnit = "iso",
    future_max: str = "1m",
    silence: str | None = None,
    devices: Collection[str] = (),
    payload: str = "json",
    fields: Mapping[Any, str] | None = None,
    rows: str | None = None,
    conditions: Sequence[Condition] = (),
    stale: str | None = None,
) -> PollSource[S]:
    """Readings of `schema` that are fetched with GET, again and again.

    `url`: one, whose readings hold their key in the field `key` (by default the one called as the schema's Key); or the URL of
    each device, by name. `every`: how often; the first time `offset` after the start, and each URL up to `jitter` later, which is
    fixed for a URL. `timeout`: for a page, all of it.
    `token`: a secret for `Authorization: Bearer`; or `username` and `password`; `headers`: secrets by the name of the header.
    `ca`: a secret with the CA's certificates (PEM), else the system's are trusted.
    `next_page`: "link" if the header Link has rel="next"; or the path of the body's field that has the next page's URL, or the
    cursor which the query's parameter `cursor` takes. `since`: the query's parameter that takes the newest time that has come.
    `stale`: a device that gives nothing for so long is marked as stale; by default two polls. `silence`: by default the time of
    two polls, at least 2 s. For `payload`, `rows` and `fields` see `push`; for the others `mqtt.source`.
    """
    twice = 2 * duration("http poll", "every", every)
    made = PollSource(
        schema=schema, stream=stream or named_after(schema.__name__), key=key, time=time, time_unit=time_unit,
        future_max=future_max, silence=silence or show_duration(max(twice, 2 * 10**9)), devices=frozenset(devices),
        payload=payload, fields=named("http poll", schema, fields), rows=rows, urls=_urls(url),
        conditions=check("http poll", schema, conditions), stale=stale or show_duration(twice), every=every, offset=offset,
        jitter=jitter, timeout=timeout, token=token, username=username, password=password, ca=ca,
        headers=tuple((headers or {}).items()), next_page=next_page, cursor=cursor, since=since,
    )  # fmt: skip
    _check_poll(made)
    made.check_readings("http poll")
    return made


def _urls(url: str | Mapping[str, str]) -> tuple[tuple[str | None, str], ...]:
    if isinstance(url, str):
        return ((None, url),)
    return tuple(url.items())


def _check_poll(made: PollSource[Any]) -> None:
    if not 1 <= len(made.urls) <= URLS_MAX:
        raise PlanError(f"http poll url: {len(made.urls)} are given; a source has 1 to {URLS_MAX}")
    for name, url in made.urls:
        if name is not None and not 1 <= len(name) <= KEY_CHARS_MAX:
            raise PlanError(f"http poll url: {name!r} is no name of a device: it has 1 to {KEY_CHARS_MAX} characters")
        parts = parts_of(url, "http", "https")
        if parts is None or parts.fragment:
            raise PlanError(
                f"http poll url={masked(url)!r}: write 'https://host/path', and username= and password= apart"
            )
    if made.key is not None and made.key_field is None:
        raise PlanError(f"http poll key={made.key!r}: each URL has the name of its device already")
    durations("http poll", timeout=made.timeout)
    duration("http poll", "offset", made.offset, zero=True)
    duration("http poll", "jitter", made.jitter, zero=True)
    _check_account(made)
    _check_pages(made)


def _check_account(made: PollSource[Any]) -> None:
    http_login("http poll", made.token, made.username, made.password)
    secrets("http poll", ca=made.ca)
    for name, value in made.headers:
        secrets(f"http poll headers {name}", secret=value)
        if not _HEADER.fullmatch(name) or name.lower() in ("authorization", "host", "content-length", "cookie"):
            raise PlanError(f"http poll headers: {name!r} cannot be given: write one such as 'X-Api-Key'")


def _check_pages(made: PollSource[Any]) -> None:
    if made.cursor is not None and made.next_page in (None, "link"):
        raise PlanError(f'http poll cursor={made.cursor!r}: where is its value? Write next_page="paging.next"')
    if made.next_page not in (None, "link") and made.payload != "json":
        raise PlanError(f"http poll next_page={made.next_page!r}: a field can be found in JSON only")
    if made.next_page not in (None, "link") and made.rows is None:
        raise PlanError(
            f'http poll next_page={made.next_page!r}: where are the readings beside it? Write rows="readings[*]"'
        )
    if made.since is not None and made.time is None:
        raise PlanError(f"http poll since={made.since!r}: readings have no time of their own (time=None)")
    for option, name in (("cursor", made.cursor), ("since", made.since)):
        if name is not None and not _PARAMETER.fullmatch(name):
            raise PlanError(f"http poll {option}={name!r}: write the name of a parameter of the query")
