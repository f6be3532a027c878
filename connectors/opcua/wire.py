"""What a Publish brings: bytes -> columns. Pure.

Notifications that are laid out alike stand at equal distances, so a run of them is read as one numpy array; values that have no
fixed size are read one by one. OPC UA part 6 (binary encoding) and part 4, 5.14.5 (Publish), 7.25 (notifications).
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from pipelines.batch import Times
from pipelines.errors import BadData

NOTIFICATIONS_MAX = 1_000_000  # in one message
_FIXED = {
    1: "u1",
    2: "i1",
    3: "u1",
    4: "<i2",
    5: "<u2",
    6: "<i4",
    7: "<u4",
    8: "<i8",
    9: "<u8",
    10: "<f4",
    11: "<f8",
    13: "<i8",
}
BOOL, INTS, FLOATS, TEXT, NONE, OTHER = 1, (2, 3, 4, 5, 6, 7, 8, 9), (10, 11), 12, 0, 255
NAMES = {
    1: "Boolean",
    10: "Float",
    11: "Double",
    12: "String",
    13: "DateTime",
    0: "null",
    255: "a value that is no scalar",
}
_VALUE, _STATUS, _SOURCE, _SERVER, _SOURCE_PICO, _SERVER_PICO = 1, 2, 4, 8, 16, 32
_EPOCH = 116_444_736_000_000_000  # 1970 in ticks of 100 ns since 1601
_TICKS_MAX = 2**62 // 100
_DATA, _STATUS_CHANGE = 811, 820  # encodings of DataChangeNotification and StatusChangeNotification
_RUN = 64
STATUS_OVERFLOW = 0x480  # InfoType DataValue with the bit Overflow: the server's queue dropped what came before
_INFO_BITS = 0x0C80


@dataclass(frozen=True)
class Notifications:
    """Values that changed, in the order of arrival; every array has the shape `(n,)`."""

    handles: npt.NDArray[np.uint32]
    kinds: npt.NDArray[np.uint8]  # number of the built-in type, 0 for none, 255 for what is no scalar
    numbers: npt.NDArray[np.float64]  # NaN where the value is no number
    wholes: npt.NDArray[np.int64]  # exact where the value is a whole number below 2**63
    status: npt.NDArray[np.uint32]
    times: Times  # ns of the source, else of the server; 0 if there is neither
    texts: dict[int, str] = field(default_factory=dict)  # by position

    def __len__(self) -> int:
        return len(self.handles)

    @property
    def overflows(self) -> int:
        """How many say that the server had to drop values before them."""
        return int(((self.status & _INFO_BITS) == STATUS_OVERFLOW).sum())

    @classmethod
    def joined(cls, parts: list[Notifications]) -> Notifications:
        """Several, one after the other."""
        texts: dict[int, str] = {}
        start = 0
        for part in parts:
            texts |= {start + i: text for i, text in part.texts.items()}
            start += len(part)
        columns = {
            name: np.concatenate([getattr(p, name) for p in parts]) if parts else empty
            for name, empty in _EMPTY.items()
        }
        return cls(**columns, texts=texts)


_EMPTY: dict[str, Any] = {
    "handles": np.empty(0, np.uint32), "kinds": np.empty(0, np.uint8), "numbers": np.empty(0), "wholes": np.empty(0, np.int64),
    "status": np.empty(0, np.uint32), "times": np.empty(0, np.int64),
}  # fmt: skip


@dataclass(frozen=True)
class Published:
    """A response to Publish or Republish, after its header."""

    subscription: int
    available: tuple[int, ...]  # sequence numbers that the server still keeps
    more: bool
    sequence: int
    data: Notifications
    ended: int | None = None  # the subscription's last status, if it has ended
    keep_alive: bool = False


class _Bytes:
    """Reads little-endian values one after the other; `BadData` at the end."""

    def __init__(self, data: bytes, at: int = 0) -> None:
        self.data, self.at = data, at

    def take(self, layout: struct.Struct) -> Any:
        try:
            (value,) = layout.unpack_from(self.data, self.at)
        except struct.error:
            _cut()
        self.at += layout.size
        return value

    def skip(self, count: int) -> bytes:
        if count < 0 or self.at + count > len(self.data):
            _cut()
        self.at += count
        return self.data[self.at - count : self.at]

    def text(self) -> bytes | None:
        size = self.take(_I4)
        return None if size == -1 else self.skip(size)


def _cut() -> NoReturn:
    raise BadData("the server's message is cut short, or is none of OPC UA", reason="not_opcua")


_U1, _U4, _I4, _I8 = (struct.Struct(f"<{c}") for c in "BIiq")


def published(body: bytes) -> Published:
    """The parameters of a PublishResponse; `BadData` if that is not what the bytes are."""
    reader = _Bytes(body)
    subscription = reader.take(_U4)
    available = _numbers(reader)
    more = bool(reader.take(_U1))
    return _message(reader, subscription, available, more)


def republished(body: bytes, subscription: int) -> Published:
    """The parameters of a RepublishResponse; `BadData` if that is not what the bytes are."""
    return _message(_Bytes(body), subscription, (), False)


def _numbers(reader: _Bytes) -> tuple[int, ...]:
    count = reader.take(_I4)
    return struct.unpack(f"<{count}I", reader.skip(4 * count)) if count > 0 else ()


def _message(reader: _Bytes, subscription: int, available: tuple[int, ...], more: bool) -> Published:
    sequence = reader.take(_U4)
    reader.take(_I8)  # when it was published
    parts, ended = [], None
    count = reader.take(_I4)
    for _ in range(count):
        kind, content = _extension(reader)
        if kind == _DATA:
            parts.append(_data_change(content))
        elif kind == _STATUS_CHANGE:
            ended = _Bytes(content).take(_U4)
    return Published(subscription, available, more, sequence, Notifications.joined(parts), ended, count <= 0)


def _extension(reader: _Bytes) -> tuple[int, bytes]:
    form = reader.take(_U1)
    size = {0: 1, 1: 3, 2: 6}.get(form)
    if size is None:
        raise BadData(f"the server sent a notification of a type in form {form}", reason="not_opcua")
    raw = reader.skip(size)
    kind = int.from_bytes(raw[{0: 0, 1: 1, 2: 2}[form] :], "little")
    return kind, (reader.text() or b"") if reader.take(_U1) == 1 else b""


def _data_change(content: bytes) -> Notifications:
    reader = _Bytes(content)
    count = reader.take(_I4)
    if count > NOTIFICATIONS_MAX or count * 5 > len(content):  # none has less than five bytes
        _cut()
    parts: list[Notifications] = []
    while count > 0:
        part = _run(reader, count)
        parts.append(part)
        count -= len(part)
    return Notifications.joined(parts)


def _run(reader: _Bytes, count: int) -> Notifications:
    """The next notifications that are laid out alike."""
    data, at = reader.data, reader.at
    if at + 6 > len(data):
        _cut()
    mask = data[at + 4]
    kind = data[at + 5] if mask & _VALUE else NONE
    if kind != NONE and kind not in _FIXED:
        return _one(reader, kind)
    layout = _layout(mask, kind)
    fits = (len(data) - at) // layout.itemsize
    if not fits:
        _cut()
    length, most = 0, min(count, fits)
    alike = np.empty(0, layout)
    while length == len(alike) < most:  # look further only if all so far are alike
        alike = np.frombuffer(data, layout, min(most, max(_RUN, 4 * len(alike))), at)
        same = alike["mask"] == mask
        if mask & _VALUE:
            same &= alike["kind"] == kind
        length = len(alike) if same.all() else int(same.argmin())
    reader.skip(length * layout.itemsize)
    return _columns(alike[:length], kind)


@functools.cache
def _layout(mask: int, kind: int) -> np.dtype[Any]:
    fields: list[tuple[str, str]] = [("handle", "<u4"), ("mask", "u1")]
    if mask & _VALUE:
        fields.append(("kind", "u1"))
        if kind != NONE:
            fields.append(("value", _FIXED[kind]))
    optional = (
        (_STATUS, "status", "<u4"), (_SOURCE, "source", "<i8"), (_SOURCE_PICO, "source_pico", "<u2"),
        (_SERVER, "server", "<i8"), (_SERVER_PICO, "server_pico", "<u2"),
    )  # fmt: skip
    return np.dtype(fields + [(name, form) for bit, name, form in optional if mask & bit])


def _columns(run: npt.NDArray[Any], kind: int) -> Notifications:
    names = run.dtype.names or ()
    count = len(run)
    numbers, wholes = np.full(count, np.nan), np.zeros(count, np.int64)
    if "value" in names:
        value = run["value"]
        if kind != 13:
            numbers = value.astype(np.float64)
        if kind in INTS or kind == BOOL:
            wholes = value.astype(np.int64)
    status = run["status"].astype(np.uint32) if "status" in names else np.zeros(count, np.uint32)
    times = _times(run["source"]) if "source" in names else np.zeros(count, np.int64)
    if "server" in names:
        times = np.where(times == 0, _times(run["server"]), times)
    return Notifications(
        run["handle"].astype(np.uint32), np.full(count, kind, np.uint8), numbers, wholes, status, times
    )


def _times(ticks: npt.NDArray[Any]) -> Times:
    """ns since 1970; 0 where no time is said, and no overflow whatever is."""
    since = np.clip(np.maximum(ticks.astype(np.int64), 0) - _EPOCH, -_TICKS_MAX, _TICKS_MAX)
    return np.where(ticks <= 0, 0, since * 100)


def _one(reader: _Bytes, kind: int) -> Notifications:
    """One notification whose value has no fixed size."""
    handle, mask = reader.take(_U4), reader.take(_U1)
    texts: dict[int, str] = {}
    if kind == TEXT:
        reader.skip(1)
        raw = reader.text()
        kind = NONE if raw is None else TEXT
        texts = {} if raw is None else {0: raw.decode(errors="replace")}
    else:
        _skip_variant(reader)
        kind = OTHER
    status = reader.take(_U4) if mask & _STATUS else 0
    source = reader.take(_I8) if mask & _SOURCE else 0
    reader.skip(2 if mask & _SOURCE_PICO else 0)
    server = reader.take(_I8) if mask & _SERVER else 0
    reader.skip(2 if mask & _SERVER_PICO else 0)
    times = _times(np.array([source or server], np.int64))
    return Notifications(
        np.array([handle], np.uint32), np.array([kind], np.uint8), np.array([np.nan]), np.zeros(1, np.int64),
        np.array([status], np.uint32), times, texts,
    )  # fmt: skip


# What is no number and no text is not used, but what stands after it is: so it must be known where it ends.

_SIZES = {**{kind: np.dtype(form).itemsize for kind, form in _FIXED.items()}, 14: 16, 19: 4}
_NODE_IDS = {0: 1, 1: 3, 2: 6, 4: 18}
_DEPTH_MAX = 8


def _skip_variant(reader: _Bytes, depth: int = 0) -> None:
    encoding = reader.take(_U1)
    kind, array, dimensions = encoding & 0x3F, encoding & 0x80, encoding & 0x40
    count = max(reader.take(_I4), 0) if array else 1
    if kind in _SIZES:
        reader.skip(count * _SIZES[kind])
    elif kind != NONE:
        for _ in range(count):
            _skip(reader, kind, depth + 1)
    if dimensions:
        reader.skip(4 * max(reader.take(_I4), 0))


def _skip(reader: _Bytes, kind: int, depth: int) -> None:
    if depth > _DEPTH_MAX:
        raise BadData(f"the server sent a value that is nested more than {_DEPTH_MAX} deep", reason="not_opcua")
    if kind in _SIZES:
        reader.skip(_SIZES[kind])
    elif kind in (17, 18):
        _skip_node_id(reader)
    elif kind == 20:  # QualifiedName
        reader.skip(2)
        reader.text()
    elif kind == 21:  # LocalizedText
        parts = reader.take(_U1)
        for _ in range((parts & 1) + (parts >> 1 & 1)):
            reader.text()
    elif kind == 22:  # ExtensionObject
        _skip_node_id(reader)
        if reader.take(_U1):
            reader.text()
    elif kind == 23:  # DataValue
        _skip_data_value(reader, depth)
    elif kind == 24:
        _skip_variant(reader, depth)
    elif kind == 25:
        _skip_diagnostics(reader, depth)
    elif kind in (12, 15, 16) or kind > 25:  # String, ByteString, XmlElement, and what is to be taken for a ByteString
        reader.text()


def _skip_node_id(reader: _Bytes) -> None:
    form = reader.take(_U1)
    if form & 0x3F in _NODE_IDS:
        reader.skip(_NODE_IDS[form & 0x3F])
    else:
        reader.skip(2)
        reader.text()
    if form & 0x80:
        reader.text()
    if form & 0x40:
        reader.skip(4)


def _skip_data_value(reader: _Bytes, depth: int) -> None:
    mask = reader.take(_U1)
    if mask & _VALUE:
        _skip_variant(reader, depth)
    for bit, size in ((_STATUS, 4), (_SOURCE, 8), (_SOURCE_PICO, 2), (_SERVER, 8), (_SERVER_PICO, 2)):
        reader.skip(size if mask & bit else 0)


def _skip_diagnostics(reader: _Bytes, depth: int) -> None:
    mask = reader.take(_U1)
    reader.skip(4 * (mask & 0x0F).bit_count())
    if mask & 0x10:
        reader.text()
    if mask & 0x20:
        reader.skip(4)
    if mask & 0x40:
        _skip(reader, 25, depth + 1)


def kind_name(kind: int) -> str:
    """How a message calls a built-in type."""
    return NAMES.get(kind, f"an integer of type {kind}" if kind in INTS else f"type {kind}")


def positions(texts: dict[int, str], rows: npt.NDArray[Any]) -> Iterator[tuple[int, str]]:
    """(index within `rows`, text) of those rows that have one."""
    if texts:
        yield from ((i, texts[int(row)]) for i, row in enumerate(rows) if int(row) in texts)
