"""Fleet folders as tests need them."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner, Result

from containers import names
from containers.cli import main
from tests.bed.engine import Engine
from tests.bed.waiting import wait_until
from tests.containers.kit import pipeline_text

FLEET = """\
[defaults]
pipeline = "tiny.py"
brokers = "kafka.{site}:9092"
store = "file:///srv/{site}"
[defaults.services.process]
memory = "1GiB"
[groups.eu.hosts]
kafka = "10.0.0.1"
[groups.big]
partitions = 16
services.process.cpus = 2.0
"""
HEALTHY = {"test": ["CMD", "python3", "-ISc", ""], "interval": 10**9}  # the base image has no `true`
SITES = {
    "hall1": 'groups = ["eu"]\n',
    "plant-1": 'groups = ["eu", "big"]\n',
    "plant-2": 'groups = ["big"]\n',
    "yard": "",
}


def write_fleet(folder: Path, fleet: str = FLEET, **sites: str) -> Path:
    """A fleet folder with these sites, or those of `SITES`; '_' in a name stands for '-'."""
    (folder / "sites").mkdir(parents=True)
    (folder / "fleet.toml").write_text(fleet)
    (folder / "tiny.py").write_text(pipeline_text())
    for name, text in (sites or SITES).items():
        (folder / "sites" / f"{name.replace('_', '-')}.toml").write_text(text)
    return folder


def pipeline(*words: str, **environment: str) -> Result:
    """Run the command as a user does."""
    return CliRunner().invoke(main, list(words), env=environment)


def states_in(rollout: str) -> dict[str, str]:
    """The state of each site in what `pipeline rollout status -o json` says."""
    return {name: site["state"] for name, site in sorted(json.loads(rollout)["sites"].items())}


def deployed_by_hand(engine: Engine, site: str, program: str = "import time; time.sleep(600)") -> None:
    """What deploy leaves on an engine, as far as status, logs and doctor look at it: revision 3 of `process`, healthy."""
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
    engine.client.containers.run(
        engine.base_image,
        ["python3", "-uc", program],
        name=name,
        labels=labels,
        healthcheck=HEALTHY,
        network_mode="none",
        init=True,
        detach=True,
    )
    wait_until(lambda: engine.client.containers.get(name).health == "healthy", 60, "the container to be healthy")
