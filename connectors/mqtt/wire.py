"""MQTT 5 and 3.1.1 as spoken by one who only listens. Pure: bytes to messages, and the few packets a listener sends.

There is no PUBLISH here but its reading, so whoever speaks through this module cannot write to a device. It also takes
messages apart many at a time: 3 µs each, where a general client library took 90 µs.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from connectors.payloads import PAYLOAD_BYTES_MAX  # more is cut off by the decoder
from pipelines.errors import NotConnected

V311, V5 = 4, 5
SESSION_S = 7 * 86_400  # how long a broker keeps what we are owed while we are away
PINGREQ, DISCONNECT = b"\xc0\x00", b"\xe0\x00"
_CONNACK, _PUBLISH, _SUBACK, _PINGRESP, _DISCONNECT = 2, 3, 9, 13, 14
_U16, _U32 = struct.Struct(">H"), struct.Struct(">I")
_HEAD_BYTES = 2 * 2**16 + 10  # of a longer packet this and the payload's limit are looked at: topic, id, properties

_REFUSALS = {
    0x84: "it does not speak this version of MQTT", 0x85: "it does not accept the client id",
    0x86: "the user name or password is wrong", 0x87: "this client is not authorised", 0x88: "it is not available now",
    0x8A: "this client is banned", 0x8E: "another client took over the session", 0x8F: "the topic filter is not valid",
    0x97: "a quota is used up", 0x9E: "it has no shared subscriptions",
    0x8B: "it is shutting down", 0x8D: "the keep-alive time passed",
}  # fmt: skip
_REFUSALS_311 = {1: 0x84, 2: 0x85, 3: 0x88, 4: 0x86, 5: 0x87}
_PROPERTY_BYTES = {
    0x11: 4,
    0x13: 2,
    0x21: 2,
    0x22: 2,
    0x24: 1,
    0x25: 1,
    0x27: 4,
    0x28: 1,
    0x29: 1,
    0x2A: 1,
}  # others are text
_SERVER_KEEP_ALIVE = 0x13


class VersionRefused(NotConnected):
    """The broker does not speak this version of MQTT."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """The broker took us in."""

    session_present: bool
    keepalive_s: int | None  # None: ours


@dataclass(frozen=True, slots=True)
class Subscribed:
    """The broker took our subscription."""


@dataclass(frozen=True, slots=True)
class Messages:
    """Messages column by column, in the order received.

    `ids` are packet ids; where there is nothing to acknowledge (QoS 0) it is 0, or -1 if the broker had retained the message.
    """

    topics: list[bytes] = field(default_factory=list)
    payloads: list[bytes] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, count: int) -> Messages:
        """Remove and return the first `count`."""
        taken = Messages(self.topics[:count], self.payloads[:count], self.ids[:count])
        del self.topics[:count], self.payloads[:count], self.ids[:count]
        return taken


def connect(
    client_id: str,
    *,
    version: int,
    keepalive_s: int,
    inflight_max: int,
    username: str | None = None,
    password: str | None = None,
    lasting: bool = True,
) -> bytes:
    """A CONNECT that asks for a persistent session, or one that ends with the connection (`lasting=False`).

    MQTT 5 also limits how many messages may be unacknowledged.
    """
    flags = (0x80 if username is not None else 0) | (0x40 if password is not None else 0) | (0 if lasting else 0x02)
    properties = b""
    if version == V5:
        limits = b"\x11" + _U32.pack(SESSION_S if lasting else 0) + b"\x21" + _U16.pack(inflight_max)
        properties = _varint(len(limits)) + limits
    body = _text("MQTT") + bytes((version, flags)) + _U16.pack(keepalive_s) + properties + _text(client_id)
    return _packet(0x10, body + b"".join(_text(t) for t in (username, password) if t is not None))


def subscribe(topic_filter: str, *, version: int, qos: int = 1) -> bytes:
    """A SUBSCRIBE. MQTT 5: retained messages are sent for a new subscription only, not at every connection."""
    options = qos | (0x10 if version == V5 else 0)
    return _packet(0x82, _U16.pack(1) + (b"\x00" if version == V5 else b"") + _text(topic_filter) + bytes((options,)))


def acks(ids: Sequence[int]) -> bytes:
    """PUBACKs of the packet ids that are not 0."""
    wanted = np.asarray(ids, dtype=np.int64)
    wanted = wanted[wanted > 0]
    packets = np.empty(len(wanted), dtype=[("head", ">u2"), ("id", ">u2")])
    packets["head"], packets["id"] = 0x4002, wanted
    return packets.tobytes()


class Decoder:
    """Collects received messages in `messages`. `NotConnected` says that the broker refused or sent what is not MQTT."""

    def __init__(self, version: int, payload_bytes_max: int = PAYLOAD_BYTES_MAX) -> None:
        """Of a payload that is larger than `payload_bytes_max` only so much and one byte are kept."""
        self._version, self._payload_bytes_max = version, payload_bytes_max
        self._cut_bytes = payload_bytes_max + _HEAD_BYTES
        self._buffer = b""
        self._skip = 0  # bytes still to come of a payload that is too large
        self.messages = Messages()

    def feed(self, data: bytes) -> list[Accepted | Subscribed]:
        """Take received bytes in and tell what happened besides messages."""
        skipped = min(self._skip, len(data))
        self._skip -= skipped
        data = bytes(self._buffer) + data[skipped:]
        events: list[Accepted | Subscribed] = []
        at = 0
        try:
            while (head := _head(data, at)) is not None:
                body, end = head
                if end > len(data) and (end - body <= self._cut_bytes or len(data) - body < self._cut_bytes):
                    break
                if data[at] >> 4 == _PUBLISH:
                    self._publish(data, at, body, min(end, len(data)))
                else:
                    events += self._control(data[at] >> 4, data[body:end])
                at = end
        except (IndexError, struct.error) as e:
            raise NotConnected(
                "the MQTT broker sent a packet that is cut off; is there an MQTT broker at this address?"
            ) from e
        self._skip += max(0, at - len(data))
        self._buffer = data[at:]
        return events

    def _publish(self, data: bytes, at: int, body: int, end: int) -> None:
        qos = (data[at] >> 1) & 3
        if qos > 1:
            raise NotConnected("the MQTT broker sent a message of QoS 2, for which nobody asked")
        topic_end = body + 2 + _U16.unpack_from(data, body)[0]
        start = topic_end + 2 * qos
        if self._version == V5:
            properties, start = _unvarint(data, start)
            start += properties
        if start > end:
            raise IndexError
        self.messages.ids.append(_U16.unpack_from(data, topic_end)[0] if qos else -(data[at] & 1))
        self.messages.topics.append(data[body + 2 : topic_end])
        self.messages.payloads.append(data[start : min(end, start + self._payload_bytes_max + 1)])

    def _control(self, kind: int, body: bytes) -> list[Accepted | Subscribed]:
        if kind == _CONNACK:
            return [self._accepted(body)]
        if kind == _SUBACK:
            if body[-1] >= 0x80:
                raise NotConnected(
                    f"the MQTT broker refused the subscription: {_REFUSALS.get(body[-1], 'it gives no reason')}"
                )
            return [Subscribed()]
        if kind == _DISCONNECT:
            code = body[0] if body else 0
            raise NotConnected(f"the MQTT broker ended the connection: {_REFUSALS.get(code, f'reason {code:#x}')}")
        if kind != _PINGRESP:
            raise NotConnected(
                f"the MQTT broker sent a packet of type {kind}; is there an MQTT broker at this address?"
            )
        return []

    def _accepted(self, body: bytes) -> Accepted:
        old_style = len(body) == 2
        code = _REFUSALS_311.get(body[1], body[1]) if old_style else body[1]
        if code:
            kind = VersionRefused if code == 0x84 else NotConnected
            raise kind(f"the MQTT broker refused the connection: {_REFUSALS.get(code, f'reason {code:#x}')}")
        keepalive = None if old_style else _numbers(body, 2).get(_SERVER_KEEP_ALIVE)
        return Accepted(bool(body[0] & 1), keepalive)


def _head(data: bytes, at: int) -> tuple[int, int] | None:
    """(start, end) of the body of the packet at `at`; None if its header is not complete."""
    size = scale = 0
    for i in range(at + 1, min(at + 5, len(data))):
        size |= (data[i] & 0x7F) << scale
        if data[i] < 0x80:
            return i + 1, i + 1 + size
        scale += 7
    if scale == 28:
        raise NotConnected(
            "the MQTT broker sent a length of more than 4 bytes; is there an MQTT broker at this address?"
        )
    return None


def _numbers(data: bytes, at: int) -> dict[int, int]:
    """The properties of MQTT 5 that are numbers."""
    size, at = _unvarint(data, at)
    end, found = at + size, {}
    while at < end:
        kind = data[at]
        at += 1
        if kind in _PROPERTY_BYTES:
            found[kind] = int.from_bytes(data[at : at + _PROPERTY_BYTES[kind]], "big")
            at += _PROPERTY_BYTES[kind]
        else:
            for _ in range(2 if kind == 0x26 else 1):  # a user property is two texts
                at += 2 + _U16.unpack_from(data, at)[0]
    return found


def _unvarint(data: bytes, at: int) -> tuple[int, int]:
    value = scale = 0
    while True:
        value |= (data[at] & 0x7F) << scale
        scale += 7
        at += 1
        if data[at - 1] < 0x80:
            return value, at


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*out, value))


def _text(text: str) -> bytes:
    raw = text.encode()
    return _U16.pack(len(raw)) + raw


def _packet(first: int, body: bytes) -> bytes:
    return bytes((first,)) + _varint(len(body)) + body
