"""A site with one press to control: the service in a child process, a device on MQTT, and alarms as `process` writes them."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import aiomqtt
import numpy as np
from aiokafka.partitioner import murmur2
from nacl.signing import SigningKey

from connectors.control.commands import Command
from connectors.control.signing import public, signed
from connectors.control.status import CommandState, states
from pipelines import topics
from pipelines.batch import Batch
from pipelines.load import load
from pipelines.plan import Plan
from pipelines.runtime import kafka
from pipelines.wire import FrameInfo, encode
from tests.bed import beside, free_port, until

PARTITIONS = 2
ROOT = Path(__file__).parents[2]
PIPELINE = """
from connectors import control, mqtt
from pipelines import Col, Key, Pipeline, Schema

class Reading(Schema):
    device = Key[str]()
    rms = Col[float]("mm/s")

class Alarm(Schema):
    rms = Reading.rms

press = Pipeline("press")
reading = press.read(mqtt.source(Reading, broker="{broker}", topic="{site}/{{device}}/vib"))
reading.select(Alarm).where(Alarm.rms > 4).to(control.command(
    topic="{site}/{{device}}/cmd", verb="set_speed", expires="{expires}", idempotent={idempotent}, speed=0.5, why=Alarm.rms))
"""


ME, YOU = SigningKey(b"m" * 32), SigningKey(b"y" * 32)
DEVICES = f"""
[issuers.me]
key = "{public(ME)}"
devices = ["*"]
verbs = ["*"]

[issuers.you]
key = "{public(YOU)}"
devices = ["p1"]
verbs = ["stop", "approve"]

