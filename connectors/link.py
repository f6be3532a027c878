"""The MQTT link to the devices, for services that speak to them: publishes, hears what they say, reconnects."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import aiomqtt

from connectors.backoff import Backoff
from connectors.secrets import Secret
from pipelines.errors import ConfigError, NotConnected
from pipelines.runtime.serve import Health
from pipelines.urls import BROKER_CURE, BROKER_PORTS, broker_of, masked

log = logging.getLogger("mqtt")
ANSWER_WAIT_S_MAX = 5.0  # for the broker, not for the device
ANSWERS_QUEUED_MAX = 10_000  # beyond it what devices say is dropped, with a warning
Heard = Callable[[str, bytes], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Broker:
    """Where the devices are, and as whom to go there."""

    host: str
    port: int
    tls: bool
    username: str | None = None
    password: str | None = None
    ca: str | None = None  # path of a PEM file

    @classmethod
    def of(
        cls,
        url: str,
        secrets_dir: Path,
        *,
        username: str | None = None,
        password: Secret | None = None,
        ca: Secret | None = None,
    ) -> Broker:
        """From 'mqtt[s]://host[:port]'; `ConfigError` if it is not that, or a secret is missing."""
        parts = broker_of(url)
        if parts is None:
            raise ConfigError(f"mqtt broker {masked(url)!r}: {BROKER_CURE}")
        return cls(
            str(parts.hostname), parts.port or BROKER_PORTS[parts.scheme], parts.scheme == "mqtts", username,
            password.read(secrets_dir) if password else None, str(ca.file(secrets_dir)) if ca else None,
        )  # fmt: skip

    def client(self, identifier: str) -> aiomqtt.Client:
        """A client with a persistent session: what devices say while we are away is kept for us."""
        return aiomqtt.Client(
            self.host, self.port, username=self.username, password=self.password, identifier=identifier, clean_session=False,
            tls_params=aiomqtt.TLSParameters(ca_certs=self.ca) if self.tls else None,
            max_queued_incoming_messages=ANSWERS_QUEUED_MAX, keepalive=15, timeout=ANSWER_WAIT_S_MAX,
        )  # fmt: skip


class Link:
    """One MQTT session. Its client id is fixed, so the broker cuts off an older process that still believes to be in charge."""

    def __init__(self, broker: Broker, identifier: str, filters: Sequence[str], health: Health) -> None:
        self._broker, self._identifier, self._filters, self._health = broker, identifier, filters, health
        self._client: aiomqtt.Client | None = None

    @property
    def connected(self) -> bool:
        """Whether something could be published now."""
        return self._client is not None

    async def publish(self, topic: str, payload: bytes, qos: int = 1) -> None:
        """Return once the broker has taken the message (with QoS 0: once it is sent); `NotConnected` if that is not known."""
        if self._client is None:
            raise NotConnected("the MQTT link is down")
        try:
            await self._client.publish(topic, payload, qos=qos)
        except aiomqtt.MqttError as e:
            raise NotConnected(f"the MQTT broker did not confirm: {e}") from e

    async def run(self, heard: Heard, connected: Callable[[], Awaitable[None]]) -> None:
        """Keep the link up until cancelled; every message goes to `heard`. Raises what `heard` and `connected` raise."""
        backoff = Backoff()
        while True:
            try:
                async with self._broker.client(self._identifier) as client:
                    await client.subscribe([(f, 1) for f in self._filters])
                    log.info("connected to MQTT broker %s:%d", self._broker.host, self._broker.port)
                    backoff.reset()
                    client.pending_calls_threshold = ANSWERS_QUEUED_MAX  # no warning: one for each device is normal
                    self._client = client
                    self._health.set(mqtt=True)
                    await connected()
                    async for message in client.messages:
                        await heard(str(message.topic), bytes(message.payload or b""))
            except aiomqtt.MqttError as e:
                log.warning("MQTT broker %s:%d: %s", self._broker.host, self._broker.port, e)
            finally:
                self._client = None
                self._health.set(mqtt=False)
            await asyncio.sleep(backoff.delay_s())
