"""Looks at what an OPC UA server has, and writes a pipeline file to begin with.

Variables that repeat below sibling objects become columns, and those objects devices.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from asyncua import ua

from connectors.naming import ABSENT, NO_COLUMN, NO_NAME, camel, column_names, first_few, snake, unique
from connectors.opcua.browse import OBJECTS, VARIABLES, Child, Limits, batches, children
from connectors.opcua.channel import Channel

DEPTH_MAX = 8
NODES_MAX = 10_000
_OBJECTS = ua.NodeId(ua.Int32(85))
_SERVER = ua.NodeId(ua.Int32(2253))  # about the server itself
_TYPES = {1: "bool", **dict.fromkeys(range(2, 10), "int"), 10: "float", 11: "float", 12: "str"}
_UNWRITABLE = re.compile(r"[/*{}]|^\d+:")


@dataclass(frozen=True)
class Variable:
    """A variable and the names on the way to it, from the Objects folder on."""

    path: tuple[str, ...]
    node: Any


@dataclass
class Column:
    """The same variable of several devices."""

    path: tuple[str, ...]  # below the device
    devices: dict[str, Any]  # a node for each
    type: str = ""  # Python's; '' if it is no scalar
    unit: str = ""
    kind: str = ""  # what the server calls its type


@dataclass
class Group:
    """Devices of one kind: the objects below one."""

    parent: tuple[str, ...]  # '*' where several have the same below them
    columns: list[Column] = field(default_factory=list)

    @property
    def devices(self) -> set[str]:
        """The names of all."""
        return {d for c in self.columns for d in c.devices}


@dataclass(frozen=True)
class Found:
    """What was seen."""

    groups: list[Group]
    alone: list[
        Variable
    ]  # variables that hang below no object that could be a device, or whose names cannot stand in a path
    cut: bool  # whether there is more than was looked at


async def look(channel: Channel, *, depth_max: int = DEPTH_MAX, nodes_max: int = NODES_MAX) -> Found:
    """Browse a server down to `depth_max` levels and `nodes_max` nodes; types and units are those of one device of each kind."""
    limits = await Limits.of(channel)
    variables, cut = await _walk(channel, limits, depth_max, nodes_max)
    groups, alone = grouped(variables)
    for group in groups:
        await _describe(channel, limits, group.columns)
    return Found(groups, alone, cut)


async def _walk(channel: Channel, limits: Limits, depth_max: int, nodes_max: int) -> tuple[list[Variable], bool]:
    here: list[tuple[tuple[str, ...], Any]] = [((), _OBJECTS)]
    variables: list[Variable] = []
    seen = {_OBJECTS, _SERVER}
    for _ in range(depth_max):
        below = await children(channel, [node for _, node in here], limits, OBJECTS | VARIABLES)
        steps: list[tuple[tuple[str, ...], Child]] = []
        for (path, _), found in zip(here, below, strict=True):
            steps += [((*path, child.name), child) for child in found if child.node not in seen]
        here = []
        for path, child in steps:
            if child.node in seen:
                continue
            if len(seen) >= nodes_max:
                return variables, True
            seen.add(child.node)
            if child.is_variable:
                variables.append(Variable(path, child.node))
            else:
                here.append((path, child.node))
        if not here:
            return variables, False
    return variables, True


def grouped(variables: Sequence[Variable]) -> tuple[list[Group], list[Variable]]:
    """(groups, what fits into none). Pure.

    A variable could belong to each object on the way to it; the one counts whose siblings most often have the same variable.
    """
    alone = [v for v in variables if len(v.path) < 2 or any(_UNWRITABLE.search(name) for name in v.path)]
    left = [v for v in variables if v not in set(alone)]
    siblings: dict[tuple[tuple[str, ...], tuple[str, ...]], dict[str, Variable]] = defaultdict(dict)
    for v in left:
        for level in range(len(v.path) - 1):
            siblings[v.path[:level], v.path[level + 1 :]][v.path[level]] = v
    groups: dict[tuple[str, ...], dict[tuple[str, ...], dict[str, Any]]] = defaultdict(lambda: defaultdict(dict))
    for v in left:
        counts = [len(siblings[v.path[:level], v.path[level + 1 :]]) for level in range(len(v.path) - 1)]
        most = max(counts)
        level = counts.index(most) if most > 1 else len(counts) - 1
        groups[v.path[:level]][v.path[level + 1 :]][v.path[level]] = v.node
    made = [Group(parent, [Column(path, dict(d)) for path, d in columns.items()]) for parent, columns in groups.items()]
    return _merged(made), alone


def _merged(groups: Iterable[Group]) -> list[Group]:
    """Groups of the same columns at the same depth, with no device in common, are one below '*'."""
    merged: list[Group] = []
    for group in groups:
        paths = {c.path for c in group.columns}
        for other in merged:
            same = paths == {c.path for c in other.columns} and len(group.parent) == len(other.parent)
            if same and not group.devices & other.devices:
                other.parent = tuple(a if a == b else "*" for a, b in zip(other.parent, group.parent, strict=True))
                mine = {c.path: c.devices for c in group.columns}
                for column in other.columns:
                    column.devices |= mine[column.path]
                break
        else:
            merged.append(group)
    return merged


async def _describe(channel: Channel, limits: Limits, columns: Sequence[Column]) -> None:
    """Fill in types and units, as one device of each has them."""
    nodes = [next(iter(c.devices.values())) for c in columns]
    properties = await children(channel, nodes, limits, VARIABLES)
    units = [next((p.node for p in found if p.name == "EngineeringUnits"), None) for found in properties]
    asked = [*nodes, *(u for u in units if u is not None)]
    values: list[Any] = []
    for some in batches(asked, limits.reads):
        request = ua.ReadRequest()
        request.Parameters.NodesToRead = [ua.ReadValueId(NodeId=n, AttributeId=ua.AttributeIds.Value) for n in some]
        values += (await channel.call(request, ua.ReadResponse)).Results
    texts = iter(values[len(nodes) :])
    for column, value, unit in zip(columns, values, units, strict=False):
        column.type, column.kind = _type(value)
        column.unit = _unit(next(texts)) if unit is not None else ""


def _type(value: Any) -> tuple[str, str]:
    held = value.Value
    if held is None or held.Value is None:
        return "float", "no value yet"
    kind = held.VariantType.name if hasattr(held.VariantType, "name") else str(held.VariantType)
    if held.is_array:
        return "", f"array of {kind}"
    return _TYPES.get(held.VariantType.value, ""), kind


def _unit(value: Any) -> str:
    information = value.Value.Value if value.Value is not None else None
    name = getattr(information, "DisplayName", None)
    return str(getattr(name, "Text", None) or "")


# The file


def pipeline_file(server: str, found: Found) -> str:
    """A pipeline file to begin with, for what was found. Pure."""
    usable = [g for g in found.groups if any(c.type for c in g.columns)]
    taken = {"opcua", *NO_NAME}
    parts = [_head(server, found)]
    if usable:
        parts.append('discovered = Pipeline("discovered")\n')
        parts += [_group(server, group, taken) for group in usable]
    if found.alone:
        parts.append(
            "".join(
                ["# Not part of any device:\n", *(f"#   {'/'.join(('Objects', *v.path))!r}\n" for v in found.alone)]
            )
        )
    return "\n\n".join(parts)


def _head(server: str, found: Found) -> str:
    devices = sum(len(g.devices) for g in found.groups)
    cut = (
        "\nNot all was looked at: the server has more levels or nodes than the search goes through.\n"
        if found.cut
        else ""
    )
    seen = f"What {server.replace(chr(34), '')} had when it was looked at: {devices} devices."
    return (
        f'"""{seen} A start: name things, leave out, add.\n{cut}"""\n\n'
        "from connectors import opcua, topic\nfrom pipelines import Col, Key, Pipeline, Schema, agg, tumbling\n"
    )


def _group(server: str, group: Group, taken: set[str]) -> str:
    name = unique(camel(next((p for p in reversed(group.parent) if p != "*"), "Device")), taken)
    variable = unique(snake(name), taken)
    names = column_names([c.path for c in group.columns], set(NO_COLUMN))
    where = "/".join(("Objects", *group.parent, "{device}"))
    lines = [f"class {name}(Schema):", "    device = Key[str]()  # " + first_few(sorted(group.devices))]
    lines += [_column(names[c.path], c, len(group.devices)) for c in group.columns]
    usable = [c for c in group.columns if c.type]
    lines += [
        "",
        "",
        f"{variable} = discovered.read(",
        "    opcua.source(",
        f"        {name},",
        f"        server={server!r},",
        "        nodes={",
    ]
    lines += [f"            {name}.{names[c.path]}: {'/'.join((where, *c.path))!r}," for c in usable]
    lines += [
        "        },",
        '        every="1s",  # publishing interval',
        '        sampling="500ms",  # how often the server looks at its nodes',
    ]
    floats = [names[c.path] for c in usable if c.type == "float"]
    if floats:
        lines += [f"        # deadband={{{name}.{floats[0]}: 0.1}},  # smaller changes are not told"]
    lines += ["    )", ")", "", "", f"class {name}Minute(Schema):"]
    lines += [f"    {column} = agg.mean({name}.{column})" for column in floats] + [
        f"    {unique('n', set(floats))} = agg.count()"
    ]
    lines += ["", "", f'{variable}.window(tumbling("1m", late="10s"), {name}Minute).to(topic.results())', ""]
    return "\n".join(lines)


def _column(name: str, column: Column, devices: int) -> str:
    said = "/".join(column.path)
    few = "" if len(column.devices) == devices else f", {len(column.devices)} of {devices} devices"
    if not column.type:
        return f"    # {name}: {said!r} is of a type that no column has ({column.kind}{few})"
    absent = ABSENT[column.type] if few else ""
    arguments = ", ".join(a for a in (repr(column.unit) if column.unit else "", absent) if a)
    return f"    {name} = Col[{column.type}]({arguments})  # {said!r} ({column.kind}{few})"
