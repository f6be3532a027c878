"""A fleet of simulated devices on a real MQTT broker: they publish recorded readings and obey commands.

A command is JSON `{"id", "verb", "args", "expires_at_ns"}` on the device's `…/cmd`; what became of it is told on `…/ack` as
`{"id", "device", "state", "at_ns"}` with state SUCCEEDED, FAILED or EXPIRED. A command whose id was seen before is answered
again, and not executed again.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import aiomqtt

from connectors.backoff import Backoff
from connectors.columns import iso
from pipelines.batch import Times
from pipelines.clock import Clock, SystemClock
from pipelines.expr import Array

Reading = tuple[int, bytes]  # event time in ns, payload
Execute = Callable[[str, Mapping[str, Any]], bool]
KEEPALIVE_S = 20
log = logging.getLogger("simulator")


def readings(time: Times, columns: Mapping[str, Array]) -> Iterator[Reading]:
    """Columns as the JSON payloads of a device, one a row."""
    names = list(columns)
    for ns, *values in zip(time.tolist(), *(c.tolist() for c in columns.values()), strict=True):
        yield ns, json.dumps({"time": iso(ns), **dict(zip(names, values, strict=True))}).encode()


@dataclass
class Device:
    """One device: what it publishes where, and what it has done so far. `execute(verb, args)` says whether a command worked."""

    name: str
    topic: str
    readings: Iterable[Reading] = ()
    execute: Execute = lambda verb, args: True
    published: int = 0  # readings that the broker has acknowledged
    executions: Counter[str] = field(default_factory=Counter)  # times that each command id was executed: never above 1
    states: dict[str, str] = field(default_factory=dict)  # command id -> state told

    @property
    def base(self) -> str:
        """The topic without its last level; commands come on `{base}/cmd` and are answered on `{base}/ack`."""
        return self.topic.rpartition("/")[0]

    def obey(self, payload: bytes, now_ns: int) -> bytes | None:
        """Carry a command out, once, and give the answer; None if it is no command."""
        try:
            command = json.loads(payload)
            id_, verb, args = str(command["id"]), str(command["verb"]), command.get("args", {})
            expired = now_ns > int(command.get("expires_at_ns") or 2**63)
        except (ValueError, KeyError, TypeError, AttributeError):
            log.warning("%s: not a command: %r", self.name, payload[:80])
            return None
        if id_ not in self.states:
            if expired:
                self.states[id_] = "EXPIRED"
            else:
                self.executions[id_] += 1
                self.states[id_] = "SUCCEEDED" if self.execute(verb, args) else "FAILED"
        return json.dumps({"id": id_, "device": self.name, "state": self.states[id_], "at_ns": now_ns}).encode()


class Fleet:
    """Devices at work from `async with` to its end; `await done()` waits until every reading is acknowledged by the broker.

    Readings go out when their time has come, `speed` times as fast as it was recorded (0: at once), the fleet's earliest first.
    A device whose link breaks connects again and goes on with the reading that was not acknowledged.
    """

    def __init__(
        self, broker: str, devices: Sequence[Device], *, speed: float = 1.0, clock: Clock | None = None
    ) -> None:
        url = urlsplit(broker)
        self._host, self._port = url.hostname or "localhost", url.port or 1883
        self._clock = clock or SystemClock()
        self._speed = speed
        self.devices = list(devices)
        self._waiting = {device.name: iter(device.readings) for device in devices}
        self._next = {name: next(waiting, None) for name, waiting in self._waiting.items()}
        self._first_ns = min((reading[0] for reading in self._next.values() if reading), default=0)
        self._idle = {device.name: asyncio.Event() for device in devices}
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._start_s = self._clock.monotonic_s()
        self._tasks = [asyncio.create_task(self._live(device)) for device in self.devices]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def done(self) -> None:
        """Wait until all readings of all devices were published and acknowledged."""
        await asyncio.gather(*(idle.wait() for idle in self._idle.values()))

    async def _live(self, device: Device) -> None:
        backoff, never = Backoff(), asyncio.Event()
        while True:
            try:
                async with aiomqtt.Client(
                    self._host,
                    self._port,
                    identifier=f"device-{device.base}-{device.name}",
                    clean_session=False,
                    keepalive=KEEPALIVE_S,
                ) as client:
                    await client.subscribe(f"{device.base}/cmd", qos=1)
                    backoff.reset()
                    async with asyncio.TaskGroup() as tasks:
                        tasks.create_task(self._publish(device, client))
                        tasks.create_task(self._listen(device, client))
            except* aiomqtt.MqttError as e:
                log.warning("%s: link lost: %s", device.name, e.exceptions[0])
            await backoff.wait(never)

    async def _publish(self, device: Device, client: aiomqtt.Client) -> None:
        while (reading := self._next[device.name]) is not None:
            when, payload = reading
            if self._speed:
                due_s = self._start_s + (when - self._first_ns) / 1e9 / self._speed
                await self._clock.sleep(max(0.0, due_s - self._clock.monotonic_s()))
            await client.publish(device.topic, payload, qos=1)
            device.published += 1
            self._next[device.name] = next(self._waiting[device.name], None)
        self._idle[device.name].set()

    async def _listen(self, device: Device, client: aiomqtt.Client) -> None:
        async for message in client.messages:
            assert isinstance(message.payload, bytes)
            answer = device.obey(message.payload, self._clock.now_ns())
            if answer is not None:
                await client.publish(f"{device.base}/ack", answer, qos=1)
