"""`pipeline devices` on a real Kafka: what is not well comes first, and what is looked at is bounded."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner

from connectors.control.commands import Command
from connectors.control.ledger import Entry, State
from connectors.control.twin import Desired, Reported
from connectors.control.twins import line_of
from connectors.firmware.life import Entry as Firmware
from connectors.firmware.life import State as Updated
from connectors.firmware.status import SITE_KEY, device_key
from containers.cli import main
from containers.devices import seen
from containers.devices.seen import newest_rows, together
from containers.embedded import EmbeddedKafka
from pipelines import topics
from pipelines.batch import Batch
from pipelines.load import load
from pipelines.plan import Plan
from pipelines.quality import BAD, GOOD, UNCERTAIN
from pipelines.runtime import kafka as access
from pipelines.wire import FrameInfo, encode

ROOT = Path(__file__).parents[2]
SECOND = 10**9
PIPELINE = """
from connectors import mqtt, parquet
from pipelines import Col, Key, Pipeline, Quality, Schema

class Vibration(Schema):
    device = Key[str]()
    rms = Col[float]("mm/s")
    quality = Quality()

class Oven(Schema):
    device = Key[str]()
    heat = Col[int]("°C")
    mode = Col[str]()

hall = Pipeline("hall")
hall.read(mqtt.source(Vibration, broker="mqtt://edge", topic="h/{device}/vib", stale="30m")).to(parquet.dataset("vib"))
hall.read(mqtt.source(Oven, broker="mqtt://edge", topic="h/{device}/oven")).to(parquet.dataset("oven"))
"""


@dataclass
class Hall:
    """A site of which only the topics are there."""

    name: str
    brokers: str
    folder: Path
    plan: Plan
    producer: Any = None

    def run(self, *words: str, code: int = 0) -> str:
        """What `pipeline devices` says."""
        done = CliRunner().invoke(main, ["devices", "--site", str(self.folder / "site.toml"), *words])
        assert done.exit_code == code, done.output
        return done.output

    def json(self, *words: str) -> dict[str, Any]:
        """The same for programs."""
        found: dict[str, Any] = json.loads(self.run(*words, "-o", "json"))
        return found

    async def send(self, topic: str, *records: tuple[bytes | None, bytes | None], headers: Any = None) -> None:
        """Append records (key, value) to partition 0."""
        self.producer = self.producer or await access.producer(self.brokers)
        for key, value in records:
            await self.producer.send(topic, value, key=key, partition=0, headers=headers)
        await self.producer.flush()

    async def end(self) -> None:
        """Nothing more is sent for now."""
        await access.stopped(self.producer)
        self.producer = None

    def vibration(
        self, devices: Sequence[str], rms: Sequence[float], quality: Sequence[int], ages_s: Sequence[float]
    ) -> bytes:
        """A frame."""
        now = time.time_ns() - (np.array(ages_s) * SECOND).astype(np.int64)
        columns = {"Vibration.rms": np.array(rms), "Vibration.quality": np.array(quality, np.int64)}
        row = self.plan.sources["vibration"].schema.measured()
        return encode(Batch.of_keys(devices, now, columns), row)


def headers(rows: int) -> list[tuple[str, bytes]]:
    return FrameInfo("collect", 5, rows, "").headers()


@pytest.fixture(scope="module")
def hall(kafka: EmbeddedKafka, tmp_path_factory: pytest.TempPathFactory) -> Hall:
    """p1 is well; with the others something is not; 40 more are."""
    folder = tmp_path_factory.mktemp("hall")
    (folder / "hall.py").write_text(PIPELINE)
    name = f"hall-{time.time_ns()}"
    (folder / "site.toml").write_text(
        f'site = "{name}"\npipeline = "hall.py"\nbrokers = "{kafka.bootstrap}"\nstore = "file:///srv"\npartitions = 2\n'
    )
    hall = Hall(name, kafka.bootstrap, folder, load(str(folder / "hall.py")).plan())
    asyncio.run(fill(hall))
    return hall


async def fill(hall: Hall) -> None:
    s, now = hall.name, time.time_ns()
    sides = (topics.twin_desired(s), topics.twin_reported(s), topics.firmware_status(s))
    await access.ensure(
        hall.brokers,
        [
            topics.data(topics.stream(s, "vibration"), 2), topics.data(topics.stream(s, "oven"), 2),
            topics.compacted(topics.acks(s), 2), *(topics.compacted(t, 1) for t in sides),
        ],
    )  # fmt: skip
    vib, old = topics.stream(s, "vibration"), hall.vibration(["long-ago"], [9.0], [GOOD], [1])
    await hall.send(vib, (None, old), headers=headers(1))
    many = [f"m{n:02}" for n in range(40)]
    frame = hall.vibration(many, [1.0] * 40, [GOOD] * 40, [2] * 40)
    await hall.send(vib, *[(None, frame)] * seen.FRAMES_BACK_MAX, headers=headers(40))
    newest = hall.vibration(
        ["p1", "p1", "p2", "p3", "p7"],
        [5.0, 1.25, 2.0, 3.0, 1.0],
        [GOOD, GOOD, BAD, GOOD, UNCERTAIN],
        [9, 3, 1, 3600, 1],
    )
    await hall.send(vib, (None, newest), headers=headers(5))
    await hall.send(vib, (None, b"heartbeat is not looked at"), headers=headers(0))
    await hall.send(vib, (None, b"no frame"), headers=headers(1))
    of: dict[str, Any] = {"device": "p4", "at_ns": now, "since_ns": now - 120 * SECOND}
    want = Desired(version=2, values={"speed": 2.0}, by="me", command="c", **of)
    have = Reported(version=7, values={"speed": 1.0}, applied=2, **of)
    for line in (line_of(s, want), line_of(s, have)):
        await hall.send(line.topic, (line.key, line.value))
    update = Firmware(
        device="p5", model="press", hardware="B", version="2.0", security_version=1, state=Updated.ROLLED_BACK
    )
    await hall.send(topics.firmware_status(s), (SITE_KEY, b"{}"), (device_key("p5"), msgspec.json.encode(update)))
    for age_s, state in ((90, State.SUCCEEDED), (30, State.FAILED)):
        command = Command(id=f"c{age_s}", device="p6", verb="stop", issuer="me", issued_at_ns=1, expires_at_ns=2)
        entry = Entry(command=command, state=state, updated_at_ns=now - age_s * SECOND, partition=0)
        await hall.send(topics.acks(s), (command.id.encode(), msgspec.json.encode(entry)))
    await hall.send(topics.acks(s), (b"gone", None), (b"owner", None))
    await hall.end()


async def one_more(hall: Hall, frame: bytes) -> None:
    await hall.send(topics.stream(hall.name, "vibration"), (None, frame), headers=headers(1))
    await hall.end()


def lines_of(text: str) -> dict[str, list[str]]:
    """The cells by device."""
    return {line.split()[0]: re.split(r"  +", line) for line in text.splitlines() if line and line[0] in "pm"}


def test_what_is_not_well_comes_first(hall: Hall) -> None:
    text = hall.run("--limit", "8")
    head, _, columns, *lines = text.splitlines()
    assert head.startswith("47 devices: ")
    for problem in ("2 bad quality", "1 stale", "1 settings differ", "1 firmware", "1 command failed", "41 well"):
        assert problem in head, head
    assert columns.split() == [
        "DEVICE",
        "STREAM",
        "VALUES",
        "QUALITY",
        "AGE",
        "FIRMWARE",
        "SETTINGS",
        "LAST",
        "COMMAND",
    ]
    assert [line.split()[0] for line in lines[:8]] == ["p2", "p3", "p4", "p5", "p6", "p7", "m00", "m01"]
    assert text.splitlines()[-1].startswith("… and 39 more: see --limit")
    assert "1 records could not be read" in text
    found = lines_of(text)
    assert found["p2"][1:4] == ["vibration", "rms=2 mm/s", "BAD"]
    assert found["p3"][4].endswith("stale")
    assert found["p4"][2].startswith("none in the newest 200 frames")
    assert re.fullmatch(r"DIFFERS \dm", found["p4"][6])
    assert found["p5"][5] == "2.0 ROLLED_BACK"
    assert re.fullmatch(r"stop FAILED \d+[sm] ago", found["p6"][7])


def test_programs_get_all_of_it(hall: Hall) -> None:
    value = hall.json("--device", "p[14]")
    four, one = value["devices"]
    assert (value["version"], value["total"], value["site"]) == (1, 2, hall.name)
    assert four["problems"] == ["settings differ"]
    assert four["twin"]["difference"] == {"speed": {"desired": 2.0, "reported": 1.0}}
    (reading,) = one["readings"]
    assert (reading["values"], reading["quality"], reading["stale"]) == ({"rms": 1.25}, "GOOD", False)


def test_one_can_choose(hall: Hall) -> None:
    names = {d["device"] for d in hall.json("--bad", "--limit", "100", "--device", "p*")["devices"]}
    assert names >= {"p2", "p3", "p4", "p5", "p6", "p7"}
    assert {d["device"] for d in hall.json("--stream", "vibration", "--device", "p*")["devices"]} == {
        "p1",
        "p2",
        "p3",
        "p7",
    }
    assert hall.json("--stream", "oven")["devices"] == []
    assert hall.run("--stream", "oven").startswith("no devices to show (1 records could not be read)")
    assert "error: --stream x: " in hall.run("--stream", "x", code=1)
    assert "it has oven, vibration" in hall.run("--stream", "x", code=1)


def test_only_the_tail_of_a_stream_is_read(hall: Hall) -> None:
    assert hall.json("--device", "long-ago")["devices"] == []


def test_more_devices_than_it_may_keep_are_counted(hall: Hall, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seen, "DEVICES_MAX", 10)
    value = hall.json()
    assert value["total"] == 10
    assert value["not_looked_at"] > 30
    assert "devices more are not looked at" in hall.run()


def test_it_goes_on_until_interrupted(hall: Hall) -> None:
    words = [sys.executable, "-m", "containers.cli", "devices", "--site", str(hall.folder / "site.toml")]
    words += ["--watch", "1", "-o", "json", "--device", "new"]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stderr
        assert json.loads(process.stdout.readline())["devices"] == []
        frame = hall.vibration(["new"], [4.0], [GOOD], [0])
        asyncio.run(one_more(hall, frame))
        until_s = time.monotonic() + 20
        while not (found := json.loads(process.stdout.readline())["devices"]):
            assert time.monotonic() < until_s
        assert found[0]["readings"][0]["values"] == {"rms": 4.0}
        process.send_signal(signal.SIGINT)
        process.stdout.read()
        assert process.stderr.read() == "\nerror: interrupted\n"
    assert process.returncode == 130


def test_a_site_that_has_no_topics_yet_has_no_devices(hall: Hall) -> None:
    site = hall.folder / "new.toml"
    site.write_text((hall.folder / "site.toml").read_text().replace(hall.name, "new-hall"))
    done = CliRunner().invoke(main, ["devices", "--site", str(site)])
    assert (done.exit_code, done.output) == (0, "no devices to show\n")


def test_a_sites_own_broker_is_reached_through_its_engine_alone(hall: Hall) -> None:
    site = hall.folder / "own.toml"
    text = re.sub(r"brokers = .*\n", "", (hall.folder / "site.toml").read_text())
    site.write_text(
        "engine = 'unix:///none.sock'\n"
        + text
        + '[kafka]\nbroker = "container"\nsecurity = "mtls"\ncerts = "certs"\ndisk = "20GiB"\n'
    )
    done = CliRunner().invoke(main, ["devices", "--site", str(site)])
    assert done.exit_code == 1
    assert "People reach the broker of site" in done.output


def test_the_newest_row_of_each_device_is_its_last_in_time() -> None:
    batch = Batch.of_keys(["a", "b", "a", "b"], np.array([5, 7, 3, 7]), {"x": np.array([1, 2, 3, 4])})
    newest = batch.take(newest_rows(batch))
    assert dict(zip(newest.keys, newest.columns["x"].tolist(), strict=True)) == {"a": 1, "b": 4}
    more = together([newest, Batch.of_keys(["c", "a"], np.array([1, 6]), {"x": np.array([5, 6])})])
    assert more.keys == [*newest.keys, "c", "a"]
    newest = more.take(newest_rows(more))
    assert dict(zip(newest.keys, newest.columns["x"].tolist(), strict=True)) == {"a": 6, "b": 4, "c": 5}
    assert len(newest_rows(Batch.of_keys([], np.zeros(0, np.int64), {}))) == 0
