"""Whoever cannot get at an engine by SSH is told what SSH says, and what to try. (The rest of the way is in tests/broker.)"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import asyncssh
import pytest

from tests.bed.ways import behind_ssh

KNOCK = """
import sys
from containers.engine import Engine
from pipelines.errors import Unavailable
try:
    Engine(sys.argv[1])
except Unavailable as e:
    print(e)
"""


def says(url: str, path: str) -> str:
    """In a process of its own, without a terminal to ask at: docker's client leaves what it had open if it fails."""
    words = [sys.executable, "-c", KNOCK, url]
    env = {**os.environ, "PATH": path}
    return subprocess.run(words, env=env, capture_output=True, text=True, check=True, start_new_session=True).stdout


def nobody_listens(folder: Path, url: str) -> str:
    return url.rpartition(":")[0] + ":1"


def another_host(folder: Path, url: str) -> str:
    (folder / "known_hosts").write_text("")
    return url


def key_refused(folder: Path, url: str) -> str:
    asyncssh.generate_private_key("ssh-ed25519").write_public_key(folder / "authorized_keys")  # of somebody else
    return url


def no_engine(folder: Path, url: str) -> str:
    return url


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        (nobody_listens, "ssh: connect to host 127.0.0.1 port 1: Connection refused"),
        (another_host, "Host key verification failed"),
        (key_refused, "plant@127.0.0.1: Permission denied (publickey)"),
        (no_engine, "Cannot connect to the Docker daemon at unix:///nowhere.sock. Is the docker daemon running?"),
    ],
)
def test_it_says_what_ssh_says(tmp_path: Path, wrong: Callable[[Path, str], str], what: str) -> None:
    with behind_ssh(tmp_path, "unix:///nowhere.sock") as there:
        url = wrong(tmp_path, there)
        said = says(url, f"{tmp_path}:{os.environ['PATH']}")
    cure = f"what must work from here, without a question, is  ssh -l plant -p {url.rpartition(':')[2]} -- hall docker version"
    assert said.strip() == f"no Docker engine answers at {url}: {what}: {cure}"


def test_it_says_that_there_is_no_ssh(tmp_path: Path) -> None:
    said = says("ssh://plant@hall", str(tmp_path))
    assert said == "ssh://plant@hall needs the program ssh, which is not installed here: install openssh-client\n"
