"""Edge nodes of Sparkplug B are asked to be born again where devices.toml allows it; with real services and brokers."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiomqtt
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.control import audit, sparkplug
from connectors.control.commands import Command
from connectors.control.desk import Desk
from connectors.control.devices import parse
from connectors.control.guard import Guard
from connectors.control.ledger import Entry, Ledger, State
from connectors.control.rebirths import Rebirths
from connectors.control.signing import is_signed
from connectors.control.switch import Switch
from connectors.mqtt.spb_proto import parse as parse_payload
from connectors.wish import Wish
from containers.child import Child, free_port
from pipelines import topics
from pipelines.clock import ManualClock
from pipelines.errors import ConfigError
from pipelines.load import load
from pipelines.quality import GOOD, UNCERTAIN
from pipelines.settings import Settings
from pipelines.wire import decode
from tests.bed import beside, until
from tests.bed.topics import consume_all
from tests.connectors.edge_node import DOUBLE, EdgeNode, Message
from tests.control.plant import DEVICES, ME, PARTITIONS, ROOT, MakeSite, Site

PIPELINE = """
from connectors import mqtt
from pipelines import Col, Key, Pipeline, Quality, Schema

class Press(Schema):
    device = Key[str]()
    temp = Col[float]("°C")
    quality = Quality()

