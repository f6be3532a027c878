"""What a broker said becomes a pipeline file that passes the check, and reads those very messages."""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiomqtt
import cbor2
import msgspec
import numpy as np
import pytest
from click.testing import CliRunner, Result

from connectors.base import Context
from connectors.mqtt import spb_survey, wire
from connectors.mqtt import survey as survey_module
from connectors.mqtt.connection import Connection
from connectors.mqtt.discover import Found, told
from connectors.mqtt.pipeline_text import pipeline_file
from connectors.mqtt.reader import MqttReader
from connectors.mqtt.spb_proto import Payload
from connectors.mqtt.spb_survey import Sparkplug
from connectors.mqtt.survey import Survey
from connectors.mqtt.wire import Messages
from connectors.secrets import Secret
from containers import modules
from containers.cli import main
from pipelines.clock import SystemClock
from pipelines.load import load
from tests.bed import find_part
from tests.bed.mosquitto import Mosquitto
from tests.connectors.edge_node import DOUBLE, INT32, STRING, EdgeNode
from tests.connectors.test_mqtt_reader import run, with_mosquitto

Message = tuple[str, bytes]
CLOCK = SystemClock()


def plant(now: float) -> Iterator[Message]:
    """Every message of a plant, once."""
    for line in (1, 2):
        for press in (1, 2, 3):
            n = 10 * line + press
            state = {"at": now, "data": {"vib": {"rms": n / 2}, "t_c": 41}, "mode": "run", "curve": [1, 2]}
            state |= {"spare": 5} if press == 1 else {}
            yield f"plant/line-{line}/press-{press}/state", json.dumps(state).encode()
            yield f"plant/line-{line}/press-{press}/pressure", str(n).encode()
            yield f"plant/line-{line}/press-{press}/flow", b"2.5"
    for pump in (1, 2):
        for what, unit in (("level", "m"), ("power", "kW")):
            value = {"ts": int(now * 1000), "value": pump + 0.5, "unit": unit}
            yield f"water/pump-{pump}/{what}", json.dumps(value).encode()
        yield f"water/pump-{pump}/alive", b"online"
    items = [{"id": f"s{i}", "temp": 20.0 + i} for i in range(4)]
    yield "gateway/readings", json.dumps({"time": "2026-11-01T10:00:00Z", "items": items}).encode()
    yield "cbor/oven-1", cbor2.dumps({"heat": 1.5, "on": True})
    yield "cbor/oven-2", cbor2.dumps({"heat": 2.5, "on": False})
    yield "pack/oven-1", msgspec.msgpack.encode({"heat": 3.5})
    yield "csv/scale-1/raw", b"%d,17.5,ok" % (now * 1000)
    yield "csv/scale-2/raw", b"%d,18.5,ok" % (now * 1000)
    yield "bin/cell-1", struct.pack(">f", 21.5)
    yield "bin/cell-2", struct.pack(">f", 1234.25)
    yield "odd/camera", b"\x89PNG\r\n\x1a\n" + bytes(200)


def sparkplug(now: float) -> list[Message]:
    node = EdgeNode("Hall", "gw")
    sent = [node.birth(now)]
    for robot in ("r1", "r2"):
        metrics: dict[str, tuple[int, Any]] = {
            "Motor/Speed": (DOUBLE, 5.0),
            "Starts": (INT32, 3),
            "Mode": (STRING, "auto"),
        }
        sent.append(node.device_birth(robot, now, metrics))
        sent.append(node.data(robot, now, **{"Motor/Speed": 6.0}))
    return [(topic.decode(), with_units(payload) if b"BIRTH" in topic else payload) for topic, payload in sent]


def with_units(birth: bytes) -> bytes:
    payload = Payload.FromString(birth)
    for metric in (m for m in payload.metrics if m.name == "Motor/Speed"):
        metric.properties.keys.append("engUnit")
        metric.properties.values.add(type=12, string_value="1/min")
    return bytes(payload.SerializeToString())


