"""`python -m benchmarks.mqtt`: readings a second from an MQTT broker into Kafka, and what 5,000 tags a second cost.

Full rate: Mosquitto holds a backlog of JSON messages for each client. Ours is `collect`'s collector; the peer does the same job
in plain asyncio (aiomqtt, json.loads, an aiokafka send for each reading); the limit takes the same packets from a bare socket, at
QoS 1 with acknowledgements. Brokers have one core, the client the other. Every reading must be in Kafka. CPU time for a reading
is told, too: it depends less on what else the machine does.

Steady: each tag says a number that counts up, once a second. Latency is from when it was published to when Kafka has it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import aiomqtt
import numpy as np

from benchmarks.measure import BROKER_CORE, Figures, arguments, medians, pinned, progress, report, run_alone
from connectors import mqtt
from connectors.base import Context
from connectors.collector import Collector, Framer, Limits
from connectors.mqtt import wire
from connectors.mqtt.reader import MqttReader
from connectors.outlet import Outlet
from containers.child import Child, free_port
from containers.embedded import EmbeddedKafka, mqtt_answers
from pipelines import metrics, topics
from pipelines.clock import SystemClock
from pipelines.runtime import kafka
from pipelines.runtime.log import LogReader
from pipelines.schema import Col, Key, Schema
from pipelines.wire import decode

PARTITIONS, DEVICES = 4, 1_000
KINDS = ("ours", "peer", "limit")
SETTINGS = """\
listener {port} 127.0.0.1
allow_anonymous true
user root
max_queued_messages 0
max_inflight_messages 0
queue_qos0_messages true
"""
CHUNK = 500  # messages published at once
PAUSED_S = 0.005


class Tag(Schema):
    """A reading of a device."""

    device = Key[str]()
    value = Col[float]()


def described(port: int, site: str) -> mqtt.MqttSource[Tag]:
    """The source; each site has topics of its own."""
    return mqtt.source(
        Tag,
        broker=f"mqtt://127.0.0.1:{port}",
        topic=f"{site}/{{device}}/value",
        time="ts",
        time_unit="ns",
        future_max="1h",
    )


# The devices


def packet(site: str, device: int, value: int, qos: int) -> bytes:
    """A PUBLISH of MQTT 3.1.1."""
    topic = f"{site}/press-{device}/value".encode()
    body = struct.pack(">H", len(topic)) + topic + (struct.pack(">H", 1 + value % 65_535) if qos else b"")
    body += b'{"ts": %d, "value": %d.5}' % (time.time_ns(), value)
    size = (len(body),) if len(body) < 128 else (len(body) & 127 | 128, 1)
    return bytes((0x30 | qos << 1, *size)) + body


def publisher(port: int) -> socket.socket:
    """A connected client that publishes; what the broker answers is thrown away."""
    link = socket.create_connection(("127.0.0.1", port))
    name = f"devices-{os.getpid()}".encode()
    body = b"\x00\x04MQTT\x04\x02\x00\x00" + struct.pack(">H", len(name)) + name
    link.sendall(bytes((0x10, len(body))) + body)

    def drain() -> None:
        with suppress(OSError):
            while link.recv(2**16):
                pass

    threading.Thread(target=drain, daemon=True).start()
    return link


def publish(port: int, site: str, count: int, qos: int) -> int:
    """A backlog of `count` messages; its bytes."""
    link, size = publisher(port), 0
    for first in range(0, count, CHUNK):
        data = b"".join(packet(site, n % DEVICES, n, qos) for n in range(first, min(first + CHUNK, count)))
        link.sendall(data)
        size += len(data)
        time.sleep(PAUSED_S)  # so that it does not fill the broker's own buffers
    link.sendall(wire.DISCONNECT)
    time.sleep(0.5)
    return size


def speak(port: int, site: str, tags: int, seconds: int, qos: int) -> None:
    """Each tag once a second, spread over it."""
    link, steps = publisher(port), 50
    start = time.monotonic()
    for n in range(seconds * steps):
        time.sleep(max(0.0, start + n / steps - time.monotonic()))
        second, step = divmod(n, steps)
        link.sendall(b"".join(packet(site, t, second, qos) for t in range(step, tags, steps)))
    link.sendall(wire.DISCONNECT)
    time.sleep(0.5)


# Those that collect


async def ours(port: int, brokers: str, site: str, count: int) -> float:
    """`collect`'s collector; seconds until Kafka has all."""
    source, stop = described(port, site), asyncio.Event()
    framer = Framer(site, source.stream, "1", Tag.measured(), PARTITIONS, Limits().heartbeat_s)
    reader = MqttReader(source, Context(site, "1", Path("/nowhere"), SystemClock()))
    collector = Collector(source, reader, Outlet(brokers, stop), framer, site, SystemClock(), Limits())
    taken = metrics.source_records.labels(site, source.stream)
    start = time.perf_counter()
    running = asyncio.create_task(collector.run(stop))
    while taken._value.get() < count and not running.done():  # noqa: ASYNC110 - the collector does not know when it is over
        await asyncio.sleep(0.002)
    spent = time.perf_counter() - start
    stop.set()
    await running
    return spent


