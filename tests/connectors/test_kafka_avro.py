"""Messages of Avro -> columns: what fastavro writes is what comes out, however messages are mixed, broken or grouped."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping, Sequence
from decimal import Decimal
from itertools import count
from pathlib import Path
from typing import Any

import fastavro
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors import kafka
from connectors.kafka import avro
from connectors.kafka.avro_reader import _quotient as avro_quotient
from connectors.kafka.codec import Codec
from pipelines import Col, Key, Schema
from pipelines.dead import DeadLetter
from pipelines.errors import ConfigError
from pipelines.ports import Surroundings
from tests.runtime.test_inbox import Record

TAKEN_MS = 1_700_000_000_000
ABSENT: dict[str, Any] = {"float": -1e300, "int": -(2**60), "bool": False, "text": "absent"}


class Any4(Schema):
    """A column of each kind."""

    device = Key[str]()
    number = Col[float](absent=ABSENT["float"])
    whole = Col[int](absent=ABSENT["int"])
    flag = Col[bool](absent=ABSENT["bool"])
    word = Col[str](absent=ABSENT["text"])


COLUMNS = {"float": Any4.number, "int": Any4.whole, "bool": Any4.flag, "text": Any4.word}


def written(schema: Any, value: Mapping[str, Any]) -> bytes:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(schema), value)
    return out.getvalue()


def record(name: str, **fields: Any) -> dict[str, Any]:
    return {"type": "record", "name": name, "fields": [{"name": n, "type": t} for n, t in fields.items()]}


def codec(folder: Path, schema: Any, **options: Any) -> Codec:
    (folder / "m.avsc").write_text(json.dumps(schema))
    options = {"key": "device", "time": None} | options
    return avro.decoder(
        kafka.source(Any4, topic="t", payload=kafka.Avro(file="m.avsc"), **options), Surroundings(folder=folder)
    )


def decoded(codec: Codec, payloads: Sequence[bytes]) -> tuple[list[tuple[Any, ...]], list[DeadLetter]]:
    """(key, time in ms, number, whole, flag, word) of each reading, and the dead letters."""
    (frame,), dead = codec.frames([Record("t", i, TAKEN_MS, p) for i, p in enumerate(payloads)])
    b = frame.batch
    columns = [b[c].tolist() for c in (Any4.number, Any4.whole, Any4.flag, Any4.word)]
    return list(zip(b.keys, (b.time // 10**6).tolist(), *columns, strict=True)), dead


# Random schemas. Each is a pair: the schema, and a strategy of its values.

names = (f"n{i}" for i in count())
_PRIMITIVE: dict[str, st.SearchStrategy[Any]] = {
    "null": st.none(),
    "boolean": st.booleans(),
    "int": st.integers(-(2**31), 2**31 - 1),
    "long": st.integers(-(2**63), 2**63 - 1) | st.integers(-200, 200),
    "float": st.floats(width=32, allow_nan=False, allow_infinity=False),
    "double": st.floats(allow_nan=False, allow_infinity=False),
    "bytes": st.binary(max_size=12),
    "string": st.text(max_size=12),
}
Typed = tuple[Any, st.SearchStrategy[Any]]


def _simple() -> st.SearchStrategy[Typed]:
    return st.one_of(
        st.sampled_from(sorted(_PRIMITIVE)).map(lambda kind: (kind, _PRIMITIVE[kind])),
        st.integers(0, 9).map(_fixed),
        st.just(0).map(lambda _: ({"type": "enum", "name": next(names), "symbols": ["A", "B", "C"]}, st.sampled_from("ABC"))),
        st.integers(0, 25).map(_decimal),
    )  # fmt: skip


def _fixed(size: int) -> Typed:
    return {"type": "fixed", "name": next(names), "size": size}, st.binary(min_size=size, max_size=size)


def _decimal(scale: int) -> Typed:
    digits = st.integers(-(10**25), 10**25) | st.integers(-300, 300)
    return (
        {"type": "bytes", "logicalType": "decimal", "precision": 26, "scale": scale},
        digits.map(lambda d: Decimal(d).scaleb(-scale)),
    )


def _composite(inner: st.SearchStrategy[Typed]) -> st.SearchStrategy[Typed]:
    return st.one_of(
        inner.map(lambda t: ({"type": "array", "items": t[0]}, st.lists(t[1], max_size=3))),
        inner.map(lambda t: ({"type": "map", "values": t[0]}, st.dictionaries(st.text(max_size=3), t[1], max_size=2))),
        inner.filter(lambda t: t[0] != "null" and not isinstance(t[0], list)).map(
            lambda t: (["null", t[0]], st.none() | t[1])
        ),
        st.lists(inner, min_size=1, max_size=3).map(_record_of),
    )


def _record_of(fields: list[Typed]) -> Typed:
    values = st.fixed_dictionaries({f"f{i}": t[1] for i, t in enumerate(fields)})
    return record(next(names), **{f"f{i}": t[0] for i, t in enumerate(fields)}), values


types = st.recursive(_simple(), _composite, max_leaves=6)


def paths(schema: Any, path: str = "") -> list[tuple[str, str]]:
    """(path, kind of column) of every value that can be one."""
    if isinstance(schema, list):
        return [p for s in schema if s != "null" for p in paths(s, path)]
    kind = schema["type"] if isinstance(schema, dict) else schema
    if kind == "record":
        return [p for f in schema["fields"] for p in paths(f["type"], f"{path}.{f['name']}".lstrip("."))]
    if isinstance(schema, dict) and schema.get("logicalType"):
        return [(path, "float")]
    fits = {"int": ["int", "float"], "long": ["int", "float"], "float": ["float"], "double": ["float"]}
    fits |= {"boolean": ["bool"], "string": ["text"], "enum": ["text"]}
    return [(path, column) for column in fits.get(kind, [])]


def at(value: Any, path: str) -> Any:
    for name in path.split("."):
        value = value and value[name]
    return value


@st.composite
def programs(draw: st.DrawFn) -> tuple[Any, dict[str, str], list[dict[str, Any]]]:
    """A schema, the paths of some columns by kind, and messages."""
    schema, values = _record_of(draw(st.lists(types, min_size=1, max_size=4)))
    schema["fields"].insert(draw(st.integers(0, len(schema["fields"]))), {"name": "device", "type": "string"})
    found = draw(st.permutations(paths({**schema, "fields": [f for f in schema["fields"] if f["name"] != "device"]})))
    chosen: dict[str, str] = {}
    for path, kind in found:
        if path not in chosen.values():
            chosen.setdefault(kind, path)
    messages = draw(st.lists(values, min_size=1, max_size=8))
    return schema, chosen, [m | {"device": f"d{i}"} for i, m in enumerate(messages)]


def expected(message: Mapping[str, Any], chosen: Mapping[str, str]) -> tuple[Any, ...]:
    row = []
    for kind in COLUMNS:
        value = at(message, chosen[kind]) if kind in chosen else None
        row.append(ABSENT[kind] if value is None else float(value) if kind == "float" else value)
    return (message["device"], TAKEN_MS, *row)


@given(program=programs())
@settings(max_examples=60, deadline=None)
def test_what_fastavro_writes_is_what_comes_out(
    tmp_path_factory: pytest.TempPathFactory, program: tuple[Any, dict[str, str], list[dict[str, Any]]]
) -> None:
    schema, chosen, messages = program
    payloads = [written(schema, m) for m in messages]
    parsed = fastavro.parse_schema(schema)
    seen: list[Any] = [fastavro.schemaless_reader(io.BytesIO(p), parsed, None) for p in payloads]
    fields = {COLUMNS[kind]: chosen.get(kind, f"device.{kind}") for kind in COLUMNS}
    reading = codec_of(tmp_path_factory, schema, {c: p for c, p in fields.items() if not p.startswith("device.")})
    rows, dead = decoded(reading, payloads)
    assert not dead
    assert rows == [expected(m, chosen) for m in seen]


def codec_of(tmp_path_factory: pytest.TempPathFactory, schema: Any, fields: Mapping[Any, str]) -> Codec:
    return codec(tmp_path_factory.getbasetemp(), schema, fields=fields)


@given(program=programs(), data=st.data())
@settings(max_examples=40, deadline=None)
def test_a_broken_message_ends_alone(
    tmp_path_factory: pytest.TempPathFactory,
    program: tuple[Any, dict[str, str], list[dict[str, Any]]],
    data: st.DataObject,
) -> None:
    schema, chosen, messages = program
    payloads = [bytearray(written(schema, m)) for m in messages * 2]
    for payload in data.draw(st.lists(st.sampled_from(payloads), max_size=4)):
        what = data.draw(st.sampled_from(["cut", "longer", "other"]))
        if what == "cut":
            del payload[data.draw(st.integers(0, len(payload))) :]
        elif what == "longer":
            payload += data.draw(st.binary(min_size=1, max_size=12))
        elif payload:
            payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    reading = codec_of(tmp_path_factory, schema, {COLUMNS[kind]: path for kind, path in chosen.items()})
    whole = [bytes(p) for p in payloads]
    rows, dead = decoded(reading, whole)
    alone = [decoded(reading, [p]) for p in whole]
    assert rows == [row for some, _ in alone for row in some]
    assert [(d.payload, d.reason, d.message.partition(": ")[2]) for d in dead] == [
        (d.payload, d.reason, d.message.partition(": ")[2]) for _, some in alone for d in some
    ]


METER = record("Meter", device="string", number="double")


@pytest.mark.parametrize(
    ("kind", "given", "unit", "ms"),
    [
        ({"type": "long", "logicalType": "timestamp-millis"}, TAKEN_MS - 5, "iso", TAKEN_MS - 5),
        ({"type": "long", "logicalType": "timestamp-micros"}, (TAKEN_MS - 5) * 1000, "s", TAKEN_MS - 5),
        ({"type": "long", "logicalType": "timestamp-nanos"}, (TAKEN_MS - 5) * 10**6, "iso", TAKEN_MS - 5),
        (["null", {"type": "long", "logicalType": "timestamp-millis"}], None, "iso", TAKEN_MS),
        ("long", TAKEN_MS - 5, "ms", TAKEN_MS - 5),
        ("double", TAKEN_MS / 1000 - 2, "s", TAKEN_MS - 2000),
        ("string", "2023-11-14T22:13:19Z", "iso", TAKEN_MS - 1000),
    ],
)
def test_a_timestamp_says_its_unit_itself(tmp_path: Path, kind: Any, given: Any, unit: str, ms: int) -> None:
    schema = record("M", device="string", at=kind, number="double")
    plain = record("M", device="string", at=_plain(kind), number="double")
    reading = codec(tmp_path, schema, time="at", time_unit=unit)
    rows, dead = decoded(reading, [written(plain, {"device": "d", "at": given, "number": 1.0})])
    assert not dead
    assert rows[0][:2] == ("d", ms)


def _plain(kind: Any) -> Any:
    """Without the logical type, so that fastavro takes a number."""
    if isinstance(kind, list):
        return [_plain(k) for k in kind]
    return kind["type"] if isinstance(kind, dict) else kind


SKIPPED = {
    "numbers": {"type": "array", "items": "long"},
    "halves": {"type": "array", "items": "float"},
    "words": {"type": "array", "items": "string"},
    "tags": {"type": "map", "values": ["null", "int"]},
    "tree": record("Node", value="int", next=["null", "Node"]),
}


def test_what_nobody_wants_is_skipped_whatever_it_is(tmp_path: Path) -> None:
    schema = record("M", device="string", **SKIPPED, number="double")
    tree: Any = None
    for value in range(60):
        tree = {"value": value, "next": tree}
    rows = [
        {
            "device": f"d{n}", "numbers": [2**62, -1] * n, "halves": [0.5] * n, "words": ["x" * n] * n,
            "tags": {str(i): i for i in range(n)}, "tree": tree if n else {"value": 0, "next": None}, "number": float(n),
        }
        for n in (0, 3, 1, 200)
    ]  # fmt: skip
    found, dead = decoded(codec(tmp_path, schema), [written(schema, r) for r in rows])
    assert not dead
    assert [(r[0], r[2]) for r in found] == [(f"d{n}", float(n)) for n in (0, 3, 1, 200)]


def test_blocks_of_an_array_may_tell_their_size(tmp_path: Path) -> None:
    schema = record("M", device="string", words=SKIPPED["words"], number="double")
    body = b"\x02a" + b"\x03\x08\x02x\x02y" + b"\x02\x02z" + b"\x00" + b"\0" * 8  # -2 of 4 bytes, then 1, then none
    rows, dead = decoded(codec(tmp_path, schema), [body, body[:-3], b"\x02a\x02\x7f"])
    assert [r[0] for r in rows] == ["a"]
    assert [d.message for d in dead] == [
        "t[0]@1: the message is not what its schema says: it ends within number",
        "t[0]@2: the message is not what its schema says: it ends within words",
    ]


@pytest.mark.parametrize(
    ("change", "reason", "says"),
    [
        (lambda b: b + b"\0\0", "not_avro", "the message is not what its schema says: it goes on behind its last field"),
        (lambda b: b[:-1], "not_avro", "the message is not what its schema says: it ends within number"),
        (lambda b: b"", "not_avro", "the message is not what its schema says: it ends within device"),
        (lambda b: b"\x02\xff" + b[2:], "not_utf8", "device is not UTF-8 (byte 0)"),
        (lambda b: b"\x00" + b[2:], "key", "the device is empty"),
        (lambda b: b[:-8] + b"\0\0\0\0\0\0\xf0\x7f", "not_finite", "number is inf: a finite number of float64 is needed"),
        (lambda b: b * 10_000, "too_large", "the message has more than 65536 bytes"),
    ],
)  # fmt: skip
def test_a_message_that_is_no_reading_is_a_dead_letter_and_says_why(
    tmp_path: Path, change: Any, reason: str, says: str
) -> None:
    good = written(METER, {"device": "d", "number": 2.5})
    rows, dead = decoded(codec(tmp_path, METER), [good, change(good), good])
    assert [r[2] for r in rows] == [2.5, 2.5]
    assert [(d.reason, d.message, d.origin) for d in dead] == [(reason, f"t[0]@1: {says}", "t[0]@1")]


def test_a_union_may_be_another_type_in_each_message(tmp_path: Path) -> None:
    schema = record("M", device="string", number=["null", "double", "long", "string"])
    values = [1.5, 2, "high", None]
    rows, dead = decoded(codec(tmp_path, schema), [written(schema, {"device": "d", "number": v}) for v in values])
    assert [r[2] for r in rows] == [1.5, 2.0, ABSENT["float"]]
    assert [d.message for d in dead] == ["t[0]@2: number is a string in m.avsc: a number is needed"]


def test_half_a_frame_is_none_and_the_id_of_a_file_is_not_looked_at(tmp_path: Path) -> None:
    (tmp_path / "m.avsc").write_text(json.dumps(METER))
    source = kafka.source(Any4, topic="t", time=None, payload=kafka.Avro(file="m.avsc", framed=True))
    reading = avro.decoder(source, Surroundings(folder=tmp_path))
    good = written(METER, {"device": "d", "number": 2.5})
    rows, dead = decoded(reading, [b"\0\0\0\0\x07" + good, good, b"\0\0", b"\0\xff\xff\xff\xff" + good])
    assert len(rows) == 2
    assert [d.reason for d in dead] == ["not_framed", "not_framed"]
    assert dead[1].message.startswith(
        "t[0]@2: the message is b'\\x00\\x00': byte 0 and the id of a schema must come first"
    )


@pytest.mark.parametrize(
    ("schema", "options", "says"),
    [
        ("{", {}, r"stream any4: .*m\.avsc: m\.avsc is no schema of Avro: JSONDecodeError"),
        ({"type": "what"}, {}, r"m\.avsc is no schema of Avro: UnknownType: "),
        (METER, {"key": "meter"}, r"stream any4: meter is not there in m\.avsc: Meter has device, number: correct fields="),
        (METER, {"time": "at"}, r"at is not there in m\.avsc: .*, or time=None if the time of the record counts"),
        (METER, {"time": "number", "time_unit": "iso"}, r"a double in m\.avsc: a timestamp or ISO 8601 text \(time_unit='iso'\)"),
        (record("M", device="long"), {}, r"device is a long in m\.avsc: text is needed"),
        (record("M", device="string", number={"type": "array", "items": "double"}), {}, r"number is an array in m\.avsc"),
        (record("M", device="string", number=METER), {}, r"number is a record in m\.avsc: a number is needed"),
        (METER, {"fields": {Any4.number: "number.x"}}, r"number\.x is a field of a double in m\.avsc: a number"),
    ],
)  # fmt: skip
def test_a_file_that_lacks_what_is_wanted_is_a_mistake(
    tmp_path: Path, schema: Any, options: dict[str, Any], says: str
) -> None:
    (tmp_path / "m.avsc").write_text(schema if isinstance(schema, str) else json.dumps(schema))
    source = kafka.source(Any4, topic="t", payload=kafka.Avro(file="m.avsc"), **({"time": None} | options))
    with pytest.raises(ConfigError, match=says):
        avro.decoder(source, Surroundings(folder=tmp_path))


def test_a_file_that_is_not_there_is_a_mistake(tmp_path: Path) -> None:
    source = kafka.source(Any4, topic="t", time=None, payload=kafka.Avro(file="m.avsc"))
    with pytest.raises(ConfigError, match=r"the schema .*m\.avsc cannot be read .*: put it beside the pipeline file"):
        avro.decoder(source, Surroundings(folder=tmp_path))


def test_decimals_are_the_nearest_number() -> None:
    for digits, scale in ((10**30 + 1, 3), (2**53 + 1, 0), (-1, 25), (10**400, 0)):
        nearest = float(Decimal(digits).scaleb(-scale)) if digits < 10**300 else math.inf
        assert avro_quotient(digits, scale) == nearest
