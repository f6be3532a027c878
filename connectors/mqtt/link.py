"""One connection to an MQTT broker, for listening: bytes in and out of `connectors.mqtt.wire`. Never used twice."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from dataclasses import dataclass

import numpy as np

from connectors.mqtt import wire
from connectors.payloads import PAYLOAD_BYTES_MAX
from pipelines.batch import Times
from pipelines.clock import Clock
from pipelines.errors import NotConnected

INFLIGHT_MAX = 8_192  # messages held here, not acknowledged; the broker keeps the rest (MQTT 5), or TCP holds it back
KEEPALIVE_S = 20
CONNECT_S_MAX = 5.0
CLOSE_S_MAX = 1.0
ANSWER_S_MAX = 2.0  # of that, from our greeting to the broker's


@dataclass(frozen=True, slots=True)
class Account:
    """Where to connect, and as whom."""

    host: str
    port: int
    client_id: str
    username: str | None = None
    password: str | None = None
    tls: ssl.SSLContext | None = None

    def __repr__(self) -> str:
        return f"Account({self.client_id!r} at {self.host}:{self.port})"


class Link(asyncio.Protocol):
    """Listens to one topic filter. `NotConnected` from any call means that this link is over."""

    def __init__(
        self, version: int, clock: Clock, payload_bytes_max: int = PAYLOAD_BYTES_MAX, lasting: bool = True
    ) -> None:
        self._version, self._clock, self._lasting = version, clock, lasting
        self._decoder = wire.Decoder(version, payload_bytes_max)
        self._arrived: list[int] = []  # ns, for each of the decoder's messages
        self._events: asyncio.Queue[wire.Accepted | wire.Subscribed] = asyncio.Queue()
        self._wake = asyncio.Event()
        self._lost = asyncio.Event()
        self._wanted = 1
        self._error: NotConnected | None = None
        self._transport: asyncio.Transport | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._heard_s = 0.0
        self._paused = False

    @classmethod
    async def open(
        cls,
        account: Account,
        topic_filter: str,
        version: int,
        clock: Clock,
        *,
        payload_bytes_max: int = PAYLOAD_BYTES_MAX,
        lasting: bool = True,
    ) -> Link:
        """Connect and subscribe; `NotConnected` says why it could not.

        `lasting=False` is for a passing look: QoS 0, and the broker keeps no session.
        """
        link = cls(version, clock, payload_bytes_max, lasting)
        where = f"{account.host}:{account.port}"
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_S_MAX):
                await loop.create_connection(lambda: link, account.host, account.port, ssl=account.tls)
                await link._greet(account, topic_filter)
        except TimeoutError:
            await link.close()
            raise NotConnected(
                f"MQTT broker {where} does not answer within {CONNECT_S_MAX:g} s: is it running, is it reachable?"
            ) from None
        except OSError as e:
            raise NotConnected(f"MQTT broker {where} cannot be reached ({e}): start it, or correct `broker=`") from e
        except NotConnected as e:
            await link.close()
            raise type(e)(f"{where}: {e}") from e
        return link

    async def _greet(self, account: Account, topic_filter: str) -> None:
        hello = wire.connect(
            account.client_id, version=self._version, keepalive_s=KEEPALIVE_S, inflight_max=INFLIGHT_MAX,
            username=account.username, password=account.password, lasting=self._lasting,
        )  # fmt: skip
        self._send(hello)
        try:
            async with asyncio.timeout(ANSWER_S_MAX):
                accepted = await self._accepted()
        except TimeoutError:
            raise wire.VersionRefused(
                f"the broker does not answer an MQTT greeting within {ANSWER_S_MAX:g} s"
            ) from None
        self._send(wire.subscribe(topic_filter, version=self._version, qos=1 if self._lasting else 0))
        await self._subscribed()
        self._keeper = asyncio.create_task(self._keep_alive(accepted.keepalive_s or KEEPALIVE_S))

    async def _accepted(self) -> wire.Accepted:
        while True:
            self._check()
            if not self._events.empty() and isinstance(event := self._events.get_nowait(), wire.Accepted):
                return event
            self._wake.clear()
            await self._wake.wait()

    async def _subscribed(self) -> None:
        """Wait for the answer, or for a message of an older subscription: amqtt answers after those are acknowledged."""
        while not len(self._decoder.messages):
            self._check()
            if not self._events.empty():
                return
            self._wake.clear()
            await self._wake.wait()

    async def gather(self, count: int, linger_s: float) -> None:
        """Wait up to `linger_s` for a message, and as long again until there are `count`."""
        for enough in (1, min(count, INFLIGHT_MAX)):
            self._check()
            self._wanted = enough
            self._wake.clear()
            if len(self._decoder.messages) < enough:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(linger_s):
                        await self._wake.wait()
            if not len(self._decoder.messages):
                break
        self._check()

    def take(self, count: int) -> tuple[wire.Messages, Times]:
        """Up to `count` messages that are here, and the time of arrival of each (ns)."""
        messages = self._decoder.messages.take(count)
        arrived = np.array(self._arrived[:count], dtype=np.int64)
        del self._arrived[:count]
        if self._paused and self._transport is not None and not self._lost.is_set():
            self._paused = False
            self._transport.resume_reading()
        return messages, arrived

    def ack(self, messages: wire.Messages) -> None:
        """Tell the broker that it may forget messages; if the link is over it will deliver them again."""
        if self._error is None:
            self._send(wire.acks(messages.ids))

    async def close(self) -> None:
        """Say good-bye and wait until the broker has read it and all acknowledgements before. The session stays there."""
        self._send(wire.DISCONNECT)
        if self._transport is not None and not self._lost.is_set():  # a lost link of TLS takes no more calls
            self._transport.resume_reading()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_S_MAX):
                    await self._lost.wait()
            self._transport.abort()
        self._break(NotConnected("the MQTT link was closed"))

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._heard_s = self._clock.monotonic_s()

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        self._heard_s = self._clock.monotonic_s()
        try:
            for event in self._decoder.feed(data):
                self._events.put_nowait(event)
                self._wake.set()
        except NotConnected as e:
            self._break(e)
            return
        here = len(self._decoder.messages)
        self._arrived += [self._clock.now_ns()] * (here - len(self._arrived))
        if here >= self._wanted:
            self._wake.set()
        if here >= INFLIGHT_MAX and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        why = exc or "without a reason: was it stopped, or does another client use the same name?"
        self._break(NotConnected(f"the MQTT broker closed the connection ({why})"))
        self._lost.set()

    def _send(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing() and data:
            self._transport.write(data)

    def _check(self) -> None:
        if self._error is not None:
            raise self._error

    def _break(self, error: NotConnected) -> None:
        self._error = self._error or error
        self._wake.set()
        if self._keeper is not None:
            self._keeper.cancel()
        if self._transport is not None:
            self._transport.close()

    async def _keep_alive(self, every_s: float) -> None:
        while True:
            await self._clock.sleep(every_s / 2)
            if not self._paused and self._clock.monotonic_s() - self._heard_s > 1.5 * every_s:
                self._break(NotConnected(f"the MQTT broker has been silent for {1.5 * every_s:g} s"))
            self._send(wire.PINGREQ)
