"""Docker engines that share a host share its firewall chains, and each that starts empties them: put the rules back."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator

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
            _iptables(table, "-I", *rule.split()[1:])  # first in its chain: the last one there is RETURN


def _docker_rules(table: str) -> list[str]:
    return [line for line in _iptables(table, "-S").splitlines() if line.startswith("-A DOCKER")]


def _iptables(table: str, *words: str) -> str:
    done = subprocess.run(
        [find_part("iptables"), "--wait", "--table", table, *words], capture_output=True, text=True, check=True
    )
    return done.stdout