async def said(mosquitto: Mosquitto, messages: list[Message], words: list[str]) -> Result:
    """The command's answer while these messages come again and again."""
    command = ["devices", "discover", "mqtt", mosquitto.url, *words]
    asked = asyncio.create_task(asyncio.to_thread(CliRunner().invoke, main, command))
    async with aiomqtt.Client("127.0.0.1", mosquitto.port) as client:
        while not asked.done():
            for topic, payload in messages:
                await client.publish(topic, payload)
            await asyncio.sleep(0.3)
    return await asked


async def read(
    mosquitto: Mosquitto, source: Any, unique: str, messages: list[Message]
) -> tuple[dict[str, Any], list[Any]]:
    """(newest value by column, by device; dead letters) of a source, when these messages come once."""
    reader = MqttReader(source, Context(unique, "1", Path("/nowhere"), CLOCK))
    await reader.connect()
    async with aiomqtt.Client("127.0.0.1", mosquitto.port) as client:
        for topic, payload in messages:
            await client.publish(topic, payload, qos=1)
    found: dict[str, Any] = {}
    letters: list[Any] = []
    for _ in range(3):
        got = await reader.read(rows_max=1_000, linger_s=0.1)
        await got.ack()
        letters += got.rejects
        for i, key in enumerate(got.batch.keys):
            columns = {name.partition(".")[2]: column for name, column in got.batch.columns.items()}
            row = {n: c[i].item() if isinstance(c[i], np.generic) else c[i] for n, c in columns.items()}
            found[key] = found.get(key, {}) | {n: v for n, v in row.items() if v == v}
    await reader.close()
    return found, letters


async def test_the_file_reads_the_very_messages(mosquitto: Mosquitto, tmp_path: Path, unique: str) -> None:
    out = tmp_path / "plant.py"
    now = CLOCK.now_ns() / 1e9
    messages = [*plant(now), *sparkplug(now)]
    done = await said(mosquitto, messages, ["--for", "2s", "--out", str(out)])
    assert done.exit_code == 0, done.stderr + str(done.exception)
    assert f"{out}: 10 sources; read it, then: pipeline check {out}" in done.stdout
    assert re.search(r"^plant/\{line\}/\{device\}/state +6 +[0-9.]+ +json +\{\"at\": ", done.stdout, re.MULTILINE)
    assert re.search(r"^odd/camera +1 +[0-9.]+ +binary +0x89504e47", done.stdout, re.MULTILINE)
    assert "dead letters" not in done.stdout
    assert "messages in 36 topics" in done.stderr

    presses = {(i, n): f"line-{i}/press-{n}" for i in (1, 2) for n in (1, 2, 3)}
    states = {k: {"rms": (10 * i + n) / 2, "t_c": 41.0, "mode": "run"} for (i, n), k in presses.items()}
    for key in ("line-1/press-1", "line-2/press-1"):
        states[key]["spare"] = 5.0
    robot = {"speed": 6.0, "starts": 3, "mode": "auto", "": 0}
    sources: dict[str, Any] = {getattr(s, "topic", "spBv1.0"): s for s in load(str(out)).plan().sources.values()}
    assert {name: await read(mosquitto, source, unique, messages) for name, source in sources.items()} == {
        "bin/{device}": ({"cell-1": {"value": 21.5}, "cell-2": {"value": 1234.25}}, []),
        "cbor/{device}": ({"oven-1": {"heat": 1.5, "on": True}, "oven-2": {"heat": 2.5, "on": False}}, []),
        "csv/{device}/raw": ({"scale-1": {"x2": 17.5, "x3": "ok"}, "scale-2": {"x2": 18.5, "x3": "ok"}}, []),
        "gateway/readings": ({f"s{i}": {"temp": 20.0 + i} for i in range(4)}, []),
        "pack/{device}": ({"oven-1": {"heat": 3.5}}, []),
        "plant/{line}/{device}/{column}": (
            {k: {"pressure": 10.0 * i + n, "flow": 2.5} for (i, n), k in presses.items()},
            [],
        ),
        "plant/{line}/{device}/state": (states, []),
        "water/{device}/{column}": ({f"pump-{n}": {"level": n + 0.5, "power": n + 0.5} for n in (1, 2)}, []),
        "water/{device}/alive": ({f"pump-{n}": {"value": "online"} for n in (1, 2)}, []),
        "spBv1.0": ({"Hall/gw/r1": robot, "Hall/gw/r2": robot}, []),
    }
    units = {c.name: c.unit for s in sources.values() for c in s.schema.measured().fields}
    assert (units["level"], units["power"], units["t_c"], units["speed"]) == ("m", "kW", "°C", "1/min")
    times = {n: (s.time, s.time_unit) for n, s in sources.items() if hasattr(s, "time")}
    assert times["plant/{line}/{device}/state"] == ("at", "s")
    assert times["water/{device}/{column}"] == ("ts", "ms")
    assert times["gateway/readings"] == ("$.time", "iso")
    assert times["cbor/{device}"][0] is None
    again = CliRunner().invoke(main, ["devices", "discover", "mqtt", mosquitto.url, "--out", str(out)])
    assert "is there already: name another file with --out" in again.stderr
    checked = CliRunner().invoke(main, ["check", str(out)])
    assert checked.exit_code == 0, checked.output


