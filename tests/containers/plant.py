"""A site on a real engine, with real brokers and a real store, changed through the command line as an operator does."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from click.testing import CliRunner
from docker.models.containers import Container
from paho.mqtt import publish

from containers.cli import main
from containers.embedded import EmbeddedKafka
from tests.bed import wait_until
from tests.bed.engine import HOST_IN_CONTAINERS, Engine
from tests.bed.mosquitto import Mosquitto
from tests.bed.s3 import S3
from tests.containers.kit import pipeline_text, with_environment

ROOT = Path(__file__).parents[2]
SERVICES = ("upload", "control", "process", "collect")
SITE = """\
site = "{name}"
pipeline = "tiny.py"
brokers = "{brokers}"
partitions = 2
store = "s3://{bucket}/{name}"
engine = "{engine}"
base_image = "{base}"
[hosts]
"{host}" = "gateway"
[services.upload.options]
s3_endpoint = "http://{host}:{s3_port}"
[services.upload.secrets]
s3_access_key = "env:TEST_ACCESS_KEY"
s3_secret_key = "file:s3.key"
[services.process.options]
discard_state = "{discard_state}"
[services.process]
log_level = "{log_level}"
{more_of_site}
"""
IN_PROCESS = "import os, time\nif os.uname().nodename == 'process':\n    "  # in its container, that is
CRASHES = IN_PROCESS + "raise RuntimeError('the new version is broken')"
HANGS = IN_PROCESS + "time.sleep(600)"
STALLS = (
    IN_PROCESS
    + """\
from pipelines.runtime.session import Session
    Session.compute = lambda self, ended: False
"""
)
USES_NOTHING = (
    IN_PROCESS
    + """\
from pipelines.dead import DeadLetter
    from pipelines.runtime.job import Job
    Job.read = lambda self, topic, records: ([], [DeadLetter(b"", "type", "broken", "x") for _ in records])
"""
)


@dataclass
class Plant:
    """`settings` are those of the site file and the pipeline file; `write` may change some for once."""

    name: str
    folder: Path
    engine: Engine
    kafka: EmbeddedKafka
    mosquitto: Mosquitto
    s3: S3
    settings: dict[str, str] = field(default_factory=lambda: {"window": "1s", "discard_state": "", "log_level": "INFO"})

    def write(self, **changes: str) -> None:
        """Write the site file, the pipeline file and the secret."""
        (self.folder / "s3.key").write_text(self.s3.secret_key)
        usual = {
            "name": self.name, "brokers": self.kafka.advertised_bootstrap, "bucket": self.s3.bucket, "engine": self.engine.url,
            "base": self.engine.base_image, "host": HOST_IN_CONTAINERS, "s3_port": str(self.s3.port),
            "mqtt": f"mqtt://{HOST_IN_CONTAINERS}:{self.mosquitto.port}", "source_options": ", silence='300ms'",
            "more_of_site": "",
        }  # fmt: skip
        settings = {**usual, **self.settings, **changes}
        (self.folder / "site.toml").write_text(SITE.format(**settings))
        (self.folder / "tiny.py").write_text(pipeline_text(**settings))

    @contextmanager
    def started(self, *words: str) -> Iterator[subprocess.Popen[str]]:
        """`pipeline words…` in a process of its own."""
        process = subprocess.Popen(
            [sys.executable, "-m", "containers.cli", *words],
            cwd=self.folder,
            env=with_environment(PYTHONPATH=str(ROOT), TEST_ACCESS_KEY=self.s3.access_key),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            yield process
        finally:
            process.kill()
            process.communicate()

    def run(self, *words: str) -> tuple[int, str, str]:
        """Exit code, stdout and stderr of `pipeline words…`, run in this process."""
        where = ("--site", str(self.folder / "site.toml"))
        said = CliRunner().invoke(main, [*where, *words], env={"TEST_ACCESS_KEY": self.s3.access_key})
        return said.exit_code, said.stdout, said.stderr

    def deploy(self, *words: str) -> tuple[int, str]:
        """Exit code and stderr of a deploy."""
        code, _, err = self.run("deploy", *words)
        return code, err

    def status(self) -> dict[str, Any]:
        """What `pipeline status` says."""
        value: dict[str, Any] = json.loads(self.run("status", "-o", "json")[1])
        return value

    def newest_attempt(self) -> dict[str, Any]:
        """What `pipeline history` says of the last deploy or rollback."""
        value: dict[str, Any] = json.loads(self.run("history", "-n", "1", "-o", "json")[1])["attempts"][0]
        return value

    def ids(self) -> dict[str, tuple[str, str]]:
        """Id and start time of each service's container."""
        return {s["service"]: (s["id"], s["since"]) for s in self.status()["services"]}

    def container(self, service: str) -> Container:
        """The running container of a service."""
        (found,) = self.engine.client.containers.list(filters={"name": f"sitestream-{self.name}-{service}-"})
        return found

    def inside(self, service: str, program: str) -> str:
        """What a Python program prints within a service's container."""
        output: Any = self.container(service).exec_run(["python3", "-c", program]).output
        return str(output.decode())

    @classmethod
    @contextmanager
    def deployed(
        cls, folder: Path, engine: Engine, kafka: EmbeddedKafka, mosquitto: Mosquitto, s3: S3
    ) -> Iterator[Plant]:
        """A site with everything deployed. Each test leaves it as it found it: running, as its files say."""
        plant = cls(f"plant{abs(hash(folder)) % 10**6}", folder, engine, kafka, mosquitto, s3)
        plant.write()
        code, err = plant.deploy()
        assert code == 0, err
        yield plant
        plant.run("destroy", "-y")

    def counted(self) -> int:
        """How many readings stand in the windows that the store has."""
        files = (self.s3.folder / self.s3.bucket / self.name).rglob("*.parquet")
        return sum(sum(pq.read_table(f)["n"].to_pylist()) for f in files)

    def readings_flow(self) -> None:
        """Fails unless readings published now reach the store."""
        before = self.counted()
        messages: list[Any] = [(f"tiny/d{i}/v", f'{{"value": {i}}}', 1, False) for i in range(5)]
        publish.multiple(messages, hostname="127.0.0.1", port=self.mosquitto.port)
        wait_until(lambda: self.counted() >= before + 5, 40, "the readings to reach the store")
