"""A network of its own for each process that runs tests side by side: Docker engines in one network share its firewall."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

from containers.cache import cache_dir
from tests.bed.firewall import ip, iptables
from tests.bed.slots import take_slot

_CLONE_NEWNET = 0x40000000
_NETWORKS_MAX = 32


@contextlib.contextmanager
def own_network() -> Iterator[None]:
    """Move this thread, and all that it starts, into a new namespace that reaches the world through this machine.

    Needs root.
    """
    here = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    locks = [cache_dir() / "test-network" / str(number) for number in range(_NETWORKS_MAX)]
    number, lock = take_slot(locks, "processes run tests here")
    with lock:
        name, outside, inside = f"sitestream{number}", f"10.212.{number}.1", f"10.212.{number}.2"
        links = (f"ssbed{number}", f"ssbed{number}-in")
        paths = (
            ("nat", "POSTROUTING", "-s", inside, "!", "-o", links[0], "-j", "MASQUERADE"),
            ("filter", "FORWARD", "-i", links[0], "-j", "ACCEPT"),
            ("filter", "FORWARD", "-o", links[0], "-j", "ACCEPT"),
        )
        _remove(name, links[0], paths)  # what a killed session left
        ip("netns", "add", name)
        ip("link", "add", links[0], "type", "veth", "peer", "name", links[1], "netns", name)
        ip("address", "add", f"{outside}/30", "dev", links[0])
        ip("link", "set", links[0], "up")
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
        for table, chain, *rule in paths:
            iptables("--table", table, "--insert", chain, *rule)
        try:
            _enter(os.open(f"/run/netns/{name}", os.O_RDONLY))
            ip("link", "set", "lo", "up")
            ip("address", "add", f"{inside}/30", "dev", links[1])
            ip("link", "set", links[1], "up")
            ip("route", "add", "default", "via", outside)
            yield
        finally:
            _enter(here)
            _remove(name, links[0], paths)


def _enter(namespace: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)  # os.setns is there since Python 3.12
    try:
        if libc.setns(namespace, _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")
    finally:
        os.close(namespace)


def _remove(name: str, link: str, paths: tuple[tuple[str, ...], ...]) -> None:
    for table, chain, *rule in paths:
        iptables("--table", table, "--delete", chain, *rule, check=False)
    ip("link", "delete", link, check=False)
    ip("netns", "delete", name, check=False)