@pytest.mark.parametrize("version", ["5", "3.1.1"])
async def test_no_session_stays_and_what_is_retained_is_no_rate(
    mosquitto: Mosquitto, unique: str, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(secrets, "token_hex", lambda _: unique)
    async with aiomqtt.Client("127.0.0.1", mosquitto.port) as client:
        await client.publish(f"{unique}/old-1/x", "1", qos=1, retain=True)
        await client.publish(f"{unique}/old-2/x", "2", qos=1, retain=True)
    words = ["devices", "discover", "mqtt", mosquitto.url, "--for", "400ms", "--topic", f"{unique}/#", "-o", "json"]
    done = await asyncio.to_thread(CliRunner().invoke, main, [*words, "--version", version])
    (source,) = json.loads(done.stdout)["sources"]
    assert (source["topic"], source["devices"], source["readings_per_s"]) == (f"{unique}/{{device}}/x", 2, 0)
    reader, writer = await asyncio.open_connection("127.0.0.1", mosquitto.port)
    name = f"sitestream-discover-mqtt-{unique}"
    writer.write(wire.connect(name, version=wire.V311, keepalive_s=9, inflight_max=9))
    assert await reader.readexactly(4) == b"\x20\x02\x00\x00", "the broker kept a session"
    writer.write(wire.DISCONNECT)
    writer.close()


UNLIKE = {b'{"on": true, "dim": 3}': ("lamp", "spot"), b'{"temp": 20.5, "hum": 3}': ("probe", "hall")}


def heard(*messages: tuple[str, bytes], again: int = 3) -> Found:
    """What is told of messages that came in a second."""
    survey, many = Survey(), [m for m in messages for _ in range(again)]
    topics, payloads = [t.encode() for t, _ in many], [p for _, p in many]
    survey.take(Messages(topics, payloads, [0] * len(many)), np.full(len(many), CLOCK.now_ns()))
    return told(survey, "mqtt://edge", 1.0, [])


def written(found: Found, tmp_path: Path) -> list[Any]:
    """The sources of the file for it."""
    connection = Connection(
        broker="mqtt://edge", username=None, password=None, ca=None, certificate=None, private_key=None, version="auto",
        share=None,
    )  # fmt: skip
    file = tmp_path / "found.py"
    file.write_text(pipeline_file(found, connection))
    return list(load(str(file)).plan().sources.values())


@pytest.mark.parametrize(
    ("topics", "expected"),
    [
        ({"a/p1/x": b"1", "a/p2/x": b"2", "a/p1/y": b"3", "a/p2/y": b"4"}, {"a/{device}/{column}"}),
        ({"a/l1/p1": b"1", "a/l1/p2": b"2", "a/l2/p3": b"3"}, {"a/{l}/{device}"}),
        ({"hall/press/temp": b"1", "hall/press/rpm": b"2"}, {"hall/{device}/{column}"}),
        ({"house/attic": b"1", "house/cellar": b"2"}, {"house/{device}"}),
        ({"p-1/x": b"1", "p-2/x": b"2", "q/r/s": b"3"}, {"{device}/x", "q/{device}/s"}),
        ({"a/x/1": b"1", "b/y/2": b"2"}, {"a/x/{device}", "b/y/{device}"}),  # numbers alone make roots no kin
        ({f"z/{n}": p for p, names in UNLIKE.items() for n in names}, {"z/{device}"}),
        ({"a/p1/s": b'{"id": "x", "v": 1}', "a/p2/s": b'{"id": "y", "v": 1}'}, {"a/{device}/s"}),
    ],
)
def test_which_levels_vary(topics: dict[str, bytes], expected: set[str], tmp_path: Path) -> None:
    found = heard(*topics.items())
    assert {s.topic for s in found.streams} == expected
    assert not found.unclear
    assert {s.topic for s in written(found, tmp_path)} == expected


def test_devices_that_are_told_apart_in_the_payload(tmp_path: Path) -> None:
    messages = [("gw/1/out", b'{"sensor": "%s", "temp": 1.5}' % name) for name in (b"a", b"b")]
    (source,) = written(heard(*messages, ("gw/2/out", messages[0][1])), tmp_path)
    assert (source.topic, source.key) == ("gw/+/out", "sensor")


@pytest.mark.parametrize(
    ("topic", "payload", "why"),
    [
        ("a/b", b"[1, 2]", "a list in JSON: only objects can be read"),
        ("a/b", b"{broken", "text that begins like JSON"),
        ("a/b", b'{"list": [1], "none": null}', "'list': it is a list; 'none': it is always null"),
        ("a/b", b'{"a.b": 1}', "'a.b': its name cannot stand in a path"),
        ("alone", b"1", "the topic has one level"),
        ("a/{b}", b"1", "a level has one of"),
        ("/a/b", b"1", "the topic begins with /"),
        ("a/b", b"\x00\x01", "binary, 2 bytes"),
        ("a/b", b"\x81", "binary"),
        ("a/b", b"\xa1\x01", "binary"),
    ],
)
def test_what_is_not_understood(topic: str, payload: bytes, why: str) -> None:
    found = heard((topic, payload))
    assert found.streams == []
    assert why in found.unclear[0].why


def test_a_time_without_a_zone_is_told_and_not_used(tmp_path: Path) -> None:
    found = heard(("tele/plug/SENSOR", b'{"Time": "2026-01-01T10:00:00", "ENERGY": {"Power": 5}}'))
    assert "'Time' looks like a time, but has no zone" in found.streams[0].notes[0]
    (source,) = written(found, tmp_path)
    assert (source.time, dict(source.fields)["power"]) == (None, "ENERGY.Power")


def test_a_broker_cannot_write_code_into_the_file(tmp_path: Path) -> None:
    evil = 'x\n"""\nraise SystemExit\n\\'
    payload = json.dumps({evil: 1.5, "key": 1, "time": 3, "class": 1, "batch": True, "unit'": evil}).encode()
    found = heard((f"a/{evil}/b", payload), (f"a/{evil}2/b", payload), (f"c/{evil}", b"[]"))
    (source,) = written(found, tmp_path)
    names = [f.name for f in source.schema.measured().fields]
    assert len(set(names)) == len(names) >= 5
    assert all(n.isidentifier() for n in names)


def test_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey_module, "TOPICS_MAX", 2)
    monkeypatch.setattr(survey_module, "SAMPLES_BYTES_MAX", 10)
    monkeypatch.setattr(survey_module, "SAMPLES_MAX", 3)
    found = heard(
        ("a/1", b"12345678"), ("a/2", b"2" * 8), ("a/3", b"1"), ("a/4" + "/x" * 40, b"1"), ("a/1", b"x" * 70_000)
    )
    assert found.topics == 2
    assert "6 messages are left out" in found.notes[0]
    assert "payloads are kept; narrow --topic" in found.notes[1]
    assert "3 payloads are larger than a source takes" in found.notes[2]
    monkeypatch.setattr(spb_survey, "DEVICES_MAX", 1)
    monkeypatch.setattr(spb_survey, "METRICS_MAX", 2)
    one = Sparkplug()
    node = EdgeNode("G", "n")
    many: dict[str, tuple[int, Any]] = {f"m{i}": (DOUBLE, 1.0) for i in range(3)}
    for (topic, payload), kept in ((node.device_birth("d", 1.0, many), False), (node.birth(1.0), False)):
        assert one.take(topic.decode(), payload) is kept
    assert one.take("spBv1.0/G/DDATA/n", b"") is one.take("spBv1.0/G/DDATA/n/d", b"\xff") is True
    assert one.strange == 2
    assert len(one.edges) == 1


