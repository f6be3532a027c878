"""Fleet folders as tests need them."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner, Result

from containers.cli import main
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
