"""Objects as YAML that any reader takes for the same values."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import yaml

from containers.kubernetes.scope import Object

WIDTH = 120


class _Dumper(yaml.SafeDumper):
    """Every object in full, texts of several lines as they are."""

    def ignore_aliases(self, data: Any) -> bool:
        """Never a reference to what stood before."""
        return True


def _text(dumper: _Dumper, value: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


_Dumper.add_representer(str, _text)
# What kubectl takes for a number (YAML 1.2) and this library does not (1.1), such as the fingerprint 123456789e01, gets quotes.
_Dumper.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\.\d+|\d+(\.\d*)?)([eE][-+]?\d+)?$"), list("-+.0123456789")
)


def dump(objects: Iterable[Object]) -> str:
    """One document for each object, in their order."""
    return yaml.dump_all(objects, Dumper=_Dumper, sort_keys=False, explicit_start=True, allow_unicode=True, width=WIDTH)
