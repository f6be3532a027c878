"""The MQTT reader on real brokers: refusals, broken links, limits, TLS and passwords."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiomqtt
import pytest

from connectors import mqtt
from connectors.base import Context
from connectors.mqtt import link, wire
from connectors.mqtt.reader import MqttReader
from connectors.secrets import secret
from containers.child import Child, free_port
from pipelines.clock import SystemClock
from pipelines.errors import ConfigError, NotConnected
from tests.bed import find_part
from tests.bed.mosquitto import Mosquitto
from tests.connectors.conformance import read_all
from tests.connectors.schemas import Vibration


def reader_of(url: str, site: str = "s", secrets: Path = Path("/nowhere"), **options: Any) -> MqttReader:
    source = mqtt.source(Vibration, broker=url, topic=f"{site}/{{device}}/vib", **options)
    return MqttReader(source, Context(site, "1", secrets, SystemClock()))


def run(*words: str | Path) -> None:
    subprocess.run(words, check=True, capture_output=True)


async def publish(port: int, topic: str, *payloads: str, qos: int = 1, retain: bool = False) -> None:
    async with aiomqtt.Client("127.0.0.1", port) as client:
        for payload in payloads:
            await client.publish(topic, payload, qos=qos, retain=retain)


async def refusal(reader: MqttReader) -> str:
    with pytest.raises(NotConnected) as e:
        await reader.connect()
    await reader.close()
    return str(e.value)


async def test_nobody_listens() -> None:
    port = free_port()
    says = await refusal(reader_of(f"mqtt://127.0.0.1:{port}"))
    assert says.startswith(f"MQTT broker 127.0.0.1:{port} cannot be reached")
    assert says.endswith("start it, or correct `broker=`")


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n" + b" " * 300, "is there an MQTT broker at this address?"),
        (b"", "does not answer an MQTT greeting within 0.2 s"),
    ],
)
async def test_something_else_listens(monkeypatch: pytest.MonkeyPatch, answer: bytes, says: str) -> None:
    monkeypatch.setattr(link, "ANSWER_S_MAX", 0.2)
    done = asyncio.Event()

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        await done.wait()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", port := free_port())
    assert says in await refusal(reader_of(f"mqtt://127.0.0.1:{port}"))
    done.set()
    server.close()


async def with_mosquitto(folder: Path, settings: str, use: Callable[[int], Awaitable[None]]) -> None:
    """A Mosquitto of its own, with these settings."""
    port = free_port()
    file = folder / "own.conf"
    file.write_text(f"user root\nlistener {port}\n{settings}")
    child = Child("mosquitto", [find_part("mosquitto"), "-c", str(file)], folder / "own.log")
    child.start(lambda: "running" in (folder / "own.log").read_text())
    try:
        await use(port)
    finally:
        child.stop()


async def test_a_password(tmp_path: Path) -> None:
    passwords = tmp_path / "passwords"
    run(find_part("mosquitto_passwd"), "-b", "-c", passwords, "me", "geheim")
    (tmp_path / "right").write_text("geheim\n")
    (tmp_path / "wrong").write_text("geheim2\n")

    async def use(port: int) -> None:
        def reader(name: str) -> MqttReader:
            return reader_of(f"mqtt://127.0.0.1:{port}", secrets=tmp_path, username="me", password=secret(name))

        right = reader("right")
        await right.connect()
        await right.close()
        says = await refusal(reader("wrong"))
        assert says.startswith(f"127.0.0.1:{port}: the MQTT broker refused the connection: ")
        with pytest.raises(ConfigError, match="secret 'none' is missing: put it into the file"):
            await reader("none").connect()

    await with_mosquitto(tmp_path, f"allow_anonymous false\npassword_file {passwords}\n", use)


async def test_tls_trusts_the_given_authority_only(tmp_path: Path) -> None:
    words = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost"
    run(*words.split(), "-keyout", tmp_path / "key", "-out", tmp_path / "cert")
    (tmp_path / "no-cert").write_text("x")

    async def use(port: int) -> None:
        url = f"mqtts://localhost:{port}"
        trusting = reader_of(url, secrets=tmp_path, ca=secret("cert"))
        await trusting.connect()
        await trusting.close()
        assert "certificate verify failed" in await refusal(reader_of(url))
        with pytest.raises(ConfigError, match="secret 'no-cert' holds no CA certificates in PEM form"):
            await reader_of(url, secrets=tmp_path, ca=secret("no-cert")).connect()

    await with_mosquitto(tmp_path, f"allow_anonymous true\ncertfile {tmp_path}/cert\nkeyfile {tmp_path}/key\n", use)


async def test_a_certificate_of_ones_own(tmp_path: Path) -> None:
    words = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost"
    run(*words.split(), "-keyout", tmp_path / "key", "-out", tmp_path / "cert")
    (tmp_path / "no-key").write_text("x")
    own: dict[str, Any] = {"ca": secret("cert"), "certificate": secret("cert")}

    async def use(port: int) -> None:
        url = f"mqtts://localhost:{port}"
        known = reader_of(url, secrets=tmp_path, **own, private_key=secret("key"), version="5")
        await known.connect()
        await known.close()
        await refusal(reader_of(url, secrets=tmp_path, ca=secret("cert")))
        with pytest.raises(ConfigError, match="secrets 'cert' and 'no-key' are no certificate and its key in PEM form"):
            await reader_of(url, secrets=tmp_path, **own, private_key=secret("no-key")).connect()

    tls = f"certfile {tmp_path}/cert\nkeyfile {tmp_path}/key\ncafile {tmp_path}/cert\nrequire_certificate true\n"
    await with_mosquitto(tmp_path, f"allow_anonymous true\n{tls}", use)


@pytest.mark.parametrize(("version", "tried"), [("auto", [5, 4]), ("5", [5]), ("3.1.1", [4])])
async def test_which_version_is_spoken(monkeypatch: pytest.MonkeyPatch, version: str, tried: list[int]) -> None:
    spoken: list[int] = []

    async def refuse(self: MqttReader, account: link.Account, version: int) -> link.Link:
        spoken.append(version)
        raise wire.VersionRefused("no")

    monkeypatch.setattr(MqttReader, "_open", refuse)
    with pytest.raises(NotConnected):
        await reader_of("mqtt://edge", version=version).connect()
    assert spoken == tried


async def test_a_broker_that_goes_away_and_comes_back(tmp_path: Path) -> None:
    broker = Mosquitto(tmp_path).start()
    reader = reader_of(broker.url)
    try:
        await reader.connect()
        await publish(broker.port, "s/a/vib", "1")
        got = await reader.read(rows_max=10, linger_s=1)
        assert len(got.batch) == 1
        await asyncio.to_thread(broker.stop)
        with pytest.raises(NotConnected, match=r"closed the connection|shutting down"):
            await reader.read(rows_max=10, linger_s=1)
        await got.ack()  # too late: the link is over
        await reader.close()
        assert "cannot be reached" in await refusal(reader)
        await asyncio.to_thread(broker.start)
        await publish(broker.port, "s/a/vib", "2")
        await reader.connect()
        assert await read_all(reader, 2) == [1, 2]
    finally:
        await reader.close()
        broker.stop()


async def test_another_client_of_the_same_name_takes_over(mosquitto: Mosquitto, unique: str) -> None:
    first, second = reader_of(mosquitto.url, unique), reader_of(mosquitto.url, unique)
    await first.connect()
    await second.connect()
    with pytest.raises(NotConnected, match="another client"):
        await first.read(rows_max=1, linger_s=1)
    await first.close()
    await second.close()


async def test_no_more_is_held_than_the_limit(
    mosquitto: Mosquitto, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "INFLIGHT_MAX", 10)
    reader = reader_of(mosquitto.url, unique)
    await reader.connect()
    await publish(mosquitto.port, f"{unique}/a/vib", *map(str, range(25)))
    got = [await reader.read(rows_max=1000, linger_s=0.1) for _ in range(3)]
    assert [len(g.batch) for g in got] == [10, 0, 0]  # the broker keeps the others until these are acknowledged
    await got[0].ack()
    assert await read_all(reader, 15) == list(range(10, 25))
    await reader.close()


async def test_a_flood_without_acknowledgements_waits_in_tcp(
    mosquitto: Mosquitto, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "INFLIGHT_MAX", 10)
    reader = reader_of(mosquitto.url, unique)
    await reader.connect()
    big = f'{{"rms": 1, "x": "{"x" * 10_000}"}}'
    await publish(mosquitto.port, f"{unique}/a/vib", *[big] * 200, qos=0)
    await asyncio.sleep(0.2)
    assert reader._link is not None
    assert len(reader._link._decoder.messages) < 10 + 2 * 262_144 // len(big)  # what one read from the socket can hold
    assert await read_all(reader, 200) == [1] * 200
    await reader.close()


async def test_a_retained_message_comes_once(mosquitto: Mosquitto, unique: str) -> None:
    await publish(mosquitto.port, f"{unique}/a/vib", "7", retain=True)
    for expected in ([7.0], []):
        reader = reader_of(mosquitto.url, unique)
        await reader.connect()
        got = await reader.read(rows_max=10, linger_s=0.1)
        assert got.batch.columns["Vibration.rms"].tolist() == expected
        await got.ack()
        await reader.close()


async def test_a_silent_link_is_given_up(monkeypatch: pytest.MonkeyPatch, mosquitto: Mosquitto, unique: str) -> None:
    monkeypatch.setattr(link, "KEEPALIVE_S", 1)
    reader = reader_of(mosquitto.url, unique)
    await reader.connect()
    await asyncio.sleep(1.7)  # pings keep it up
    await reader.read(rows_max=1, linger_s=0.01)
    assert reader._link is not None
    monkeypatch.setattr(reader._link, "_send", lambda data: None)  # a network that swallows everything
    with pytest.raises(NotConnected, match=r"silent for 1\.5 s|closed the connection|keep-alive"):
        await reader.read(rows_max=1, linger_s=4)
    await reader.close()


async def test_a_wrong_clock_is_told_apart_from_a_recording(mosquitto: Mosquitto, unique: str) -> None:
    old, ahead = '{"rms": 1, "time": "2001-01-01T00:00:00Z"}', '{"rms": 2, "time": "2099-01-01T00:00:00Z"}'
    live, recording = reader_of(mosquitto.url, unique), reader_of(mosquitto.url, unique + "-r", speed=60)
    for reader, site in ((live, unique), (recording, unique + "-r")):
        await reader.connect()
        await publish(mosquitto.port, f"{site}/a/vib", old)
        assert await read_all(reader, 1) == [1]
        await publish(mosquitto.port, f"{site}/a/vib", ahead)
        got = await reader.read(rows_max=10, linger_s=1)
        assert len(got.rejects) == 1
        await reader.close()