async def peer(port: int, brokers: str, site: str, count: int) -> float:
    """The same in plain asyncio; seconds until Kafka has all."""
    producer = await kafka.producer(brokers)
    start, sent = time.perf_counter(), []
    async with aiomqtt.Client("127.0.0.1", port, identifier=name_of(site), clean_session=False) as client:
        async for message in client.messages:
            assert isinstance(message.payload, bytes)
            reading = json.loads(message.payload)
            device = message.topic.value.split("/")[1]
            value = json.dumps({"device": device, "time": reading["ts"], "value": float(reading["value"])}).encode()
            sent.append(await producer.send(topics.stream(site, "tag"), value, key=device.encode()))
            if len(sent) == count:
                break
    await asyncio.gather(*sent)
    spent = time.perf_counter() - start
    await kafka.stopped(producer)
    return spent


def limit(port: int, site: str, count: int, left: int) -> float:
    """Receive, at QoS 1 also acknowledge, and nothing else; seconds until `count` messages and `left` bytes are there."""
    start = time.perf_counter()
    link = subscribed(port, site, name_of(site))
    while left > 0:
        left -= len(link.recv(2**18))
    decoder, got = wire.Decoder(wire.V311), 0
    while got < count:
        decoder.feed(link.recv(2**18))
        messages = decoder.messages.take(len(decoder.messages))
        got += len(messages)
        if any(messages.ids):
            link.sendall(wire.acks(messages.ids))
    return time.perf_counter() - start


def name_of(site: str) -> str:
    """The client id that the collector has, too."""
    return f"sitestream-{site}-tag-1"


def subscribed(port: int, site: str, name: str) -> socket.socket:
    """A session that lasts."""
    link = socket.create_connection(("127.0.0.1", port))
    link.sendall(wire.connect(name, version=wire.V311, keepalive_s=0, inflight_max=0))
    link.sendall(wire.subscribe(f"{site}/+/value", version=wire.V311))
    return link


async def _drain(kind: str, port: int, brokers: str, site: str, count: int, size: int) -> None:
    before = time.process_time()
    if kind == "limit":  # at QoS 0 bytes are enough to know when it is over
        seconds = limit(port, site, 0 if size else count, size)
    else:
        seconds = await (ours if kind == "ours" else peer)(port, brokers, site, count)
    report(readings_s=count / seconds, cpu_us=1e6 * (time.process_time() - before) / count)


async def _steady(port: int, brokers: str, site: str, count: int) -> None:
    before = time.process_time()
    seconds = await ours(port, brokers, site, count)
    report(cpu=(time.process_time() - before) / seconds, readings_s=count / seconds)


# The whole


@contextmanager
def mosquitto(folder: Path) -> Iterator[int]:
    """A real broker; its port."""
    port = free_port()
    (folder / "mosquitto.conf").write_text(SETTINGS.format(port=port))
    child = Child("mosquitto", ["mosquitto", "-c", str(folder / "mosquitto.conf")], folder / "mosquitto.log")
    child.start(lambda: mqtt_answers("127.0.0.1", port))
    try:
        yield port
    finally:
        child.stop()


async def found(brokers: str, site: str, kind: str) -> tuple[int, Any]:
    """(readings, milliseconds from publishing to Kafka) of what is in a site's topic, each reading counted once."""
    consumer = await kafka.consumer(brokers, isolation="read_uncommitted")
    places = [kafka.Place(topics.stream(site, "tag"), p) for p in range(PARTITIONS)]
    logs = await LogReader(consumer, dict.fromkeys(places, 0)).upto(await consumer.end_offsets(places))
    await kafka.stopped(consumer)
    records = [r for records in logs.values() for r in records]
    if kind == "peer":
        return len({(r.key, r.value) for r in records}), np.empty(0)
    seen: set[tuple[str, float]] = set()
    late = []
    for record in records:
        batch = decode(record.value or b"", Tag.measured())
        seen |= set(zip(batch.keys, batch.columns["Tag.value"].tolist(), strict=True))
        late.append(record.timestamp - batch.time / 1e6)
    return len(seen), np.concatenate(late)


