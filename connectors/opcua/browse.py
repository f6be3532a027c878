"""Finds nodes: what hangs below what, many at a time, and which nodes the paths of a source mean."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from asyncua import ua

from connectors.opcua import Column
from connectors.opcua.channel import Channel
from connectors.opcua.paths import Level, NodePath
from pipelines.errors import LimitExceeded

ROOT = ua.NodeId(ua.Int32(84))
HIERARCHICAL = ua.NodeId(ua.Int32(33))
NODES_MAX = 100_000  # looked at in one browse
REFERENCES_MAX = 1_000  # of one node in one answer; the server gives the others when asked again
BATCH = 500  # nodes in one request, if the server does not say less
OBJECTS, VARIABLES = 1, 2  # bits of node classes
_LIMITS = {"reads": 11705, "browses": 11710, "items": 11714}  # Server.ServerCapabilities.OperationLimits.MaxNodesPer…
T = TypeVar("T")
log = logging.getLogger("collect")


@dataclass(frozen=True)
class Limits:
    """How many the server takes in one request."""

    reads: int = BATCH
    browses: int = BATCH
    items: int = BATCH

    @classmethod
    async def of(cls, channel: Channel) -> Limits:
        """Ask the server; what it does not say, or leaves open, is `BATCH`."""
        values = await read(
            channel, [ua.NodeId(ua.Int32(i)) for i in _LIMITS.values()], ua.AttributeIds.Value, len(_LIMITS)
        )
        said = [v if isinstance(v, int) and 0 < v < BATCH else BATCH for v in values]
        return cls(**dict(zip(_LIMITS, said, strict=True)))


@dataclass(frozen=True)
class Child:
    """A node below another."""

    node: ua.NodeId
    name: str
    namespace: int
    is_variable: bool


@dataclass(frozen=True, slots=True)
class Found:
    """A node whose values are a column of a device."""

    device: str
    column: str
    node: ua.NodeId
    path: str


def batches(items: Sequence[T], size: int) -> Iterable[Sequence[T]]:
    """Pieces of up to `size`."""
    return (items[i : i + size] for i in range(0, len(items), size))


async def read(channel: Channel, nodes: Sequence[ua.NodeId], attribute: Any, batch: int) -> list[Any]:
    """An attribute of each node; None where the server gives none."""
    found: list[Any] = []
    for some in batches(nodes, batch):
        request = ua.ReadRequest()
        request.Parameters.NodesToRead = [ua.ReadValueId(NodeId=n, AttributeId=attribute) for n in some]
        request.Parameters.TimestampsToReturn = ua.TimestampsToReturn.Neither
        results = (await channel.call(request, ua.ReadResponse)).Results
        good = [
            r.Value.Value if r.Value is not None and (r.StatusCode is None or r.StatusCode.is_good()) else None
            for r in results
        ]
        found += [*good, *[None] * (len(some) - len(good))]
    return found


async def children(channel: Channel, nodes: Sequence[ua.NodeId], limits: Limits, classes: int) -> list[list[Child]]:
    """What hangs below each node by hierarchical references, of these node classes."""
    found: list[list[Child]] = []
    for some in batches(nodes, limits.browses):
        request = ua.BrowseRequest()
        request.Parameters.RequestedMaxReferencesPerNode = ua.UInt32(REFERENCES_MAX)
        request.Parameters.NodesToBrowse = [_description(node, classes) for node in some]
        results = (await channel.call(request, ua.BrowseResponse)).Results
        here = [_children(result) for result in results]
        async for i, result in _rest(channel, results):
            here[i] += _children(result)
        found += here
    return found


def _description(node: ua.NodeId, classes: int) -> ua.BrowseDescription:
    return ua.BrowseDescription(
        NodeId=node, BrowseDirection=ua.BrowseDirection.Forward, ReferenceTypeId=HIERARCHICAL, IncludeSubtypes=True,
        NodeClassMask=ua.UInt32(classes), ResultMask=ua.UInt32(ua.BrowseResultMask.BrowseName | ua.BrowseResultMask.NodeClass),
    )  # fmt: skip


async def _rest(channel: Channel, results: Sequence[ua.BrowseResult]) -> AsyncIterator[tuple[int, ua.BrowseResult]]:
    """What did not fit into the first answer, by index of the node."""
    open_points = {i: r.ContinuationPoint for i, r in enumerate(results) if r.ContinuationPoint}
    while open_points:
        request = ua.BrowseNextRequest()
        request.Parameters.ContinuationPoints = list(open_points.values())
        more = (await channel.call(request, ua.BrowseNextResponse)).Parameters.Results
        answered = list(zip(open_points, more, strict=False))
        for i, result in answered:
            yield i, result
        open_points = {i: result.ContinuationPoint for i, result in answered if result.ContinuationPoint}


def _children(result: ua.BrowseResult) -> list[Child]:
    return [
        Child(
            _local(r.NodeId), r.BrowseName.Name, int(r.BrowseName.NamespaceIndex), r.NodeClass == ua.NodeClass.Variable
        )
        for r in result.References or ()
        if r.BrowseName is not None and r.BrowseName.Name
    ]


def _local(node: Any) -> ua.NodeId:
    """A node of this server, without what an ExpandedNodeId says besides."""
    return (
        ua.NodeId(node.Identifier, node.NamespaceIndex, node.NodeIdType)
        if isinstance(node, ua.ExpandedNodeId)
        else node
    )


class Finder:
    """Resolves the paths of a source. Each level of a tree is looked at once, however many paths lead through it."""

    def __init__(self, channel: Channel, limits: Limits) -> None:
        self._channel, self._limits = channel, limits
        self._known: dict[ua.NodeId, list[Child]] = {}

    async def find(self, columns: Sequence[Column]) -> list[Found]:
        """The nodes of all columns, by device; a path that leads nowhere has none."""
        found: list[Found] = []
        for column in columns:
            if column.path is not None:
                found += await self._walk(column.name, None, column.path)
            for device, path in column.nodes:
                found += await self._walk(column.name, device, path)
        unique = list({(f.device, f.column): f for f in reversed(found)}.values())[::-1]
        if twice := set(found) - set(unique):
            example = min(twice, key=lambda f: f.path)
            log.warning(
                "OPC UA server %s: %d nodes are left out, such as %s: device %s has another for %s; name levels instead of *",
                self._channel.where, len(twice), example.path, example.device, example.column,
            )  # fmt: skip
        return unique

    async def _walk(self, column: str, device: str | None, path: NodePath) -> list[Found]:
        if path.node_id is not None:
            return [Found(device or "", column, ua.NodeId.from_string(path.node_id), path.text)]
        here: list[tuple[ua.NodeId, str, str]] = [(ROOT, device or "", "")]  # node, key, path so far
        for n, level in enumerate(path.levels):
            last = n == len(path.levels) - 1
            await self._look([node for node, _, _ in here])
            here = [step for node, key, at in here for step in self._steps(node, key, at, level, last)]
        return [Found(key, column, node, at[1:]) for node, key, at in here]

    def _steps(
        self, node: ua.NodeId, key: str, at: str, level: Level, last: bool
    ) -> Iterable[tuple[ua.NodeId, str, str]]:
        for child in self._known[node]:
            if level.matches(child.name, child.namespace) and (child.is_variable or not last):
                yield child.node, child.name if level.is_key else key, f"{at}/{child.name}"

    async def _look(self, nodes: Sequence[ua.NodeId]) -> None:
        new = list(dict.fromkeys(node for node in nodes if node not in self._known))
        if len(self._known) + len(new) > NODES_MAX:
            raise LimitExceeded(
                f"OPC UA server {self._channel.where}: the paths in `nodes=` lead through more than "
                f"{NODES_MAX} nodes: write names for *"
            )
        for node, below in zip(new, await children(self._channel, new, self._limits, OBJECTS | VARIABLES), strict=True):
            self._known[node] = below