press = Pipeline("press")
reading = press.read(mqtt.sparkplug(Press, broker="{broker}", group="{site}", key="{{node}}/{{device}}"))
"""
EDGE = """
[profiles.edge]
devices = ["SITE/n*"]
sparkplug = true
verbs.rebirth.rate = "1/1h"
"""


class Node:
    """An edge node that is born again when it is asked to be, as the specification wants it."""

    def __init__(self, group: str, name: str) -> None:
        self.edge, self.asked = EdgeNode(group, name), list[Any]()

    @asynccontextmanager
    async def on(self, url: str) -> AsyncIterator[Node]:
        at = urlsplit(url)
        async with aiomqtt.Client(str(at.hostname), at.port or 1883) as self.client:
            await self.client.subscribe(f"spBv1.0/{self.edge.group}/NCMD/{self.edge.name}", qos=1)
            await self.birth()
            async with beside(self._listen()):
                yield self

    async def birth(self) -> None:
        await self.send(self.edge.birth(time.time()))
        await self.send(self.edge.device_birth("d", time.time(), {"temp": (DOUBLE, 20.0)}))

    async def data(self, temp: float) -> None:
        await self.send(self.edge.data("d", time.time(), temp=temp))

    async def gap(self, temp: float) -> None:
        """A message is lost, and the next one tells."""
        self.edge.data("d", time.time(), temp=0.0)
        await self.data(temp)

    async def send(self, message: Message) -> None:
        await self.client.publish(message[0].decode(), message[1])

    async def _listen(self) -> None:
        async for message in self.client.messages:
            assert isinstance(message.payload, bytes)
            payload = parse_payload(message.payload)
            if any(m.name == "Node Control/Rebirth" and m.boolean_value for m in payload.metrics):
                await self.birth()
            self.asked.append((payload, message.qos, message.retain))


@pytest.fixture
def site(make_site: MakeSite) -> Site:
    found = make_site(devices=EDGE + DEVICES)
    (found.folder / "press.py").write_text(PIPELINE.format(broker=found.mqtt, site=found.name))
    return found


@asynccontextmanager
async def collecting(site: Site) -> AsyncIterator[None]:
    """The service `collect` of the same pipeline."""
    settings = json.loads(site.config.read_text()) | {"metrics_port": free_port(), "devices": "", "options": {}}
    config = site.folder / "collect.json"
    config.write_text(json.dumps(settings))
    words = [sys.executable, "-m", "connectors.collect", "--config", str(config)]
    child = Child("collect", words, site.folder / "collect.log", env={"PYTHONPATH": str(ROOT)})
    await asyncio.to_thread(child.start, lambda: "connected" in (site.folder / "collect.log").read_text())
    try:
        yield
    finally:
        await asyncio.to_thread(child.stop)


async def readings(site: Site) -> dict[tuple[str, float], int]:
    """Quality by key and value."""
    row = load(str(site.folder / "press.py")).plan().steps[0].row
    found = dict[tuple[str, float], int]()
    topic = topics.stream(site.name, "press")
    frames = [f for p in range(PARTITIONS) for f in await consume_all(site.brokers, topic, partition=p)]
    for frame in frames:
        batch = decode(frame, row)
        keys = batch.names.take(batch.codes).to_pylist()
        columns = (batch.columns[f"Press.{c}"].tolist() for c in ("temp", "quality"))
        found |= {(key, temp): quality for key, temp, quality in zip(keys, *columns, strict=True)}
    return found


async def test_a_gap_makes_control_ask_for_a_birth_and_readings_are_good_again(site: Site) -> None:
    node, other = Node(site.name, "n1"), Node(site.name, "x1")  # of which devices.toml knows nothing
    async with site.control() as control, collecting(site), node.on(site.mqtt), other.on(site.mqtt):
        await control.ready()
        for one in (node, other):
            await one.data(21.0)
            await one.gap(22.0)

        async def asked() -> bool:
            return bool(node.asked)

        await until(asked, 20, "an NCMD")
        await node.data(23.0)
        await other.data(23.0)

        async def there() -> bool:
            return {("n1/d", 23.0), ("x1/d", 23.0)} <= (await readings(site)).keys()

        try:
            await until(there, 20, "the last readings")
        except TimeoutError as e:
            raise AssertionError(f"{await readings(site)}\n{(site.folder / 'collect.log').read_text()}") from e
        found = await readings(site)
        assert [found["n1/d", temp] for temp in (21.0, 22.0, 23.0)] == [GOOD, UNCERTAIN, GOOD]
        assert [found["x1/d", temp] for temp in (21.0, 22.0, 23.0)] == [GOOD, UNCERTAIN, UNCERTAIN]
        await site.settled("SUCCEEDED")

        await node.gap(24.0)  # within the hour
        await asyncio.sleep(2.5)
        assert (len(node.asked), other.asked) == (1, [])
        ((payload, qos, retain),) = node.asked
        assert (qos, retain, payload.HasField("seq")) == (0, False, False)
        assert await control.stop() == 0
    trail = [(r.issuer, r.device, r.verb, r.state, r.detail) for r in await audit.read(site.brokers, site.name)]
    assert trail[-1] == ("collect/press", f"{site.name}/n1", "rebirth", "SUCCEEDED", "it was born again")
    assert "Traceback" not in site.log.read_text() + (site.folder / "collect.log").read_text()


# --- what is decided


class Bench:
    """The reader of wishes without Kafka: a command that is handed in is taken by a desk at once."""

    def __init__(self, folder: Path, document: str = EDGE) -> None:
        self.given: list[Command] = []
        self.clock, self.switch = ManualClock(1_700_000_000 * 10**9), Switch(folder)
        self.devices = parse(document + DEVICES.replace("IDEMPOTENT", "true"), "devices.toml")
        self.guard, self.ledger = Guard("SITE", self.devices, [], ME), Ledger()
        self.restart()

    def restart(self) -> None:
        settings = Settings(site="SITE", brokers="", pipeline="", partitions=1)
        unused: Any = None
        self.desk = Desk(
            "SITE", [], self.ledger.entries.values(), unused, self.guard, self.switch, unused, unused, unused, self.clock
        )  # fmt: skip
        self.ledger = self.desk._ledger
        self.rebirths = Rebirths(settings, self.devices, self.switch, ME, self._hand_in, self.desk.admits, self.clock)

    async def _hand_in(self, command: Command) -> None:
        self.given.append(command)
        verdict = self.guard.judge(command, self.ledger, self.clock.now_ns())
        self._record(self.ledger.submit(verdict.command, 0, self.clock.now_ns(), refusal=verdict.refusal))

    def _record(self, *entries: Entry | None) -> None:
        for entry in filter(None, entries):
            self.ledger.record(entry)

    def look(self, after_s: float, *, ready: bool) -> None:
        """Time goes on, and commands are sent if the broker is there."""
        self.clock.advance(after_s)
        self._record(*self.ledger.due(self.clock.now_ns(), ready=lambda _: ready))

    async def wish(self, *nodes: str, raw: bytes | None = None) -> list[str]:
        self.given.clear()
        await self.rebirths._grant(Wish("press", nodes).encode() if raw is None else raw, asyncio.Event())
        return [c.device for c in self.given]


async def test_only_nodes_of_the_file_are_asked_and_each_as_often_as_its_rate_allows(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    assert await bench.wish("SITE/n1", "Other/n1", "SITE/x1", "p1", "SITE/n2", "SITE/n1/d") == ["SITE/n1", "SITE/n2"]
    bench.look(1, ready=True)
    assert await bench.wish("SITE/n1", "SITE/n2", "SITE/n3") == ["SITE/n3"]
    bench.restart()
    assert await bench.wish("SITE/n1", "SITE/n2", "SITE/n3") == []
    bench.clock.advance(3600)
    assert await bench.wish("SITE/n1") == ["SITE/n1"]
    (command,) = bench.given
    assert is_signed(command, "SITE", ME.verify_key)
    assert bench.guard.forged(command) == ""
    assert bench.ledger.entries[command.id].command.topic == "spBv1.0/SITE/NCMD/n1"


async def test_a_node_that_could_not_be_asked_is_asked_again(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    assert await bench.wish("SITE/n1") == ["SITE/n1"]
    bench.look(15, ready=False)
    assert await bench.wish("SITE/n1") == []  # it waits to be sent
    bench.look(30, ready=False)
    assert [e.state for e in bench.ledger.entries.values()] == [State.EXPIRED]
    assert await bench.wish("SITE/n1") == ["SITE/n1"]


async def test_a_birth_that_nobody_asked_for_waits_for_no_record(tmp_path: Path) -> None:
    desk = Bench(tmp_path).desk
    async with desk._changing, asyncio.timeout(1):
        await desk.born("SITE/n1")


async def test_nothing_is_asked_while_it_is_off_and_at_once_when_it_is_on(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.switch.turn(off=True)
    assert await bench.wish("SITE/n1") == []
    bench.switch.turn(off=False)
    assert await bench.wish("SITE/n1") == ["SITE/n1"]


async def test_what_is_no_wish_and_too_many_nodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bench = Bench(tmp_path)
    for raw, why in (
        (b"{", "not a wish for births"),
        (b"x" * (2**20 + 1), "a wish has 1 to 1048576 bytes, this one 1048577"),
    ):
        assert await bench.wish(raw=raw) == []
        assert why in caplog.text
    monkeypatch.setattr("connectors.control.rebirths.NODES_MAX", 1)
    assert await bench.wish("SITE/n1", "SITE/n2") == ["SITE/n1"]
    assert "SITE/n2 is not asked for its birth: 1 nodes were since the start (NODES_MAX)" in caplog.text


def test_names_of_edge_nodes_and_of_other_devices_never_meet() -> None:
    document = parse(EDGE + DEVICES.replace("IDEMPOTENT", "true"), "devices.toml")
    assert document.profile_of("p1/x") is None  # 'p*' would fit, and lead to another topic
    assert document.profile_of("SITE/n1") is document.profiles["edge"]
    guard = Guard("SITE", document, [], ME)
    command = Command(id="c", device="p1/x", verb="stop", issuer="me", issued_at_ns=1, expires_at_ns=2)
    assert guard.judge(command, Ledger(), 1).refusal == "no profile is for the device 'p1/x'"
    verdict = guard.judge(msgspec.structs.replace(command, device="p1"), Ledger(), 1)
    assert (verdict.refusal, verdict.command.topic) == ("", "SITE/p1/cmd")


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ('"SITE/n*"', '"n*"', "profiles.edge.devices: 'n*': name edge nodes as 'group/node', such as 'Hall/gateway-*'"),
        ('"SITE/n*"', '"spBv1.0/SITE/n*"', "name edge nodes as 'group/node'"),
        (
            '"SITE/n*"',
            '"SITE/+"',
            "profiles.edge.devices: 'SITE/+': no edge node has + or # in its name: write * for any name",
        ),
        ('"SITE/n*"', '"S#/n*"', "profiles.edge.devices: 'S#/n*': no edge node has + or # in its name"),
        ("sparkplug = true", "", "or sparkplug = true"),
        (
            'verbs.rebirth.rate = "1/1h"',
            "verbs.rebirth = {}",
            "verbs.rebirth.rate: say how often at most, such as '1/5m'",
        ),
        ("verbs.rebirth", "verbs.reboot", "an edge node has the verb rebirth, without arguments, and neither another"),
        ("verbs", 'settings.a = {type = "int"}\nverbs', "neither another nor settings"),
    ],
)
def test_each_mistake_in_the_document_is_told(old: str, new: str, why: str) -> None:
    with pytest.raises(ConfigError) as told:
        parse(EDGE.replace(old, new), "devices.toml")
    assert why in str(told.value)


@given(st.integers(0, 2**63 - 1))
def test_the_payload_is_one_of_sparkplug(time_ns: int) -> None:
    payload = parse_payload(sparkplug.rebirth(time_ns))
    (metric,) = payload.metrics
    assert payload.timestamp == metric.timestamp == time_ns // 10**6
    assert (metric.name, metric.datatype, metric.boolean_value) == ("Node Control/Rebirth", 11, True)
    assert payload.ByteSize() == len(sparkplug.rebirth(time_ns))  # nothing else is in it


def test_births_are_heard_of_the_groups_that_may_be_asked() -> None:
    text = EDGE + EDGE.replace("edge", "more").replace("SITE/n*", "H*/gw")
    assert sparkplug.filters(parse(text, "devices.toml")) == ["spBv1.0/+/NBIRTH/+", "spBv1.0/SITE/NBIRTH/+"]
    assert sparkplug.born("spBv1.0/SITE/NBIRTH/n1") == "SITE/n1"
    assert sparkplug.born("spBv1.0/SITE/DBIRTH/n1/d") == sparkplug.born("SITE/n1/ack") == ""
