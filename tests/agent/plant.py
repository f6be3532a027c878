"""A site that pulls: a real engine with the agent's real container, a real registry, a real broker; and its operator."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from click.testing import CliRunner
from docker.models.containers import Container

from containers import names
from containers.agent import status
from containers.agent.status import Status
from containers.cli import main
from containers.embedded import EmbeddedKafka
from containers.repository import artifact
from containers.repository.registry import Registry
from tests.bed import wait_until
from tests.bed.engine import HOST_IN_CONTAINERS, Engine
from tests.bed.registry import ImageRegistry
from tests.bed.topics import create_topic, produce
from tests.containers.kit import process_text

SITE = """\
site = "{name}"
pipeline = "tiny.py"
brokers = "{brokers}"
partitions = 1
engine = "{engine}"
base_image = "{base}"
[hosts]
"{host}" = "gateway"
[rollout]
health_timeout = "{health_timeout}"
soak = "{soak}"
[services.process.secrets]
unused = "file:secret"
[agent]
repository = "{repository}"
plain = true
poll = "1s"
"""
IN_PROCESS = "import os, time\nif os.uname().nodename == 'process':\n    "
CRASHES = IN_PROCESS + "raise RuntimeError('the new version is broken')"
DIES_LATER = IN_PROCESS + "import threading; threading.Timer(8, os._exit, (7,)).start()"


def version_text(number: int, first_lines: str = "", topic: str = "of-pulling-sites") -> str:
    """The pipeline file of a version: each has another filter, behind which nothing is kept."""
    return process_text(
        f'kafka.source(Reading, topic="{topic}", time_unit="ms")', first_lines=first_lines,
        result=f'.where(Second.mean > {number}).to(topic.results(), name="loud")',
    )  # fmt: skip


@dataclass
class Plant:
    """`number` is that of the version that was written last."""

    name: str
    folder: Path
    engine: Engine
    registry: ImageRegistry
    kafka: EmbeddedKafka
    number: int = 0

    def write(self, first_lines: str = "", *, soak: str = "0s", health_timeout: str = "150s") -> None:
        """Another version of the pipeline, and the site's file."""
        self.number += 1
        (self.folder / "secret").write_text("very secret")
        (self.folder / "tiny.py").write_text(version_text(self.number, first_lines))
        text = SITE.format(
            name=self.name, brokers=self.kafka.advertised_bootstrap, engine=self.engine.url, base=self.engine.base_image,
            host=HOST_IN_CONTAINERS, repository=self.address, soak=soak, health_timeout=health_timeout,
        )  # fmt: skip
        key = [line for line in self._text().splitlines() if line.startswith("key = ")]
        (self.folder / "site.toml").write_text(text + "\n".join(key) + "\n")

    def _text(self) -> str:
        file = self.folder / "site.toml"
        return file.read_text() if file.exists() else ""

    @property
    def address(self) -> str:
        """The repository."""
        return f"{self.registry.address}/fleet"

    def run(self, *words: str) -> tuple[int, str, str]:
        """Exit code, stdout and stderr of `pipeline words…`."""
        said = CliRunner().invoke(main, ["--site", str(self.folder / "site.toml"), *words])
        if said.exception and not isinstance(said.exception, SystemExit):
            raise said.exception
        return said.exit_code, said.stdout, said.stderr

    @property
    def means(self) -> tuple[str, ...]:
        """Options of `publish`: the keys, and an engine that has the base image."""
        return "--keys", str(self.folder / "keys"), "--engine", self.engine.url

    def publish(self, *words: str) -> int:
        """The number of the release that is published."""
        code, out, err = self.run("publish", *self.means, *words, "-o", "json")
        assert code == 0, err
        return int(json.loads(out)["published"][0]["release"])

    @property
    def agent(self) -> Container:
        """The agent's container."""
        return self.engine.client.containers.get(names.agent(self.name))

    @property
    def process(self) -> Container:
        """The container of `process` that runs."""
        (found,) = self.engine.client.containers.list(filters={"label": f"{names.SITE}={self.name}"})
        return found

    def inside(self, container: Container, program: str) -> str:
        """What a Python program prints within a container."""
        output: Any = container.exec_run(["python3", "-c", program]).output
        return str(output.decode())

    def log(self) -> str:
        """What the agent wrote."""
        return str(self.agent.logs().decode())

    def status(self) -> Status:
        """What the site reported last."""
        key = next(line for line in self._text().splitlines() if line.startswith("key = ")).split('"')[1]
        with Registry(self.address, plain=True) as repo:
            found = artifact.get_document(repo, status.path(self.name), status.TAG)
        assert found
        return status.decode(found.content, self.name, key)

    def applied(self, release: int, timeout_s: float = 200.0) -> Status:
        """The report that says that a release runs."""
        self.until(lambda: self.status().running == release, f"release {release} to run", timeout_s)
        return self.status()

    def until(self, holds: Any, what: str, timeout_s: float = 200.0) -> None:
        """Wait, and show the agent's log if it does not come to that."""
        try:
            wait_until(holds, timeout_s, what)
        except BaseException:
            print(self.log()[-6000:])
            raise

    @classmethod
    @contextmanager
    def enrolled(cls, folder: Path, engine: Engine, kafka: EmbeddedKafka) -> Iterator[Plant]:
        """A site with an agent and nothing published. Its registry listens where the agent's network leads."""
        name = f"pull{abs(hash(folder)) % 10**6}"
        gateway = engine.network(names.network(name, "wan"), internal=False)
        with ImageRegistry(folder, host=gateway) as registry:
            plant = cls(name, folder, engine, registry, kafka)
            plant.write()
            asyncio.run(create_topic(kafka.bootstrap, "of-pulling-sites", 1))
            asyncio.run(
                produce(kafka.bootstrap, "of-pulling-sites", b'{"device": "a", "value": 1.0, "time": 1767225600000}')
            )
            for words in (["keys", "init"], ["agent", "enrol"]):
                code, _, err = plant.run(*words, "--keys", str(folder / "keys"))
                assert code == 0, err
            yield plant
            plant.run("destroy", "-y")


def lines(text: str, word: str) -> Sequence[str]:
    """Lines of a text that have a word."""
    return [line for line in text.splitlines() if word in line]
