"""Which nodes of an OPC UA server are meant: paths of browse names with wildcards, or NodeIds. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pipelines.errors import PlanError

DEPTH_MAX = 20  # levels of a path
_NODE_ID = re.compile(r"(ns=\d+;)?[isgb]=.+|nsu=[^;]+;[isgb]=.+", re.S)
_QUALIFIED = re.compile(r"(?:(\d+):)?(.*)", re.S)


def is_node_id(text: str) -> bool:
    """Whether a text is a NodeId ('ns=2;s=Press.RMS', 'i=2258') rather than a path."""
    return bool(_NODE_ID.fullmatch(text))


@dataclass(frozen=True)
class Level:
    """One level of a path: a browse name (in a namespace, if one is given), any (None), or any that is the key."""

    name: str | None
    namespace: int | None = None
    is_key: bool = False

    def matches(self, name: str, namespace: int) -> bool:
        """Whether a node's browse name is meant."""
        return self.name is None or (self.name == name and self.namespace in (None, namespace))


@dataclass(frozen=True)
class NodePath:
    """A path from the Root folder ('Objects/Plant/{device}/RMS'), or a NodeId where `node_id` is given."""

    text: str
    levels: tuple[Level, ...] = ()
    node_id: str | None = None

    @property
    def has_key(self) -> bool:
        """Whether one of the levels is the key."""
        return any(level.is_key for level in self.levels)

    @classmethod
    def of(cls, text: str, key: str) -> NodePath:
        """From 'Objects/Plant/{device}/2:RMS' or a NodeId; `PlanError` says what is wrong with it."""
        if is_node_id(text):
            return cls(text, node_id=text)
        parts = text.split("/")
        if not text or not all(parts) or len(parts) > DEPTH_MAX:
            raise PlanError(
                f"opcua node {text!r}: write the browse names from the Root folder on with / between them, at most {DEPTH_MAX}, "
                "such as 'Objects/Plant/{device}/RMS', or a NodeId such as 'ns=2;s=Press.RMS'"
            )
        levels = tuple(_level(part, text, key) for part in parts)
        if sum(level.is_key for level in levels) > 1:
            raise PlanError(
                f"opcua node {text!r}: write {{{key}}} once, for the level that names the device, and * for the others"
            )
        return cls(text, levels)


def _level(part: str, text: str, key: str) -> Level:
    if part == f"{{{key}}}":
        return Level(None, is_key=True)
    if part == "*":
        return Level(None)
    if "*" in part or part.startswith("{"):
        cure = f"the key is called {{{key}}}" if part.startswith("{") else "a wildcard is a whole level"
        raise PlanError(
            f"opcua node {text!r}: level {part!r} cannot be used: {cure}; a level to be ignored is written *"
        )
    matched = _QUALIFIED.fullmatch(part)
    assert matched
    return Level(matched[2], int(matched[1]) if matched[1] else None)
