"""Whether somebody answers at an engine's address, and if not, why: docker's client says little of it."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from pipelines.errors import Unavailable

SSH_S_MAX = 20


def unix(url: str) -> None:
    """`Unavailable`, with what to do, if nobody answers at a unix socket. (docker's client would leak its own on failure.)"""
    try:
        with socket.socket(socket.AF_UNIX) as link:
            link.connect(url.removeprefix("unix://"))
    except PermissionError as e:
        raise Unavailable(
            f"the Docker engine at {url} does not let this user in: join its group (usually 'docker'), or use sudo"
        ) from e
    except OSError as e:
        raise Unavailable(f"no Docker engine answers at {url}: start it, or correct `engine` in the site file") from e


@contextmanager
def by_ssh(url: str) -> Iterator[None]:
    """If docker's client finds its way through `ssh` `Unavailable`, say what `ssh` itself says of it, and what to do."""
    if shutil.which("ssh") is None:
        raise Unavailable(f"{url} needs the program ssh, which is not installed here: install openssh-client")
    try:
        yield
    except Unavailable as e:
        words = _words(url)
        raise Unavailable(
            f"no Docker engine answers at {url}: {_says(words) or e}: what must work from here, without a question, is  "
            f"{' '.join(words)}"
        ) from e


def _words(url: str) -> list[str]:
    """How docker's client calls `ssh`, which it always tells a port."""
    user, _, place = url.removeprefix("ssh://").rpartition("@")
    host, _, port = place.partition(":")
    return ["ssh", *(["-l", user] if user else []), "-p", port or "22", "--", host, "docker", "version"]


def _says(words: list[str]) -> str:
    """The last line of complaint; '' if there is none."""
    asked = [words[0], "-o", "BatchMode=yes", *words[1:]]
    try:
        said = subprocess.run(asked, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=SSH_S_MAX)
    except subprocess.TimeoutExpired:
        return f"ssh has no answer in {SSH_S_MAX} s"
    lines = said.stderr.strip().splitlines()
    return lines[-1].strip().rstrip(".") if lines and said.returncode else ""
