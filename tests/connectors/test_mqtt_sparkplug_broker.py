"""Sparkplug B through a real broker: an edge node that publishes, and whose will the broker executes."""

from __future__ import annotations

import socket
from pathlib import Path

from connectors import mqtt
from connectors.base import Context
from connectors.mqtt.reader import MqttReader
from connectors.payloads import PAYLOAD_BYTES_MAX
from pipelines import metrics
from pipelines.clock import SystemClock
from pipelines.quality import BAD, GOOD, UNCERTAIN
from pipelines.schema import Col, Key, Quality, Schema
from tests.bed.mosquitto import Mosquitto
from tests.connectors.edge_node import DOUBLE, EdgeNode, Message
from tests.connectors.test_mqtt_wire import packet


class Press(Schema):
    device = Key[str]()
    temp = Col[float]("°C")
    quality = Quality()


def field(raw: bytes) -> bytes:
    return len(raw).to_bytes(2, "big") + raw


class Session:
    """An edge node's session of MQTT 3.1.1, with its will. Closing it without a word is a death."""

    def __init__(self, port: int, name: str, will: Message) -> None:
        self.link = socket.create_connection(("127.0.0.1", port), timeout=5)
        hello = b"\x00\x04MQTT\x04\x0e\x00\x3c" + field(name.encode()) + field(will[0]) + field(will[1])
        self.link.sendall(packet(0x10, hello))
        assert self.link.recv(4) == b"\x20\x02\x00\x00"

    def publish(self, message: Message) -> None:
        self.link.sendall(packet(0x30, field(message[0]) + message[1]))


async def rows_of(reader: MqttReader, count: int) -> list[tuple[str, int]]:
    found: list[tuple[str, int]] = []
    for _ in range(100):
        got = await reader.read(rows_max=100, linger_s=0.05)
        assert got.rejects == ()
        await got.ack()
        keys = got.batch.names.take(got.batch.codes).to_pylist()
        found += zip(keys, got.batch.columns["Press.quality"].tolist(), strict=True)
        if len(found) >= count:
            break
    return found


async def test_births_a_large_one_a_gap_and_the_will(mosquitto: Mosquitto, unique: str) -> None:
    source = mqtt.sparkplug(Press, broker=mosquitto.url, group=unique, key="{device}")
    clock = SystemClock()
    reader = MqttReader(source, Context(unique, "1", Path("/nowhere"), clock))
    await reader.connect()
    node, now = EdgeNode(unique), clock.now_ns() / 1e9
    session = Session(mosquitto.port, unique, node.will())
    waiting = metrics.collect_sparkplug_rebirths_wanted.labels(site=unique, stream="press")

    session.publish(node.birth(now))
    many = {f"Line {i}/Some rather long name of a metric": (DOUBLE, 1.0) for i in range(5_000)}
    birth = node.device_birth("d", now, {"temp": (DOUBLE, 20.0)} | many)
    assert len(birth[1]) > 3 * PAYLOAD_BYTES_MAX  # more than a payload of other sources may have
    session.publish(birth)
    session.publish(node.data("d", now, temp=21.0))
    assert await rows_of(reader, 2) == [("d", GOOD), ("d", GOOD)]
    assert waiting._value.get() == 0

    node.data("d", now, temp=22.0)  # is never sent
    session.publish(node.data("d", now, temp=23.0))
    assert await rows_of(reader, 1) == [("d", UNCERTAIN)]
    assert waiting._value.get() == 1

    session.link.close()
    assert await rows_of(reader, 1) == [("d", BAD)]
    await reader.close()
