"""A pipeline file to begin with, for what was heard. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

from connectors.mqtt.connection import Connection
from connectors.mqtt.discover import Found
from connectors.mqtt.levels import ANY
from connectors.mqtt.spb_survey import TYPES, Kind
from connectors.mqtt.streams import COLUMN_LEVEL, COLUMNS_MAX, Column, Stream
from connectors.naming import ABSENT, NO_COLUMN, NO_NAME, camel, column_names, first_few, snake, unique

UNCLEAR_MAX = 100  # told of in the file
SILENCE_S = 2.0  # what a source supposes


def pipeline_file(found: Found, connection: Connection) -> str:
    """The text of the file."""
    taken = {"mqtt", *NO_NAME}
    account = _account(connection)
    parts = [_head(found, connection)]
    if found.streams or found.sparkplug:
        parts.append('discovered = Pipeline("discovered")\n')
    parts += [_stream(s, found, account, taken) for s in found.streams]
    parts += [_sparkplug(kind, found, account, taken) for kind in found.sparkplug]
    if found.unclear:
        lines = [f"#   {_comment(u.topic)} ({u.topics} topics): {_comment(u.why)}" for u in found.unclear[:UNCLEAR_MAX]]
        more = len(found.unclear) - UNCLEAR_MAX
        lines += [f"#   … and {more} more"] if more > 0 else []
        parts.append("\n".join(["# Not understood:", *lines, ""]))
    return "\n\n".join(parts)


def _head(found: Found, connection: Connection) -> str:
    devices = sum(len(s.devices) for s in found.streams) + sum(len(k.devices) for k in found.sparkplug)
    notes = "".join(f"\n{_comment(note)}.\n" for note in found.notes)
    secrets = connection.password or connection.ca or connection.certificate
    imported = "from connectors.secrets import secret\n" if secrets else ""
    return (
        f'"""What {_comment(found.broker)} said in {found.seconds:.3g} s: {found.topics:,} topics, {devices:,} devices.\n\n'
        f'A start: name things, leave out, add.\n{notes}"""\n\n'
        f"from connectors import mqtt, topic\n{imported}"
        "from pipelines import Col, Key, Pipeline, Schema, agg, tumbling\n"
    )


def _account(connection: Connection) -> list[str]:
    """The options of a source that say as whom the broker is spoken to. Secrets are named as their files are."""
    lines = [f"broker={connection.broker!r},"]
    lines += [f"username={connection.username!r},"] if connection.username else []
    for name in ("password", "ca", "certificate", "private_key"):
        given = getattr(connection, name)
        if given is not None:
            lines.append(f"{name}=secret({given.name.rpartition('/')[2].lstrip('.')!r}),")
    return lines + ([f"version={connection.version!r},"] if connection.version != "auto" else [])


def _stream(stream: Stream, found: Found, account: Sequence[str], taken: set[str]) -> str:
    held = stream.content
    literal = [n for n in stream.levels if n != ANY]
    short = camel(literal[-1]) if literal else "Device"
    name = unique(camel("_".join(literal)) if short in taken else short, taken)
    columns, more = stream.columns[:COLUMNS_MAX], stream.columns[COLUMNS_MAX:]
    reserved = {f.path for f in (held.time, held.key) if f is not None}
    names = column_names([c.name for c in columns], set(NO_COLUMN) | reserved)
    if COLUMN_LEVEL in stream.topic:  # which names them
        names = {c.name: c.name[-1] for c in columns}
    lines = [f"class {name}(Schema):", f"    device = Key[str]()  # {_comment(first_few(stream.devices))}"]
    lines += [_column(names[c.name], c, absent=c.absent and len(columns) > 1) for c in columns]
    lines += [f"    # {_comment('.'.join(c.name))}: {_comment(c.example)}" for c in more]
    lines += [f"    # {_comment(f.path)}: {f.why}" for f in held.without]
    fields = {names[c.name]: c.path for c in columns if c.path is not None and c.path != names[c.name]}
    payload = stream.payload
    if payload.startswith("csv:"):
        fields = {n: p for n, p in fields.items() if p in payload.removeprefix("csv:").split(",")}
    options = [*account, f"topic={stream.topic!r},", *_of_payload(stream), *_silence(stream)]
    if fields:
        options += ["fields={", *(f"    {name}.{column}: {path!r}," for column, path in fields.items()), "},"]
    notes = [f"# {len(stream.topics):,} topics, {stream.per_s:.3g} readings/s, such as {_comment(stream.example)}"]
    notes += [f"# {_comment(note)}" for note in stream.notes]
    floats = [names[c.name] for c in columns if c.type == "float"]
    return "\n".join([*lines, "", "", *notes, *_read("source", name, options, floats, taken)])


