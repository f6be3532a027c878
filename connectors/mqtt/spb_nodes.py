"""What is known of Sparkplug edge nodes: births, aliases, sequence numbers, the last values. Pure.

The life of a node is that of the specification (Sparkplug 3.0, chapter 5): NBIRTH begins it and makes its devices unknown, DBIRTH
introduces a device, NDEATH with the bdSeq of the last NBIRTH ends it. Every message but NDEATH counts `seq` up, from 255 to 0.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pipelines.errors import BadData
from pipelines.quality import BAD, GOOD, UNCERTAIN

NODES_MAX = 10_000
DEVICES_MAX = 10_000  # of one node
METRICS_MAX = 1_000_000  # of all nodes together
QUALITY = {192: GOOD, 0: BAD, 500: BAD}  # the property "Quality"; 500 is stale
BDSEQ = "bdSeq"
_SIGNED = {1: 8, 2: 16, 3: 32, 4: 64}  # bits of Int8 … Int64, which travel as unsigned numbers
_VALUES = ("double_value", "float_value", "long_value", "int_value", "boolean_value", "string_value")
_VALUE_OF = dict.fromkeys((1, 2, 3, 5, 6, 7), "int_value") | {
    4: "long_value", 8: "long_value", 9: "float_value", 10: "double_value", 11: "boolean_value", 12: "string_value",
    13: "long_value", 14: "string_value", 15: "string_value",
}  # fmt: skip


@dataclass(slots=True)
class Device:
    """A device of a node, or (name '') the node itself."""

    alive: bool = False
    last: dict[str, Any] = field(default_factory=dict)  # column -> newest value
    quality: dict[str, int] = field(default_factory=dict)  # column -> newest quality
    types: dict[str, int] = field(default_factory=dict)  # metric -> datatype, of those that are columns


@dataclass(slots=True)
class Node:
    """An edge node since its last birth."""

    born: bool = False
    bdseq: int | None = None
    seq: int | None = None
    lost: bool = False  # a message is missing since the birth: values may be old
    aliases: dict[int, tuple[str, int]] = field(default_factory=dict)  # alias -> (metric, datatype)
    devices: dict[str, Device] = field(default_factory=dict)

    @property
    def unborn(self) -> bool:
        """Whether it has to be born again: it was never seen born, or a message is missing."""
        return self.lost or not self.born

    def count(self, seq: int) -> bool:
        """Whether `seq` is the next one."""
        expected, self.seq = None if self.seq is None else (self.seq + 1) % 256, seq % 256
        return expected is None or seq == expected


class Nodes:
    """All nodes of a source."""

    def __init__(self) -> None:
        self._nodes: dict[tuple[str, str], Node] = {}
        self._aliases = 0
        self.gaps = 0
        self.mute: dict[tuple[str, str], None] = {}  # nodes that are there and whose births are missing, in that order

    @property
    def wanted(self) -> int:
        """Nodes that have to be born again."""
        return sum(node.unborn for node in self._nodes.values())

    def of(self, group: str, name: str) -> Node:
        """A node; `BadData` if there are too many."""
        node = self._nodes.get((group, name))
        if node is None:
            if len(self._nodes) >= NODES_MAX:
                raise BadData(f"there are more than {NODES_MAX} edge nodes: name a group in `group`", reason="too_many")
            node = self._nodes[group, name] = Node()
        return node

    def device(self, node: Node, name: str) -> Device:
        """A device of a node, perhaps not yet born; `BadData` if there are too many."""
        if name not in node.devices and len(node.devices) >= DEVICES_MAX:
            raise BadData(f"the edge node has more than {DEVICES_MAX} devices", reason="too_many")
        return node.devices.setdefault(name, Device())

    def mind(self, group: str, name: str, node: Node, *, there: bool) -> None:
        """Take note whether a node, which has just been heard or has died, lacks a birth that it could be asked for."""
        if there and node.unborn:
            self.mute[group, name] = None
        else:
            self.mute.pop((group, name), None)

    def born(self, node: Node, payload: Any) -> None:
        """An NBIRTH: all that was known of the node before is over."""
        self._aliases -= len(node.aliases)
        node.born, node.lost, node.seq = True, False, payload.seq % 256 if payload.HasField("seq") else None
        node.bdseq = next((value(m, m.datatype) for m in payload.metrics if m.name == BDSEQ), None)
        node.aliases, node.devices = {}, {}

    def introduce(self, node: Node, device: str, payload: Any) -> Device:
        """Learn a birth's metrics; `BadData` if there are too many."""
        known = node.devices[device] = Device(alive=True)
        if self._aliases + len(payload.metrics) > METRICS_MAX:
            raise BadData(f"all births together have more than {METRICS_MAX} metrics", reason="too_many")
        before = len(node.aliases)
        for metric in payload.metrics:
            if metric.HasField("alias"):
                node.aliases[metric.alias] = (metric.name, metric.datatype)
            known.types[metric.name] = metric.datatype
        self._aliases += len(node.aliases) - before
        return known

    def count(self, node: Node, payload: Any) -> None:
        """Watch the sequence of a node that is born."""
        if node.born and payload.HasField("seq") and not node.count(payload.seq):
            self.gaps += 1
            node.lost = True


def value(metric: Any, datatype: int) -> Any:
    """The value of a metric as a Python number, truth or text; None if it is null. `BadData` if it is none of those."""
    if metric.is_null:
        return None
    name = _VALUE_OF.get(datatype) if datatype else next((v for v in _VALUES if metric.HasField(v)), None)
    if name is None or not metric.HasField(name):
        raise BadData(f"its value is not of datatype {datatype}, or that is no number, truth or text", reason="type")
    found = getattr(metric, name)
    bits = _SIGNED.get(datatype)
    if bits is not None:
        found &= (1 << bits) - 1
        found -= (found >> (bits - 1)) << bits
    return found


def quality(metric: Any) -> int:
    """Quality by the metric's property of that name."""
    if metric.is_null:
        return BAD
    if metric.HasField("properties"):
        for key, given in zip(metric.properties.keys, metric.properties.values, strict=False):
            if key == "Quality":
                return QUALITY.get(given.int_value, UNCERTAIN)
    return GOOD
