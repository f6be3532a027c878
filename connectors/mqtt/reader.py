"""Reads an MQTT source. It can subscribe and acknowledge, and has no way to publish: `connectors.mqtt.wire` knows none."""

from __future__ import annotations

import ssl
from functools import partial
from typing import Any

import numpy as np

from connectors.base import Context, Read
from connectors.mqtt import PORTS, MqttSource, wire
from connectors.mqtt.codec import Codec
from connectors.mqtt.link import Account, Link
from connectors.progress import DeviceClock
from pipelines.errors import ConfigError, NotConnected
from pipelines.units import duration_ns


class MqttReader:
    """See `connectors.base.Reader`. MQTT 5, or 3.1.1 with a broker that refuses 5."""

    def __init__(self, source: MqttSource[Any], context: Context) -> None:
        self._source, self._context = source, context
        self._codec = Codec(source)
        self._device_clock = DeviceClock(source.speed, duration_ns(source.future_max))
        self._link: Link | None = None

    async def connect(self) -> None:
        """See `Reader.connect`; also `ConfigError` if a secret is missing."""
        account = _account(self._source, self._context)
        try:
            self._link = await self._open(account, wire.V5)
        except wire.VersionRefused:  # or a broker that cannot make sense of the greeting of 5, and says nothing
            self._link = await self._open(account, wire.V311)

    async def _open(self, account: Account, version: int) -> Link:
        return await Link.open(account, self._source.pattern.filter, version, self._context.clock)

    async def read(self, *, rows_max: int, linger_s: float) -> Read:
        """See `Reader.read`."""
        if self._link is None:
            raise NotConnected("not connected to the MQTT broker yet")
        await self._link.gather(rows_max, linger_s)
        messages, arrived = self._link.take(rows_max)
        now_ns = self._context.clock.now_ns()
        latest_ns = self._device_clock.latest(now_ns)
        batch, rejects = self._codec.decode(messages.topics, messages.payloads, arrived, latest_ns=latest_ns)
        if len(batch):
            self._device_clock.learn(int(np.median(batch.time)), now_ns)
        return Read(batch, rejects, partial(_ack, self._link, messages))

    async def close(self) -> None:
        """See `Reader.close`."""
        link, self._link = self._link, None
        if link is not None:
            await link.close()


async def _ack(link: Link, messages: wire.Messages) -> None:
    link.ack(messages)


def _account(source: MqttSource[Any], context: Context) -> Account:
    """Secrets are read at each connection, so that a new password needs no restart."""
    where = context.secrets_dir
    tls = None
    if source.address.scheme == "mqtts":
        try:
            tls = ssl.create_default_context(cafile=source.ca.file(where) if source.ca else None)
        except ssl.SSLError as e:
            raise ConfigError(
                f"secret {source.ca.name if source.ca else ''!r} holds no CA certificates in PEM form: {e}"
            ) from e
    return Account(
        source.address.hostname or "",
        source.address.port or PORTS[source.address.scheme],
        f"sitestream-{context.site}-{source.stream}-{context.collector}",
        source.username,
        source.password.read(where) if source.password else None,
        tls,
    )
