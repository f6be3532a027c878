"""A network of its own for each process that runs tests side by side: Docker engines in one network share its firewall."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from containers.cache import cache_dir
from pipelines.errors import Unavailable
from tests.bed.parts import find_part

_CLONE_NEWNET = 0x40000000
_NETWORKS_MAX = 32


@contextlib.contextmanager
def own_network() -> Iterator[None]:
    """Move this thread, and all that it starts, into a new namespace that reaches the world through this machine.

    Needs root.
    """
    here = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    with _take_number() as lock:
        number = Path(lock.name).name
        name, outside, inside = f"sitestream{number}", f"10.212.{number}.1", f"10.212.{number}.2"
        links = (f"ssbed{number}", f"ssbed{number}-in")
        paths = (
            ("nat", "POSTROUTING", "-s", inside, "!", "-o", links[0], "-j", "MASQUERADE"),
            ("filter", "FORWARD", "-i", links[0], "-j", "ACCEPT"),
            ("filter", "FORWARD", "-o", links[0], "-j", "ACCEPT"),
        )
        _remove(name, links[0], paths)  # what a killed session left
        _ip("netns", "add", name)
        _ip("link", "add", links[0], "type", "veth", "peer", "name", links[1], "netns", name)
        _ip("address", "add", f"{outside}/30", "dev", links[0])
        _ip("link", "set", links[0], "up")
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
        for table, chain, *rule in paths:
            _run("iptables", "--wait", "--table", table, "--insert", chain, *rule)
        try:
            _enter(os.open(f"/run/netns/{name}", os.O_RDONLY))
            _ip("link", "set", "lo", "up")
            _ip("address", "add", f"{inside}/30", "dev", links[1])
            _ip("link", "set", links[1], "up")
            _ip("route", "add", "default", "via", outside)
            yield
        finally:
            _enter(here)
            _remove(name, links[0], paths)


def _take_number() -> IO[str]:
    """A locked file whose name is a number that no other process has while this one lives."""
    folder = cache_dir() / "test-network"
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(_NETWORKS_MAX):
        lock = (folder / str(number)).open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            continue
        return lock
    raise Unavailable(f"{_NETWORKS_MAX} processes run tests here already: end some of those test sessions")


def _enter(namespace: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)  # os.setns is there since Python 3.12
    try:
        if libc.setns(namespace, _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")
    finally:
        os.close(namespace)


def _remove(name: str, link: str, paths: tuple[tuple[str, ...], ...]) -> None:
    for table, chain, *rule in paths:
        _run("iptables", "--wait", "--table", table, "--delete", chain, *rule, check=False)
    _ip("link", "delete", link, check=False)
    _ip("netns", "delete", name, check=False)


def _ip(*words: str, check: bool = True) -> None:
    _run("ip", *words, check=check)


def _run(*words: str, check: bool = True) -> None:
    subprocess.run([find_part(words[0]), *words[1:]], check=check, capture_output=True, text=True)