def test_many_topics_are_grouped_soon() -> None:
    start = CLOCK.monotonic_s()
    tags = [(f"p/l{i % 10}/t{i}", b"1") for i in range(4_000)]
    unlike = [(f"q/{chr(97 + i % 26)}{i:x}/s", json.dumps({f"n{i}": 1, f"m{i}": 2}).encode()) for i in range(1_000)]
    found = heard(*tags, *unlike, again=1)
    assert "p/{l}/{device}" in {s.topic for s in found.streams}
    assert CLOCK.monotonic_s() - start < 20


async def test_what_is_refused(mosquitto: Mosquitto, tmp_path: Path, unique: str) -> None:
    def told_of(*words: str) -> str:
        done = CliRunner().invoke(main, ["devices", "discover", "mqtt", *words])
        assert done.exit_code == 1
        return done.stderr

    assert "write 'mqtt://host:1883' or 'mqtts://host:8883'" in told_of("http://edge")
    assert "cannot be reached" in await asyncio.to_thread(told_of, "mqtt://127.0.0.1:1")
    silent = await asyncio.to_thread(told_of, mosquitto.url, "--for", "300ms", "--topic", f"{unique}/#")
    assert f"nothing was said in '{unique}/#' for 0.3 s: is anything published there, may this user read it?" in silent
    assert "--for 0s: listen for some time" in told_of(mosquitto.url, "--for", "0s")


