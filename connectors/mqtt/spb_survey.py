"""Sparkplug B namespaces as they are heard: devices, and the metrics that their births name. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from connectors.mqtt.spb_codec import BIRTHS, DATA
from connectors.mqtt.spb_nodes import BDSEQ
from connectors.mqtt.spb_proto import parse
from pipelines.errors import BadData

NAMESPACE = "spBv1.0/"
DEVICES_MAX = 10_000  # remembered; messages of further ones are left out
METRICS_MAX = 100_000  # of all devices together; a birth that goes beyond is left out
OWN = (BDSEQ, "Node Control/", "Device Control/")  # about the protocol, not about the plant
TYPES = {
    **dict.fromkeys(range(1, 9), "int"),
    9: "float",
    10: "float",
    11: "bool",
    12: "str",
    13: "int",
    14: "str",
    15: "str",
}
UNITS = ("engUnit", "Engineering Units", "EngUnit", "unit", "units")  # properties
Name = tuple[str, str, str]  # group, node, device ('' for the node itself)


@dataclass(slots=True)
class Edge:
    """A device, or (name '') a node itself."""

    metrics: dict[str, tuple[int, str]] = field(default_factory=dict)  # (datatype, unit) by name
    born: bool = False
    data: int = 0  # messages


@dataclass(frozen=True)
class Kind:
    """Devices that have metrics in common."""

    devices: dict[Name, Edge]

    @property
    def metrics(self) -> dict[str, tuple[int, str, int]]:
        """(datatype, unit, how many devices have it) of each metric."""
        counts = Counter(name for edge in self.devices.values() for name in edge.metrics)
        found: dict[str, tuple[int, str, int]] = {}
        for edge in self.devices.values():
            for name, (datatype, unit) in edge.metrics.items():
                found.setdefault(name, (datatype, unit, counts[name]))
        return found


class Sparkplug:
    """All edge nodes and devices that were heard."""

    def __init__(self) -> None:
        self.edges: dict[Name, Edge] = {}
        self.strange = 0  # messages that are no Sparkplug B
        self._metrics = 0

    def take(self, topic: str, payload: bytes) -> bool:
        """A message; False if it is left out because of a limit."""
        levels = topic.split("/")
        kind = levels[2] if len(levels) > 2 else ""
        if kind not in BIRTHS + DATA:
            return True
        if len(levels) != (4 if kind[0] == "N" else 5) or not all(levels):
            self.strange += 1
            return True
        name = levels[1], levels[3], levels[4] if len(levels) == 5 else ""
        if name not in self.edges and len(self.edges) >= DEVICES_MAX:
            return False
        edge = self.edges.setdefault(name, Edge())
        try:
            return self._learn(edge, kind, parse(payload).metrics)
        except BadData:
            self.strange += 1
            return True

    def _learn(self, edge: Edge, kind: str, metrics: Iterable[Any]) -> bool:
        edge.data += kind in DATA
        edge.born |= kind in BIRTHS
        for metric in metrics:
            if metric.name and not metric.name.startswith(OWN) and (metric.name not in edge.metrics or kind in BIRTHS):
                if metric.name not in edge.metrics:
                    self._metrics += 1
                    if self._metrics > METRICS_MAX:
                        return False
                edge.metrics[metric.name] = metric.datatype, _unit(metric)
        return True

    def kinds(self) -> list[Kind]:
        """Devices by what they have in common: two that share a metric are of one kind."""
        edges = [(name, edge) for name, edge in self.edges.items() if edge.metrics]
        parent = list(range(len(edges)))
        first: dict[str, int] = {}  # number of the first device that has a metric
        for number, (_, edge) in enumerate(edges):
            for metric in edge.metrics:
                parent[_root(parent, number)] = _root(parent, first.setdefault(metric, number))
        members: dict[int, dict[Name, Edge]] = defaultdict(dict)
        for number, (name, edge) in enumerate(edges):
            members[_root(parent, number)][name] = edge
        return [Kind(devices) for devices in members.values()]

    @property
    def unborn(self) -> list[Name]:
        """Devices of which data but no birth was heard: aliases cannot be told."""
        return [name for name, edge in self.edges.items() if edge.data and not edge.born]


def _root(parent: list[int], number: int) -> int:
    while parent[number] != number:
        parent[number] = number = parent[parent[number]]
    return number


def _unit(metric: Any) -> str:
    for key, given in zip(metric.properties.keys, metric.properties.values, strict=False):
        if key in UNITS and given.string_value:
            return str(given.string_value)
    return ""
