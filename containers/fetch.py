"""Apache Kafka's jars: fetched once from Maven Central, then taken from the cache without any network."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from containers.cache import cache_dir, made_once
from pipelines.errors import Unavailable

KAFKA_VERSION = "4.3.1"
ARTIFACTS = (
    ("org.apache.kafka", "kafka_2.13", KAFKA_VERSION),
    ("org.slf4j", "slf4j-simple", "1.7.36"),  # Kafka logs through slf4j and brings no writer for it
)


def kafka_jars(cache: Path | None = None) -> Path:
    """The folder that holds every jar of Kafka; fetched first if need be (45 MB, about 20 s).

    Raises `Unavailable` when Maven Central cannot be reached.
    """
    jars = (cache or cache_dir()) / f"kafka-{KAFKA_VERSION}"

    def fetch(complete: Path) -> None:
        with tempfile.TemporaryDirectory(dir=complete.parent) as repository:
            for jar in _shown(resolved(Path(repository), ARTIFACTS)):
                shutil.move(jar, complete)

    made_once(jars, fetch)
    return jars


def resolved(repository: Path, artifacts: Iterable[tuple[str, str, str]]) -> Iterator[tuple[Path, int, int]]:
    """Fetch artifacts (group, name, version) and all that they need; yield (jar, how many so far, how many in all)."""
    import requests

    try:
        from jgo.maven import MavenContext
        from jgo.parse import Coordinate
    except ImportError as error:
        raise Unavailable("to fetch Kafka an extra is needed: pip install 'sitestream[embedded]'") from error
    context = MavenContext(repo_cache=repository, timeout=60)
    wanted = [context.create_dependency(Coordinate(*artifact, scope="compile")) for artifact in artifacts]
    try:
        direct, transitive = context.resolver.resolve(wanted)
        needed = [d.artifact for d in (*direct, *transitive) if d.scope in ("compile", "runtime")]
        for done, artifact in enumerate(needed, 1):
            yield artifact.resolve(), done, len(needed)
    except (requests.RequestException, RuntimeError) as error:
        raise Unavailable(
            f"Kafka {KAFKA_VERSION} could not be fetched from Maven Central ({error}). Check that this machine reaches it, "
            "or name a running broker as `brokers`"
        ) from error


def _shown(steps: Iterable[tuple[Path, int, int]]) -> Iterator[Path]:
    """Pass the jars on, with a progress bar on a terminal and two plain lines elsewhere."""
    console = Console(stderr=True)
    title = f"Fetching Apache Kafka {KAFKA_VERSION} (once, 45 MB)"
    if not console.is_terminal:
        console.print(f"{title} …")
    with Progress(console=console, disable=not console.is_terminal) as progress:
        task: Any = progress.add_task(title, total=None)
        for jar, done, total in steps:
            progress.update(task, completed=done, total=total)
            yield jar
    if not console.is_terminal:
        console.print("Apache Kafka is in the cache")


if __name__ == "__main__":
    kafka_jars()