[profiles.press]
devices = ["p*"]
topic = "SITE/{{device}}/cmd"
[profiles.press.verbs.stop]
[profiles.press.verbs.set_speed]
idempotent = IDEMPOTENT
args.speed = {{type = "float", min = 0.0, max = 2.5, unit = "m/s"}}
args.why = {{type = "float", optional = true}}
[profiles.press.verbs.beep]
rate = "2/1m"
[profiles.press.verbs.open]
dangerous = true
"""


@dataclass
class Site:
    """One site on shared brokers."""

    name: str
    brokers: str
    mqtt: str
    folder: Path
    idempotent: bool = False
    expires: str = "30s"
    devices: str = DEVICES
    options: dict[str, str] = field(default_factory=dict)
    plan: Plan = field(init=False)
    config: Path = field(init=False)
    log: Path = field(init=False)

    def __post_init__(self) -> None:
        pipeline = self.folder / "press.py"
        pipeline.write_text(
            PIPELINE.format(broker=self.mqtt, site=self.name, expires=self.expires, idempotent=self.idempotent)
        )
        self.plan = load(str(pipeline)).plan()
        self.config, self.log = self.folder / "control.json", self.folder / "control.log"
        settings = {
            "site": self.name, "brokers": self.brokers, "pipeline": str(pipeline), "partitions": PARTITIONS,
            "data_dir": str(self.folder / "data"), "metrics_port": free_port(),
            "devices": self.devices.replace("SITE", self.name).replace("IDEMPOTENT", str(self.idempotent).lower()),
            "options": self.options, "secrets_dir": str(self.folder / "secrets"),
        }  # fmt: skip
        self.config.write_text(json.dumps(settings))

    def control(self, crash: str = "") -> Control:
        """The service; with `crash`, it kills itself there (see `tests.control.crashing`)."""
        return Control(self, crash)

    @asynccontextmanager
    async def alarms(self, identifier: str = "process") -> AsyncIterator[Alarms]:
        """Writes frames in transactions, as `process` does."""
        client = await kafka.producer(self.brokers, transactional_id=f"{self.name}.{identifier}")
        try:
            yield Alarms(self, client)
        finally:
            await kafka.stopped(client)

    async def command(self, device: str, *raw: bytes, key: SigningKey = ME, **changes: object) -> Command:
        """Put a signed command on the command topic as anybody with the right might; `raw` instead of it."""
        now = time.time_ns()
        fields: dict[str, object] = {
            "id": f"manual-{now}", "device": device, "verb": "stop", "issuer": "me",
            "issued_at_ns": now, "expires_at_ns": now + 30 * 10**9,
        }  # fmt: skip
        command = Command(**(fields | changes))  # type: ignore[arg-type]  # tests write wrong ones on purpose
        command = signed(command, self.name, key)
        producer = await kafka.producer(self.brokers)
        try:
            for value in raw or (command.encode(),):
                await producer.send_and_wait(topics.commands(self.name), value, key=device.encode())
        finally:
            await kafka.stopped(producer)
        return command

    async def states(self) -> list[CommandState]:
        """As the CLI sees them."""
        return await states(self.brokers, self.name)

    async def settled(self, *want: str, timeout_s: float = 20) -> list[CommandState]:
        """Wait until the commands on record are in these states, oldest first."""

        async def there() -> list[CommandState] | None:
            got = await self.states()
            return got if [s.state for s in got] == list(want) else None

        try:
            found: list[CommandState] = await until(there, timeout_s, f"commands {want}")
            return found
        except TimeoutError as e:
            raise AssertionError(f"{await self.states()}\n{self.log.read_text()}") from e


MakeSite = Callable[..., Site]


@dataclass
class Alarms:
    """A transactional writer of alarm rows."""

    site: Site
    client: kafka.Client

    async def write(self, device: str, *rms: float, time_ns: int | None = None, commit: bool = True) -> None:
        """A frame of rows 1 ms apart; its transaction is committed or aborted."""
        now = (time_ns or time.time_ns()) + np.arange(len(rms), dtype=np.int64) * 10**6
        step, _ = next(self.site.plan.sinks_of("control"))
        batch = Batch.of_keys([device] * len(rms), now, {"Alarm.rms": np.array(rms)})
        value = encode(batch, step.row)
        info = FrameInfo("press", int(now[-1]), len(rms), step.row.fingerprint)
        partition = (murmur2(device.encode()) & 0x7FFFFFFF) % PARTITIONS
        await self.client.begin_transaction()
        await self.client.send_and_wait(
            self.site.plan.topic(self.site.name, step.name), value, partition=partition, headers=info.headers()
        )
        await (self.client.commit_transaction() if commit else self.client.abort_transaction())


class Control:
    """The control service as a child process."""

    def __init__(self, site: Site, crash: str) -> None:
        self._site = site
        module = ["tests.control.crashing", crash] if crash else ["connectors.control.service"]
        self._words = [
            sys.executable,
            "-W",
            "error::DeprecationWarning:connectors",
            "-m",
            *module,
            "--config",
            str(site.config),
        ]
        self.port = json.loads(site.config.read_text())["metrics_port"]
        self.process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        with self._site.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *self._words, cwd=ROOT, stderr=log, stdout=log, env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin"}
            )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        if self.process and self.process.returncode is None:
            await self.kill()

    async def ready(self) -> None:
        """Wait until it says that it is healthy."""
        await until(lambda: self.scrape("healthz", "200 OK"), 30, f"{self._site.log.read_text()}")

    async def scrape(self, path: str, what: str) -> bool:
        """Whether a page of its HTTP server has a text."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(f"GET /{path} HTTP/1.0\r\n\r\n".encode())
        page = await reader.read()
        writer.close()
        await writer.wait_closed()
        return what in page.decode()

    async def kill(self) -> None:
        """kill -9."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        await self.process.wait()

    def freeze(self) -> None:
        """Stop it where it stands, as a paused virtual machine."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    async def ended(self) -> int:
        """Wait for its end; the exit code."""
        assert self.process is not None
        return await asyncio.wait_for(self.process.wait(), 30)

    async def stop(self) -> int:
        """SIGTERM, and its exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return await self.ended()


@dataclass
class Device:
    """A machine that does what it is told once an id, and says so unless it is `mute`."""

    heard: list[dict[str, object]] = field(default_factory=list)
    mute: bool = False
    answers: Iterable[str] = ("ACCEPTED", "SUCCEEDED")
    heard_at: list[float] = field(default_factory=list)

    @property
    def executions(self) -> Counter[object]:
        """Deliveries by id."""
        return Counter(c["id"] for c in self.heard)

    @asynccontextmanager
    async def on(self, site: Site, name: str = "p1", *, kept: bool = False) -> AsyncIterator[Self]:
        """Listen and answer. `kept`: the broker keeps for it what comes while it is away."""
        url, me = urlsplit(site.mqtt), f"{site.name}-{name}"
        async with aiomqtt.Client(str(url.hostname), url.port or 1883, identifier=me, clean_session=not kept) as client:
            await client.subscribe(f"{site.name}/{name}/cmd", qos=1)
            async with beside(self._listen(client, f"{site.name}/{name}/ack")):
                yield self

    async def _listen(self, client: aiomqtt.Client, ack_topic: str) -> None:
        async for message in client.messages:
            assert isinstance(message.payload, bytes)
            command = json.loads(message.payload)
            self.heard.append(command)
            self.heard_at.append(time.time())
            for state in () if self.mute else self.answers:
                await client.publish(
                    ack_topic, json.dumps({"id": command["id"], "state": state, "detail": "done"}), qos=1
                )
