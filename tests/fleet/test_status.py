"""`pipeline status` of a fleet on a real engine, with one site whose engine is down and one whose engine hangs."""

from __future__ import annotations

import json
import socket
from pathlib import Path

from containers import names
from tests.bed.engine import Engine
from tests.bed.waiting import wait_until
from tests.fleet.kit import FLEET, pipeline, write_fleet

TIMEOUT = "8s"
HEALTHY = {"test": ["CMD", "true"], "interval": 10**9}


def test_sites_that_are_away_hold_up_nobody(engine: Engine, tmp_path: Path, unique: str) -> None:
    hall = f"hall-{unique[-8:]}"
    ours = f"engine = '{engine.url}'"
    away, hangs = tmp_path / "away.sock", tmp_path / "hangs.sock"
    sites = {hall: ours, "new": ours, "away": f"engine = 'unix://{away}'", "stuck": f"engine = 'unix://{hangs}'"}
    write_fleet(tmp_path / "fleet", FLEET, **sites)
    _deployed(engine, hall)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(hangs))
        server.listen()  # and says nothing
        said = pipeline("status", "--fleet", str(tmp_path / "fleet"), "--timeout", TIMEOUT)
        _, _, _, *lines = said.stdout.splitlines()
        value = json.loads(
            pipeline(
                "status", "--fleet", str(tmp_path / "fleet"), "--site", hall, "--site", "away", "-o", "json"
            ).stdout
        )
        one = pipeline("status", "--fleet", str(tmp_path / "fleet"), "--site", hall).stdout
    assert said.exit_code == 0, said.output
    states = {line.split()[0]: " ".join(line.split()[1:]) for line in lines}
    assert states[hall] == "3 1 of 1 healthy"
    assert states["new"] == "- - nothing deployed"
    assert states["away"].startswith(f"- - offline: no Docker engine answers at unix://{away}: start it")
    assert states["stuck"].startswith(f"- - offline: site stuck: unix://{hangs} gave no answer within 8 s")
    dead, well = value["sites"]
    assert dead["state"] == "offline"
    assert (well["state"], well["revision"], well["services"][0]["service"]) == ("healthy", 3, "process")
    assert one.startswith(f"site {hall}, revision 3\n\nSERVICE  STATE")


def _deployed(engine: Engine, site: str) -> None:
    """What deploy leaves on an engine, as far as status looks at it."""
    name = names.container(site, "process", 3)
    labels = {
        names.SITE: site,
        names.SERVICE: "process",
        names.REVISION: "3",
        names.FINGERPRINT: "f",
        names.PIPELINE: "tiny 0123456789abcdef",
        names.IMAGES: json.dumps([engine.base_image]),
        names.CONFIG: "none",
        names.PARTS: "{}",
        names.SETTINGS: "{}",
    }
    record = {"revision": 3, "services": {"process": name}, "at": "2026-01-01T00:00:00+00:00"}
    engine.client.volumes.create(f"{name}-record", labels={names.SITE: site, names.RECORD: json.dumps(record)})
    sleep = ["python3", "-c", "import time; time.sleep(600)"]
    engine.client.containers.run(
        engine.base_image,
        sleep,
        name=name,
        labels=labels,
        healthcheck=HEALTHY,
        network_mode="none",
        init=True,
        detach=True,
    )
    wait_until(lambda: engine.client.containers.get(name).health == "healthy", 60, "the container to be healthy")
