"""A program of the test bed: found, started on a port of its own, broken and mended by tests, ended with the session."""

from __future__ import annotations

import http.client
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from containers.child import Child
from pipelines.errors import Unavailable

CURE = "run `make test`, which sets up the test bed (tools/setup_test_bed.sh)"


def find_part(program: str) -> str:
    """Full path of a program; `Unavailable`, which makes the test an error and never a skip, if it is not installed."""
    places = [str(Path(sys.executable).parent), os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin", "/sbin"]
    found = shutil.which(program, path=os.pathsep.join(places))
    if found is None:
        raise Unavailable(f"the test bed needs `{program}`, which is not installed: {CURE}")
    return found


class Part:
    """`stop()` and `start()` break and mend every link to it: port and data stay. Subclasses say when it answers."""

    def __init__(
        self, name: str, port: int, words: Sequence[str], folder: Path, *, env: Mapping[str, str] | None = None
    ) -> None:
        self.port = port
        self._child = Child(name, [find_part(words[0]), *words[1:]], folder / f"{name}.log", env=env)

    def answers(self) -> bool:
        """Whether it serves clients."""
        raise NotImplementedError

    @property
    def running(self) -> bool:
        """Whether its process is alive."""
        return self._child.running

    def start(self) -> Self:
        """Start it and wait until it answers."""
        self._child.start(self.answers, cure=CURE)
        return self

    def stop(self) -> None:
        """End it in order."""
        self._child.stop()

    def kill(self) -> None:
        """Kill it at once."""
        self._child.kill9()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


def http_get(port: int, path: str, host: str = "127.0.0.1") -> tuple[int, bytes]:
    """Status and body of a GET on this machine; status 0 if nobody answers."""
    link = http.client.HTTPConnection(host, port, timeout=5)
    try:
        link.request("GET", path)
        reply = link.getresponse()
        return reply.status, reply.read()
    except (OSError, http.client.HTTPException):
        return 0, b""
    finally:
        link.close()
