"""What a service does that a broker refuses: it says who may not use what, and what to do, and never just retries."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from paho.mqtt import publish

from containers.acls import acls, bearer
from containers.certs import principal
from containers.child import Child, free_port
from containers.scrape import healthy
from pipelines.runtime import kafka
from tests.bed.mosquitto import Mosquitto
from tests.bed.services import MODULES
from tests.bus.fleet import Fleet
from tests.bus.test_acls import granted
from tests.containers.kit import pipeline_text, site_of

KEPT = ("s.dead", "s.tiny.upload")


async def with_less(fleet: Fleet, folder: Path, service: str, right: str, mqtt: str, port: int) -> list[str]:
    """The command that starts a service which lacks one kind of right."""
    await asyncio.to_thread(granted, fleet, folder, "s")
    me, (_, plan) = principal(bearer("s", service)), site_of(folder)
    less = [a for a in acls(plan, "s", service) if a.operation != right or a.name in KEPT]
    if right == "describe":  # reading or writing implies it
        less = []
    while any(await kafka.set_acls(fleet.kafka.bootstrap, less, [me], revoke=True)):
        pass  # the broker takes a moment to know of it
    (folder / "tiny.py").write_text(pipeline_text(mqtt=mqtt))
    for name in ("store", "data"):
        (folder / name).mkdir()
    config = folder / "settings.json"
    config.write_text(json.dumps({
        "site": "s", "brokers": fleet.kafka.tls_bootstrap, "pipeline": str(folder / "tiny.py"), "partitions": 1,
        "data_dir": str(folder / "data"), "store": f"file://{folder}/store", "kafka_security": "mtls",
        "secrets_dir": str(fleet.secrets(bearer("s", service), folder / "secrets")), "metrics_port": port,
    }))  # fmt: skip
    return [sys.executable, "-m", MODULES[service], "--config", str(config)]


@pytest.mark.parametrize(
    ("service", "right", "what"),
    [
        ("process", "read", "consumer group s.tiny"),
        ("process", "write", r"transactional id s.tiny.\d"),
        ("upload", "read", "topic s.tiny.second"),
        ("control", "write", "transactional id s.control"),
        ("collect", "describe", "topic s.[a-z.]+"),
    ],
)
async def test_it_ends_with_one_clear_line(
    fleet: Fleet, mosquitto: Mosquitto, tmp_path: Path, service: str, right: str, what: str
) -> None:
    words = await with_less(fleet, tmp_path, service, right, mosquitto.url, free_port())
    ended = await asyncio.to_thread(subprocess.run, words, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    line = rf"{service}: {service} may not use the {what}, says the broker: run  pipeline deploy , which grants"
    assert re.match(line, ended.stderr.splitlines()[-1]), ended.stderr


async def test_collect_says_it_of_one_source_is_unhealthy_and_goes_on_with_the_others(
    fleet: Fleet, mosquitto: Mosquitto, tmp_path: Path
) -> None:
    port, log = free_port(), tmp_path / "collect.log"
    words = await with_less(fleet, tmp_path, "collect", "write", mosquitto.url, port)

    def said() -> bool:
        publish.single("tiny/d1/v", '{"value": 1}', qos=1, hostname="127.0.0.1", port=mosquitto.port)
        return "collect may not use the topic s.reading, says the broker: run  pipeline deploy" in log.read_text()

    child = await asyncio.to_thread(Child("collect", words, log).start, said, timeout_s=40)
    assert not healthy(port)
    await asyncio.to_thread(child.stop)
