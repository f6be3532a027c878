"""This machine's firewall and network: its rules, for a while, and those of Docker engines, which empty each other's chains."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator, Sequence

from tests.bed.parts import find_part

_TABLES = ("filter", "nat")


@contextlib.contextmanager
def docker_rules_kept() -> Iterator[None]:
    """Give the rules of other engines (isolation of networks, published ports) back after an engine has started."""
    before = {table: _docker_rules(table) for table in _TABLES}
    yield
    for table, rules in before.items():
        there = _docker_rules(table)
        for rule in reversed([rule for rule in rules if rule not in there]):
            iptables("--table", table, "-I", *rule.split()[1:])  # first in its chain: the last one there is RETURN


@contextlib.contextmanager
def rules(*rules: Sequence[str]) -> Iterator[None]:
    """Rules of the machine's firewall, first in their chains."""
    with contextlib.ExitStack() as stack:
        for rule in rules:
            iptables("-I", *rule)
            stack.callback(iptables, "-D", *rule)
        yield


def _docker_rules(table: str) -> list[str]:
    return [line for line in iptables("--table", table, "-S").splitlines() if line.startswith("-A DOCKER")]


def iptables(*words: str, check: bool = True) -> str:
    """`iptables words…`: what it says. Without `check` it may fail."""
    return _run("iptables", "--wait", *words, check=check)


def ip(*words: str, check: bool = True) -> None:
    """`ip words…`. Without `check` it may fail."""
    _run("ip", *words, check=check)


def _run(program: str, *words: str, check: bool) -> str:
    errors = None if check else subprocess.DEVNULL
    done = subprocess.run([find_part(program), *words], stdout=subprocess.PIPE, stderr=errors, text=True, check=check)
    return done.stdout