def run(kind: str, port: int, brokers: str, site: str, count: int, qos: int) -> Figures:
    """One run at full rate."""
    asyncio.run(kafka.ensure(brokers, [topics.Topic(topics.stream(site, "tag"), PARTITIONS)]))
    _leave(subscribed(port, site, name_of(site)))
    size = publish(port, site, count, qos)
    size = 0 if qos else size + 9  # and the answers to CONNECT and SUBSCRIBE
    job = f"{port},{brokers.replace(',', '+')},{site},{count},{size}"
    figures = dict(run_alone("benchmarks.mqtt", [f"--{kind}", job]))
    if kind != "limit":
        there, _ = asyncio.run(found(brokers, site, kind))
        figures["lost"] = count - there
    return figures


def _leave(link: socket.socket) -> None:
    """Once the broker has answered both, go; it keeps the session."""
    answered = b""
    while len(answered) < 9:
        answered += link.recv(9)
    link.sendall(wire.DISCONNECT)
    link.close()


def steady(port: int, brokers: str, site: str, tags: int, seconds: int) -> Figures:
    """Tags at one a second, QoS 1."""
    plan = topics.Topic(topics.stream(site, "tag"), PARTITIONS, (("message.timestamp.type", "LogAppendTime"),))
    asyncio.run(kafka.ensure(brokers, [plan]))
    _leave(subscribed(port, site, name_of(site)))
    count = tags * seconds
    words = ["--speak", f"{port},{site},{tags},{seconds}"]
    devices = subprocess.Popen([sys.executable, "-m", "benchmarks.mqtt", *words])
    figures = dict(run_alone("benchmarks.mqtt", ["--steady", f"{port},{brokers.replace(',', '+')},{site},{count},0"]))
    devices.wait()
    there, late = asyncio.run(found(brokers, site, "ours"))
    p50, p99 = np.percentile(late, [50, 99])
    return {**figures, "lost": count - there, "p50_ms": float(p50), "p99_ms": float(p99)}


def main() -> None:
    """Run it; or, with hidden options, one of its processes."""
    parser = arguments(__doc__ or "")
    parser.add_argument(
        "--count", type=int, default=200_000, help="messages of each run at full rate; the peer has a tenth"
    )
    parser.add_argument("--tags", type=int, default=5_000)
    parser.add_argument("--seconds", type=int, default=60, help="of the steady run")
    for hidden in (*KINDS, "steady", "speak"):
        parser.add_argument(f"--{hidden}", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    for kind in (*KINDS, "steady"):
        if words := getattr(options, kind):
            port, brokers, site, count, size = words.split(",")
            job = (int(port), brokers.replace("+", ","), site, int(count))
            asyncio.run(_steady(*job) if kind == "steady" else _drain(kind, *job, int(size)))
            return
    if options.speak:
        port, site, tags, seconds = options.speak.split(",")
        speak(int(port), site, int(tags), int(seconds), 1)
        return
    _whole(options)


def _whole(options: argparse.Namespace) -> None:
    load = os.getloadavg()[0]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mqtt-")))
        stack.enter_context(pinned(BROKER_CORE))
        port = stack.enter_context(mosquitto(folder))
        brokers = stack.enter_context(EmbeddedKafka(folder / "kafka")).bootstrap
        full: dict[str, list[Figures]] = {}
        for i in range(options.runs):
            for qos in (0, 1):
                for kind in KINDS:
                    count = options.count // 10 if kind == "peer" else options.count
                    figures = run(kind, port, brokers, f"{kind}-{qos}-{i}", count, qos)
                    full.setdefault(f"{kind}_qos{qos}", []).append(figures)
                    progress(
                        f"{kind}, QoS {qos}: {figures['readings_s']:,.0f} readings/s, lost {figures.get('lost', 0)}"
                    )
        calm = steady(port, brokers, "steady", options.tags, options.seconds)
    told = {name: medians(runs) for name, runs in full.items()}
    _show(told, calm, options, load)


def _show(full: dict[str, dict[str, float]], calm: Figures, options: argparse.Namespace, load: float) -> None:
    print(f"\nMQTT backlog to Kafka, medians of {options.runs}; load of the machine before: {load:.1f}")
    for qos in (0, 1):
        for kind in KINDS:
            f = full[f"{kind}_qos{qos}"]
            ratio = full[f"ours_qos{qos}"]["readings_s"] / f["readings_s"]
            each = f"{f['readings_s']:,.0f} readings/s, {f['cpu_us']:.1f} µs of CPU each"
            print(f"  QoS {qos}, {kind}: {each}; ours is {ratio:.2f} × that")
    print(
        f"  {options.tags:,} tags a second for {options.seconds} s: {calm['cpu']:.1%} of a core, {calm['rss_mb']:.0f} MB, lost "
        f"{calm['lost']:.0f}, p50 {calm['p50_ms']:.0f} ms, p99 {calm['p99_ms']:.0f} ms"
    )
    if options.json is not None:
        options.json.write_text(json.dumps({"load": load, **full, "steady": dict(calm)}, indent=2) + "\n")


if __name__ == "__main__":
    main()
