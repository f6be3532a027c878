"""Reads an MQTT source. It can subscribe and acknowledge, and has no way to publish: `connectors.mqtt.wire` knows none."""

from __future__ import annotations

import ssl
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from connectors.base import Context, Read
from connectors.mqtt import MqttSource, SparkplugSource, wire
from connectors.mqtt.codec import Codec
from connectors.mqtt.connection import Connection
from connectors.mqtt.link import Account, Link
from connectors.mqtt.spb import BIRTH_BYTES_MAX
from connectors.mqtt.wishes import Wishes
from connectors.payloads import PAYLOAD_BYTES_MAX
from connectors.progress import DeviceClock
from connectors.secrets import trusted
from pipelines import metrics
from pipelines.errors import ConfigError, NotConnected
from pipelines.units import duration_ns
from pipelines.urls import BROKER_PORTS

if TYPE_CHECKING:
    from connectors.mqtt.spb_codec import SparkplugCodec


class MqttReader:
    """See `connectors.base.Reader`. MQTT 5, or 3.1.1 with a broker that refuses 5."""

    def __init__(self, source: MqttSource[Any] | SparkplugSource[Any], context: Context) -> None:
        self._source, self._context = source, context
        self._payload_bytes_max = PAYLOAD_BYTES_MAX
        self._codec = self._codec_of(source)
        self._device_clock = DeviceClock(source.speed, duration_ns(source.future_max))
        self._link: Link | None = None
        self._gaps_told = 0
        self._wishes = Wishes()

    def _codec_of(self, source: MqttSource[Any] | SparkplugSource[Any]) -> Codec | SparkplugCodec:
        if isinstance(source, MqttSource):
            return Codec(source)
        from connectors.mqtt.spb_codec import SparkplugCodec  # with protobuf, which other sources do without

        self._payload_bytes_max = BIRTH_BYTES_MAX
        return SparkplugCodec(source)

    async def connect(self) -> None:
        """See `Reader.connect`; also `ConfigError` if a secret is missing."""
        account = account_of(self._source, self._context, self._source.stream)
        wanted = self._source.version
        try:
            self._link = await self._open(account, wire.V311 if wanted == "3.1.1" else wire.V5)
        except wire.VersionRefused:  # or a broker that cannot make sense of the greeting of 5, and says nothing
            if wanted != "auto":
                raise
            self._link = await self._open(account, wire.V311)

    async def _open(self, account: Account, version: int) -> Link:
        topic_filter = self._source.shared(self._source.pattern.filter)
        return await Link.open(
            account, topic_filter, version, self._context.clock, payload_bytes_max=self._payload_bytes_max
        )

    async def read(self, *, rows_max: int, linger_s: float) -> Read:
        """See `Reader.read`."""
        if self._link is None:
            raise NotConnected("not connected to the MQTT broker yet")
        await self._link.gather(rows_max, linger_s)
        messages, arrived = self._link.take(rows_max)
        now_ns = self._context.clock.now_ns()
        latest_ns = self._device_clock.latest(now_ns)
        batch, rejects = self._codec.decode(messages.topics, messages.payloads, arrived, latest_ns=latest_ns)
        wanted: tuple[str, ...] = ()
        if not isinstance(self._codec, Codec):
            self._tell()
            wanted = self._wishes.due(self._codec.mute, self._context.clock.monotonic_s())
        if len(batch):
            self._device_clock.learn(int(np.median(batch.time)), now_ns)
        return Read(batch, rejects, partial(_ack, self._link, messages), wanted)

    def _tell(self) -> None:
        labels = {"site": self._context.site, "stream": self._source.stream}
        metrics.collect_sparkplug_rebirths_wanted.labels(**labels).set(self._codec.unborn)
        metrics.collect_sparkplug_gaps.labels(**labels).inc(self._codec.gaps - self._gaps_told)
        self._gaps_told = self._codec.gaps

    async def close(self) -> None:
        """See `Reader.close`."""
        link, self._link = self._link, None
        if link is not None:
            await link.close()


async def _ack(link: Link, messages: wire.Messages) -> None:
    link.ack(messages)


def account_of(source: Connection, context: Context, name: str) -> Account:
    """Secrets are read at each connection, so that a new password needs no restart."""
    where = context.secrets_dir
    tls = None
    if source.address.scheme == "mqtts":
        tls = trusted(source.ca, where)
        if source.certificate is not None and source.private_key is not None:
            try:
                tls.load_cert_chain(source.certificate.file(where), source.private_key.file(where))
            except ssl.SSLError as e:
                raise ConfigError(
                    f"secrets {source.certificate.name!r} and {source.private_key.name!r} are no certificate and its key "
                    f"in PEM form: {e}"
                ) from e
    return Account(
        source.address.hostname or "",
        source.address.port or BROKER_PORTS[source.address.scheme],
        f"sitestream-{context.site}-{name}-{context.collector}",
        source.username,
        source.password.read(where) if source.password else None,
        tls,
    )
