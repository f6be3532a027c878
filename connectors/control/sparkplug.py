"""What a Sparkplug B edge node hears when it is asked to be born again, and where. Pure.

Sparkplug 3.0, chapter 6 (NCMD) and its protobuf schema. The payload is always the same but for the time, so it is written here
and not by the library for protobuf, which the image of control does without.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from connectors.control.commands import EDGE
from connectors.control.devices import Devices

QOS = 0  # as the specification has it
_NAME = b"Node Control/Rebirth"
_BIRTH = re.compile(r"spBv1\.0/([^/]+)/NBIRTH/([^/]+)")
_BOOLEAN = 11


def command_topic(device: str) -> str:
    """Where an edge node, 'group/node', hears."""
    group, _, node = device.partition(EDGE)
    return f"spBv1.0/{group}/NCMD/{node}"


def filters(devices: Devices | None) -> list[str]:
    """The MQTT subscriptions that hear the births of the nodes that may be asked."""
    groups = {p.partition(EDGE)[0] for p in _patterns(devices)}
    return sorted({f"spBv1.0/{'+' if set('*?[') & set(group) else group}/NBIRTH/+" for group in groups})


def born(topic: str) -> str:
    """The edge node, 'group/node', whose birth a topic has; empty if it is none of a birth."""
    found = _BIRTH.fullmatch(topic)
    return EDGE.join(found.groups()) if found else ""


def _patterns(devices: Devices | None) -> Iterator[str]:
    for profile in devices.profiles.values() if devices else ():
        yield from profile.devices if profile.sparkplug else ()


def rebirth(time_ns: int) -> bytes:
    """The payload with `Node Control/Rebirth` = true."""
    stamp = _varint(time_ns // 10**6)
    metric = b"\x0a%c%b\x18%b\x20%c\x70\x01" % (
        len(_NAME),
        _NAME,
        stamp,
        _BOOLEAN,
    )  # name, timestamp, datatype, boolean_value
    return b"\x08%b\x12%c%b" % (stamp, len(metric), metric)  # timestamp, metrics


def _varint(number: int) -> bytes:
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*found, number])
