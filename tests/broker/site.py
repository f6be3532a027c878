"""A site with a broker of its own on a real engine, whose data are on a disk that can be made full."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from click.testing import CliRunner
from paho.mqtt import publish

from containers import names
from containers.cli import main
from containers.profiles import BROKER, UID
from tests.bed import wait_until
from tests.bed.engine import HOST_IN_CONTAINERS, Engine
from tests.bed.mosquitto import Mosquitto
from tests.containers.plant import Plant

NAME = "own"
SERVICES = ("broker", "upload", "process", "collect")
SITE = """\
site = "own"
pipeline = "tiny.py"
partitions = 1
store = "file://{store}"
engine = "{engine}"
base_image = "{base}"
[hosts]
"{host}" = "gateway"
[kafka]
broker = "container"
disk = "{disk}"
memory = "{memory}"
flush = "500ms"
[rollout]
health_timeout = "300s"
"""
PIPELINE = """\
from connectors import mqtt, parquet
from pipelines import Col, Key, Pipeline, Schema, agg, tumbling


class Reading(Schema):
    device = Key[str]()
    n = Col[int]()


class Second(Schema):
    readings = agg.count()


tiny = Pipeline("tiny")
reading = tiny.read(mqtt.source(Reading, broker="mqtt://{host}:{port}", topic="own/{{device}}/v", silence="300ms"))
reading.to(parquet.dataset("raw", every="{every}"))
second = reading.window(tumbling("1s", late="1s"), Second)
second.to(parquet.dataset("second", every="1s"))
second.late.to(parquet.dataset("late", every="1s"))
{more}
"""


@dataclass
class OwnSite(Plant):
    """`sent` readings were published so far, numbered from 0."""

    sent: int = 0

    def write(self, **changes: str) -> None:
        """Write the site file and the pipeline file, as they were but for the changes."""
        self.settings |= changes
        usual = {
            "store": str(self.folder / "store"), "engine": self.engine.url, "base": self.engine.base_image,
            "host": HOST_IN_CONTAINERS, "port": str(self.mosquitto.port), "disk": "2GiB", "memory": "512MiB", "every": "1s",
            "more": "",
        }  # fmt: skip
        settings = {**usual, **self.settings}
        (self.folder / "site.toml").write_text(SITE.format(**settings))
        (self.folder / "tiny.py").write_text(PIPELINE.format(**settings))

    def run(self, *words: str) -> tuple[int, str, str]:
        """See `Plant.run`."""
        said = CliRunner().invoke(main, ["--site", str(self.folder / "site.toml"), *words])
        return said.exit_code, said.stdout, said.stderr

    def publish(self, count: int) -> None:
        """Readings, each with a number of its own."""
        numbers = range(self.sent, self.sent + count)
        messages: list[Any] = [("own/d/v", f'{{"n": {n}}}', 1, False) for n in numbers]
        publish.multiple(messages, hostname="127.0.0.1", port=self.mosquitto.port)
        self.sent += count

    def arrived(self) -> set[int]:
        """The numbers of the readings that are in the store."""
        return set(self.column("raw", "n"))

    def column(self, table: str, name: str) -> list[int]:
        """A column of all that is in the store of a table."""
        files = (self.folder / "store" / table).rglob("*.parquet")
        return [n for file in files for n in pq.read_table(file)[name].to_pylist()]

    def all_arrive(self, timeout_s: float = 120) -> None:
        """Fails unless every reading that was published gets to the store, and each that Kafka has is counted once."""
        wait_until(lambda: self.arrived() == set(range(self.sent)), timeout_s, "every reading to be in the store")
        wait_until(
            lambda: self.counted_rows() == len(self.column("raw", "n")), timeout_s, "each reading to be counted once"
        )

    def counted_rows(self) -> int:
        """How many readings the windows hold, and those that came too late for theirs."""
        return sum(self.column("second", "readings")) + len(self.column("late", "n"))

    def all_healthy(self) -> bool:
        """Whether the engine finds every service well."""
        return [s["health"] for s in self.status()["services"]] == ["healthy"] * len(SERVICES)

    def kill9(self) -> None:
        """Kill the broker's container as the kernel would, all processes at once."""
        os.kill(int(self.container("broker").attrs["State"]["Pid"]), 9)

    def answers(self) -> bool:
        """Whether the broker says that Kafka answers. (The engine's own view is older, up to half a minute.)"""
        ask = "import urllib.request; print(urllib.request.urlopen('http://127.0.0.1:9400/healthz').read())"
        return '"healthy": true' in self.inside("broker", ask)


@contextmanager
def disk(folder: Path, size: str) -> Iterator[Path]:
    """A file system of its own in memory, which grows and shrinks by `resize`."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=True)
    try:
        os.chown(folder, BROKER.uid, BROKER.uid)
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def resize(folder: Path, size: str) -> None:
    """Give a disk another size; it may be less than what is on it."""
    subprocess.run(["mount", "-o", f"remount,size={size}", str(folder)], check=True)


@contextmanager
def deployed(folder: Path, engine: Engine, mosquitto: Mosquitto) -> Iterator[OwnSite]:
    """The site; its broker's disk is `folder / "disk"`."""
    parts: Any = (None, mosquitto, None)
    with disk(folder / "disk", "3g") as at:
        options = {"type": "none", "o": "bind", "device": str(at)}
        labels = {names.SITE: NAME}
        engine.client.volumes.create(names.data(NAME, "broker"), driver="local", driver_opts=options, labels=labels)
        site = OwnSite(NAME, folder, engine, *parts)
        (folder / "store").mkdir()
        os.chown(folder / "store", UID, UID)
        site.settings = {}
        site.write()
        assert site.run("certs", "init")[0] == 0
        try:
            yield site
        finally:
            site.run("destroy", "-y")
