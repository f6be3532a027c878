"""The contestants as processes: what each needs is installed on first use, below the cache folder."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import venv
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.measure import progress
from containers.cache import cache_dir, made_once
from containers.fetch import KAFKA_VERSION, kafka_jars, resolved

HERE = Path(__file__).parent


@dataclass
class System:
    """One contestant."""

    name: str
    start: Callable[[], list[str]]  # the words of its process, made on first use
    share: float = 1.0  # of the readings: slow ones get fewer, their rate is what counts
    environment: dict[str, str] = field(default_factory=dict)
    ours: bool = False


def python(name: str, *packages: str) -> Callable[[], list[str]]:
    """`NAME_peer.py` in a venv of its own."""

    def words() -> list[str]:
        folder = cache_dir() / "peers" / name
        if not (folder / "complete").exists():
            progress(f"installing {name}")
            venv.create(folder, with_pip=True, clear=True)
            subprocess.run([folder / "bin" / "pip", "install", "-q", *packages], check=True)
            (folder / "complete").touch()
        return [str(folder / "bin" / "python"), str(HERE / f"{name}_peer.py")]

    return words


def java() -> list[str]:
    """Kafka Streams, by a JDK that is there."""
    jars = cache_dir() / f"kafka-streams-{KAFKA_VERSION}"

    def fetch(complete: Path) -> None:
        with tempfile.TemporaryDirectory(dir=complete.parent) as repository:
            for jar, _, _ in resolved(Path(repository), [("org.apache.kafka", "kafka-streams", KAFKA_VERSION)]):
                shutil.move(jar, complete)

    made_once(jars, fetch)
    if shutil.which("javac") is None:
        raise FileNotFoundError("a JDK is needed: apt-get install openjdk-17-jdk-headless")
    quiet = "-Dorg.slf4j.simpleLogger.defaultLogLevel=error"
    return ["java", "-Xmx1g", quiet, "-cp", f"{jars}/*:{kafka_jars()}/*", str(HERE / "Peer.java")]


def ended(process: subprocess.Popen[str]) -> None:
    """End a process, kindly at first."""
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
