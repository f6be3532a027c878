"""Messages of Protobuf -> columns, with descriptors from a file; those of a registry are in test_kafka_registry.py."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import timestamp_pb2, wrappers_pb2
from google.protobuf.descriptor_pb2 import FieldDescriptorProto as F
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors import kafka
from connectors.kafka import protobuf
from connectors.kafka.codec import Codec
from pipelines.errors import ConfigError
from pipelines.ports import Surroundings
from tests.connectors.test_kafka_avro import ABSENT, COLUMNS, TAKEN_MS, Any4, decoded

_KINDS: dict[str, tuple[int, st.SearchStrategy[Any], str]] = {
    "d": (F.TYPE_DOUBLE, st.floats(allow_nan=False, allow_infinity=False), "float"),
    "f": (F.TYPE_FLOAT, st.floats(width=32, allow_nan=False, allow_infinity=False), "float"),
    "i32": (F.TYPE_INT32, st.integers(-(2**31), 2**31 - 1), "int"),
    "s64": (F.TYPE_SINT64, st.integers(-(2**63), 2**63 - 1), "int"),
    "u32": (F.TYPE_FIXED32, st.integers(0, 2**32 - 1), "float"),
    "u64": (F.TYPE_UINT64, st.integers(0, 2**63 - 1), "int"),
    "big": (F.TYPE_FIXED64, st.integers(0, 2**64 - 1), "float"),
    "flag": (F.TYPE_BOOL, st.booleans(), "bool"),
    "word": (F.TYPE_STRING, st.text(max_size=8), "text"),
    "state": (F.TYPE_ENUM, st.sampled_from([0, 1, 5]), "text"),
}


def _field(message: Any, name: str, kind: int, number: int, **more: Any) -> None:
    message.field.add(name=name, number=number, type=kind, label=more.pop("label", F.LABEL_OPTIONAL), **more)


def _fill(message: Any, package: str = "plant") -> None:
    """A field of each kind, and with `o_` before its name one that may be absent; and two of which one is there at most."""
    message.oneof_decl.add(name="one")
    _field(message, "one_d", F.TYPE_DOUBLE, 201, oneof_index=0)
    _field(message, "one_s", F.TYPE_STRING, 202, oneof_index=0)
    for number, (name, (kind, _, _)) in enumerate(_KINDS.items(), 1):
        more: dict[str, Any] = {"type_name": f".{package}.State"} if kind == F.TYPE_ENUM else {}
        _field(message, name, kind, number, **more)
        message.oneof_decl.add(name=f"_o_{name}")
        more |= {"proto3_optional": True, "oneof_index": len(message.oneof_decl) - 1}
        _field(message, f"o_{name}", kind, number + 100, **more)


def meter_file() -> FileDescriptorProto:
    file = FileDescriptorProto(name="meter.proto", package="plant", syntax="proto3")
    file.dependency.extend(["google/protobuf/timestamp.proto", "google/protobuf/wrappers.proto"])
    state = file.enum_type.add(name="State")
    for name, number in (("OFF", 0), ("ON", 1), ("FAULT", 5)):
        state.value.add(name=name, number=number)
    reading = file.message_type.add(name="Reading")
    _fill(reading)
    meter = file.message_type.add(name="Meter")
    _field(meter, "device", F.TYPE_STRING, 1)
    _field(meter, "reading", F.TYPE_MESSAGE, 2, type_name=".plant.Reading")
    _field(meter, "at", F.TYPE_MESSAGE, 3, type_name=".google.protobuf.Timestamp")
    _field(meter, "wrapped", F.TYPE_MESSAGE, 4, type_name=".google.protobuf.DoubleValue")
    _field(meter, "series", F.TYPE_DOUBLE, 5, label=F.LABEL_REPEATED)
    _field(meter, "ms", F.TYPE_INT64, 6)
    inner = meter.nested_type.add(name="Inner")
    _field(inner, "device", F.TYPE_STRING, 1)
    _field(inner, "number", F.TYPE_DOUBLE, 2)
    return file


def _pool() -> DescriptorPool:
    pool = DescriptorPool()
    for known in (timestamp_pb2, wrappers_pb2):
        pool.AddSerializedFile(known.DESCRIPTOR.serialized_pb)
    pool.Add(meter_file())
    return pool


POOL = _pool()
Meter = GetMessageClass(POOL.FindMessageTypeByName("plant.Meter"))
Inner = GetMessageClass(POOL.FindMessageTypeByName("plant.Meter.Inner"))


def codec(folder: Path, *, message: str = "plant.Meter", framed: bool = False, **options: Any) -> Codec:
    (folder / "m.binpb").write_bytes(FileDescriptorSet(file=[meter_file()]).SerializeToString())
    payload = kafka.Protobuf(file="m.binpb", message=message, framed=framed)
    options = {"time": None} | options
    return protobuf.decoder(kafka.source(Any4, topic="t", payload=payload, **options), Surroundings(folder=folder))


readings = st.fixed_dictionaries(
    {name: values for name, (_, values, _) in _KINDS.items()},
    optional={f"o_{name}": values for name, (_, values, _) in _KINDS.items()},
) | st.fixed_dictionaries({}, optional={"one_d": st.floats(width=32, allow_nan=False), "one_s": st.text(max_size=3)})
chosen = st.tuples(
    *(
        st.sampled_from([p + n for n, k in _KINDS.items() if k[2] == column for p in ("", "o_")] + more)
        for column, more in zip(COLUMNS, (["one_d"], [], [], ["one_s"]), strict=True)
    )
)
parts = st.lists(st.none() | readings, min_size=1, max_size=3)


def joined(device: str, parts: Sequence[dict[str, Any] | None]) -> bytes:
    """Messages one behind the other, which are one message: fields of the later ones count, inner ones are merged."""
    return b"".join(
        Meter(device=device, series=[1.0], **({} if m is None else {"reading": m})).SerializeToString() for m in parts
    )


@given(messages=st.lists(parts, min_size=1, max_size=6), names=chosen)
@settings(max_examples=60, deadline=None)
def test_what_protobuf_reads_is_what_comes_out(
    tmp_path_factory: pytest.TempPathFactory, messages: list[list[dict[str, Any] | None]], names: Sequence[str]
) -> None:
    fields = dict(zip(COLUMNS.values(), (f"reading.{name}" for name in names), strict=True))
    payloads = [joined(f"d{i}", parts) for i, parts in enumerate(messages)]
    rows, dead = decoded(codec(tmp_path_factory.getbasetemp(), fields=fields), payloads)
    expect = [(f"d{i}", TAKEN_MS, *expected(Meter.FromString(p), names)) for i, p in enumerate(payloads)]
    infinite = [i for i, row in enumerate(expect) if abs(row[2]) == float("inf")]
    assert rows == [row for i, row in enumerate(expect) if i not in infinite]
    assert [d.origin for d in dead] == [f"t[0]@{i}" for i in infinite]


def expected(message: Any, names: Sequence[str]) -> list[Any]:
    """Absent where the message, or a field within it that can be, is."""
    row = []
    for kind, name in zip(COLUMNS, names, strict=True):
        known = message.HasField("reading") and (not name.startswith("o") or message.reading.HasField(name))
        value = getattr(message.reading, name) if known else None
        if name.endswith("state") and value is not None:
            value = {0: "OFF", 1: "ON", 5: "FAULT"}.get(value)
        row.append(ABSENT[kind] if value is None else float(value) if kind == "float" else value)
    return row


@given(messages=st.lists(parts, min_size=1, max_size=4), names=chosen, data=st.data())
@settings(max_examples=60, deadline=None)
def test_a_broken_message_ends_alone(
    tmp_path_factory: pytest.TempPathFactory, messages: list[Any], names: Sequence[str], data: st.DataObject
) -> None:
    payloads = [bytearray(joined(f"d{i}", parts)) for i, parts in enumerate(messages)]
    for payload in data.draw(st.lists(st.sampled_from(payloads), max_size=4)):
        place = data.draw(st.integers(0, len(payload)))
        payload[place : place + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    fields = dict(zip(COLUMNS.values(), (f"reading.{name}" for name in names), strict=True))
    reading = codec(tmp_path_factory.getbasetemp(), fields=fields)
    whole = [bytes(p) for p in payloads]
    rows, dead = decoded(reading, whole)
    alone = [decoded(reading, [p]) for p in whole]
    assert rows == [row for some, _ in alone for row in some]
    assert [d.message.partition(": ")[2] for d in dead] == [
        d.message.partition(": ")[2] for _, some in alone for d in some
    ]
    for sent, (found, _) in zip(whole, alone, strict=True):
        try:
            message = Meter.FromString(sent)
        except DecodeError:
            continue  # it reads all; we what is wanted
        assert not found or found == [(message.device, TAKEN_MS, *expected(message, names))]


@pytest.mark.parametrize(
    ("options", "given", "ms"),
    [
        ({"time": "at"}, {"at": {"seconds": 1_699_999_999, "nanos": 500_000_000}}, 1_699_999_999_500),
        ({"time": "at"}, {}, TAKEN_MS),
        ({"time": "ms", "time_unit": "ms"}, {"ms": 1_699_999_999_001}, 1_699_999_999_001),
    ],
)
def test_a_timestamp_says_its_unit_itself(
    tmp_path: Path, options: dict[str, Any], given: dict[str, Any], ms: int
) -> None:
    reading = codec(tmp_path, fields={Any4.number: "wrapped"}, **options)
    message = Meter(device="d", wrapped={"value": 2.5}, **given)
    rows, dead = decoded(reading, [message.SerializeToString()])
    assert not dead
    assert rows[0][:3] == ("d", ms, 2.5)


def test_a_message_that_is_no_reading_is_a_dead_letter_and_says_why(tmp_path: Path) -> None:
    reading = codec(tmp_path, fields={Any4.whole: "reading.u64", Any4.word: "reading.state"})
    good = Meter(device="d", reading={"u64": 3}).SerializeToString()
    bad = [
        b"\xff",
        Meter(reading={"u64": 3}).SerializeToString(),
        Meter(device="d", reading={"u64": 2**63}).SerializeToString(),
        Meter(device="d", reading={"state": 9}).SerializeToString(),
    ]
    rows, dead = decoded(reading, [good, *bad, good])
    assert [r[3] for r in rows] == [3, 3]
    assert dead[0].reason == "not_protobuf"
    assert dead[0].message.endswith("is not what its schema says: it ends within the number of a field")
    assert [(d.reason, d.message) for d in dead[1:]] == [
        ("key", "t[0]@2: the device is empty"),
        ("type", f"t[0]@3: reading.u64 is {2**63}: at most {2**63 - 1} fits"),
        ("type", "t[0]@4: reading.state is 9, which plant.State has no name for: register a newer schema"),
    ]


def test_numbers_of_32_bits_are_cut_as_the_library_does(tmp_path: Path) -> None:
    body = b"\x18\xff\xff\xff\xff\x1f"  # i32, more than 32 bits of ones
    payload = Meter(device="d").SerializeToString() + b"\x12" + bytes([len(body)]) + body
    rows, dead = decoded(codec(tmp_path, fields={Any4.whole: "reading.i32"}), [payload])
    assert Meter.FromString(payload).reading.i32 == -1
    assert ([r[3] for r in rows], dead) == ([-1], [])


def test_frames_of_a_file_are_taken_off(tmp_path: Path) -> None:
    reading = codec(tmp_path, message="plant.Meter.Inner", framed=True)
    body = Inner(device="d", number=2.5).SerializeToString()
    head = b"\0\0\0\0\x07"
    long = [head + b"\x04\x02\x00", head + b"\x02\x00"]  # [1, 0] and, in its long form, [0]
    rows, dead = decoded(
        reading, [head + b"\0" + body, long[0] + body, long[1] + body, head, head + b"\xff" * 11, body]
    )
    assert len(rows) == 3
    assert [(d.reason, d.origin) for d in dead] == [("not_framed", f"t[0]@{i}") for i in (3, 4, 5)]
    assert dead[0].message.endswith("behind the schema's id the message does not say which message of it this is")


@pytest.mark.parametrize(
    ("content", "options", "says"),
    [
        (b"message Meter {", {}, r"m\.binpb is no set of descriptors .*: write it with  protoc --include_imports"),
        (None, {"message": "plant.Motor"}, r"m\.binpb has no message 'plant\.Motor'; it has plant\.Reading, plant\.Meter"),
        (None, {"key": "meter"}, r"stream any4: meter is not there in plant\.Meter in m\.binpb: it has device, reading, "),
        (None, {"fields": {Any4.number: "series"}}, r"series is repeated in plant\.Meter in m\.binpb: a number is needed"),
        (None, {"fields": {Any4.number: "reading"}}, r"reading is a message plant\.Reading in plant\.Meter in m"),
        (None, {"fields": {Any4.whole: "reading.d"}}, r"reading\.d is a double in plant\.Meter in"),
        (None, {"fields": {Any4.whole: "ms.x"}}, r"ms\.x is a field of an int64 in"),
        (None, {"time": "ms"}, r"ms is an int64 in .*: a timestamp or ISO 8601 text \(time_unit='iso'\) is needed"),
    ],
)  # fmt: skip
def test_a_file_that_lacks_what_is_wanted_is_a_mistake(
    tmp_path: Path, content: bytes | None, options: dict[str, Any], says: str
) -> None:
    if content is not None:
        (tmp_path / "m.binpb").write_bytes(content)
        payload = kafka.Protobuf(file="m.binpb", message="plant.Meter")
        source = kafka.source(Any4, topic="t", time=None, payload=payload)
        with pytest.raises(ConfigError, match=says):
            protobuf.decoder(source, Surroundings(folder=tmp_path))
        return
    with pytest.raises(ConfigError, match=says):
        codec(tmp_path, **options)