def _of_payload(stream: Stream) -> list[str]:
    held = stream.content
    lines = [] if stream.payload == "json" else [f"payload={stream.payload!r},"]
    lines += [f"key={held.key.path!r},"] if held.key is not None else []
    if held.time is not None:
        lines += [] if held.time.path == "time" else [f"time={held.time.path!r},"]
        lines += [] if held.time_unit == "iso" else [f"time_unit={held.time_unit!r},"]
    elif stream.payload[0] not in "<>" and stream.payload != "number":
        lines.append("time=None,  # that of arrival")
    if held.rows is not None and not stream.payload.startswith("csv:"):
        lines.append(f"rows={held.rows!r},")
    return lines


def _silence(stream: Stream) -> list[str]:
    """How long the fleet may say nothing, if it often says nothing for longer than a source supposes."""
    if stream.per_s <= 0 or 3 / stream.per_s <= SILENCE_S:
        return []
    return [f'silence="{math.ceil(3 / stream.per_s)}s",']


def _read(function: str, name: str, options: Sequence[str], floats: Sequence[str], taken: set[str]) -> list[str]:
    """The source, and a window of it."""
    variable, minute = unique(snake(name), taken), unique(f"{name}Minute", taken)
    count = unique("n", set(floats))
    source = [f"{variable} = discovered.read(", f"    mqtt.{function}(", f"        {name},"]
    source += [*(f"        {option}" for option in options), "    )", ")", "", ""]
    window = [
        f"class {minute}(Schema):",
        *(f"    {c} = agg.mean({name}.{c})" for c in floats),
        f"    {count} = agg.count()",
    ]
    return [
        *source,
        *window,
        "",
        "",
        f'{variable}.window(tumbling("1m", late="10s"), {minute}).to(topic.results())',
        "",
    ]


def _column(name: str, column: Column, *, absent: bool) -> str:
    arguments = ", ".join(
        a for a in (repr(column.unit) if column.unit else "", ABSENT[column.type] if absent else "") if a
    )
    return (
        f"    {name} = Col[{column.type}]({arguments})  # {_comment('.'.join(column.name))}: {_comment(column.example)}"
    )


def _sparkplug(kind: Kind, found: Found, account: Sequence[str], taken: set[str]) -> str:
    groups, metrics = sorted({group for group, _, _ in kind.devices}), kind.metrics
    usable = {n: m for n, m in metrics.items() if m[0] in TYPES}
    shown = list(usable)[:COLUMNS_MAX]
    names = column_names([tuple(n.split("/")) for n in shown], set(NO_COLUMN))
    devices = sorted("/".join(n for n in name if n) for name in kind.devices)
    name = unique(camel(groups[0]) if len(groups) == 1 else "Sparkplug", taken)
    lines = [f"class {name}(Schema):", f"    device = Key[str]()  # {_comment(first_few(devices))}"]
    for metric in shown:
        datatype, unit, count = usable[metric]
        few = count < len(devices)
        said = f"in {count} of {len(devices)}" if few else f"datatype {datatype}"
        column = Column((metric,), TYPES[datatype], unit, None, few, said)
        lines.append(_column(names[tuple(metric.split("/"))], column, absent=few))
    lines += [f"    # {_comment(n)}: datatype {metrics[n][0]} has no column" for n in metrics if n not in usable]
    lines += [f"    # {_comment(n)}" for n in list(usable)[COLUMNS_MAX:]]
    fields = {names[tuple(n.split("/"))]: n for n in shown if names[tuple(n.split("/"))] != n}
    options = [*account, *([f"group={groups[0]!r},"] if len(groups) == 1 else [])]
    if fields:
        options += ["fields={", *(f"    {name}.{column}: {metric!r}," for column, metric in fields.items()), "},"]
    per_s = sum(edge.data for edge in kind.devices.values()) / found.seconds
    unborn = [d for d in kind.devices if d in found.unborn]
    notes = [f"# {per_s:.3g} messages/s"]
    notes += (
        [f"# {len(unborn)} of them were not born while they were listened to: there may be more metrics"]
        if unborn
        else []
    )
    floats = [names[tuple(n.split("/"))] for n in shown if TYPES[usable[n][0]] == "float"]
    return "\n".join([*lines, "", "", *notes, *_read("sparkplug", name, options, floats, taken)])


def _comment(text: str) -> str:
    """Text that can stand in a comment or a docstring."""
    return "".join(c if c.isprintable() else " " for c in text).replace("\\", "/").replace('"""', "'''")