async def test_with_a_password_over_tls(tmp_path: Path) -> None:
    words = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost"
    run(*words.split(), "-keyout", tmp_path / "key", "-out", tmp_path / "edge-ca")
    run(find_part("mosquitto_passwd"), "-b", "-c", tmp_path / "passwords", "look", "geheim")
    (tmp_path / "edge-pw").write_text("geheim\n")

    async def use(port: int) -> None:
        out = tmp_path / "found.py"
        asked = ["devices", "discover", "mqtt", f"mqtts://localhost:{port}", "--for", "1s", "--username", "look"]
        asked += [
            "--password-file",
            str(tmp_path / "edge-pw"),
            "--ca-file",
            str(tmp_path / "edge-ca"),
            "--out",
            str(out),
        ]
        running = asyncio.create_task(asyncio.to_thread(CliRunner().invoke, main, asked))
        tls = aiomqtt.TLSParameters(ca_certs=str(tmp_path / "edge-ca"))
        async with aiomqtt.Client("localhost", port, username="look", password="geheim", tls_params=tls) as client:
            while not running.done():
                await client.publish("a/p1/x", "1")
                await asyncio.sleep(0.1)
        assert (await running).exit_code == 0
        (source,) = load(str(out)).plan().sources.values()
        described: Any = source
        assert (described.username, described.password, described.ca) == ("look", Secret("edge-pw"), Secret("edge-ca"))
        assert "geheim" not in out.read_text()

    settings = f"allow_anonymous false\npassword_file {tmp_path / 'passwords'}\n"
    await with_mosquitto(tmp_path, settings + f"certfile {tmp_path / 'edge-ca'}\nkeyfile {tmp_path / 'key'}\n", use)


def test_collect_does_not_have_it() -> None:
    loaded = modules.closure(["connectors.collect", "connectors.mqtt.reader"], modules.ours)
    assert "connectors.mqtt.spb_codec" in loaded
    assert not set(loaded) & {"connectors.mqtt.discover", "connectors.mqtt.survey", "connectors.naming"}
