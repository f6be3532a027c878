"""Payloads of every format: what they give, what is refused, and that looking at many at once gives the same as one by one."""

from __future__ import annotations

import json
import struct
from typing import Any

import cbor2
import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors import formats, mqtt, shape
from connectors.mqtt.codec import Codec
from connectors.payloads import PAYLOAD_BYTES_MAX
from pipelines.batch import Batch
from pipelines.dead import DeadLetter
from pipelines.schema import Arrival, Col, Key, Schema

NOW = 1_800_000_000 * 10**9
LATEST = NOW + 60 * 10**9


class Press(Schema):
    device = Key[str]()
    rms = Col[float]("mm/s")
    count = Col[int](absent=-1)
    arrived = Arrival()


class Tag(Schema):
    device = Key[str]()
    value = Col[float]()


class Wide(Schema):
    device = Key[str]()
    rms = Col[float](absent=float("nan"))
    on = Col[bool](absent=False)


def decode(
    schema: type[Any], *payloads: bytes, topic: str = "p/{device}", topics: list[bytes] | None = None, whole: bool = True,
    **options: Any,
) -> tuple[Batch, tuple[DeadLetter, ...]]:  # fmt: skip
    codec = Codec(mqtt.source(schema, broker="mqtt://edge", topic=topic, **options))
    arrived = NOW + np.arange(len(payloads))
    return codec.decode(topics or [b"p/a"] * len(payloads), payloads, arrived, latest_ns=LATEST, whole=whole)


def lists(got: tuple[Batch, tuple[DeadLetter, ...]]) -> Any:
    batch, dead = got
    keys = batch.names.take(batch.codes).to_pylist()
    return keys, batch.time.tolist(), {n: repr(c.tolist()) for n, c in batch.columns.items()}, dead


NESTED: dict[str, Any] = {"fields": {Press.rms: "data.vib.rms", Press.count: "n"}, "time": "meta.at", "time_unit": "ns"}


@pytest.mark.parametrize(
    ("payload", "encode"),
    [("json", lambda x: json.dumps(x).encode()), ("cbor", cbor2.dumps), ("msgpack", msgspec.msgpack.encode)],
)
def test_paths_and_lists(payload: str, encode: Any) -> None:
    one = encode({"data": {"vib": {"rms": 1.5}}, "meta": {"at": NOW - 5}})
    batch, dead = decode(Press, one, encode({"data": {"vib": {"rms": 2}}, "n": 7}), payload=payload, **NESTED)
    assert dead == ()
    assert batch.columns["Press.rms"].tolist() == [1.5, 2.0]
    assert batch.columns["Press.count"].tolist() == [-1, 7]
    assert batch.time.tolist() == [NOW - 5, NOW + 1]
    assert batch.columns["Press.arrived"].tolist() == [NOW, NOW + 1]

    many = encode({"id": "d7", "b": {"list": [{"v": 1.0, "t": NOW - 2}, {"v": 2.0, "t": NOW - 1, "c": 3}]}})
    none = encode({"id": "d8", "b": {"list": []}})
    bad = encode({"id": "d9", "b": {"list": [{"v": "x"}, {"v": 4.0}]}})
    options: dict[str, Any] = {"rows": "b.list[*]", "key": "$.id", "time": "t", "time_unit": "ns", "payload": payload}
    options["fields"] = {Press.rms: "v", Press.count: "c"}
    batch, dead = decode(Press, many, none, topic="p/+", **options)
    assert (dead, batch.keys, batch.codes.tolist()) == ((), ["d7", "d7"], [0, 0])
    assert (batch.columns["Press.rms"].tolist(), batch.time.tolist()) == ([1.0, 2.0], [NOW - 2, NOW - 1])
    batch, (letter,) = decode(Press, many, bad, topic="p/+", **options)
    assert batch.columns["Press.rms"].tolist() == [1.0, 2.0, 4.0]  # the other readings of the message are good
    assert (letter.message, letter.payload) == ("p/a: reading 0: rms is 'x': a number is needed", bad)
    batch, (letter,) = decode(Press, encode({"id": "d", "b": {"list": {}}}), topic="p/+", **options)
    assert (len(batch), letter.reason, letter.message) == (0, "not_list", "p/a: b.list[*] is no list of objects")
    _, (letter,) = decode(Press, encode({"id": "d", "b": 5}), topic="p/+", **options)
    assert letter.message == "p/a: b.list[*] cannot be reached: 'list' is asked of int"


def test_a_list_that_is_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shape, "READINGS_MAX", 2)
    long = json.dumps({"r": [{"rms": 1.0}] * 3}).encode()
    batch, (letter,) = decode(Press, long, b'{"r": [{"rms": 1}]}', rows="r[*]")
    assert (len(batch), letter.reason, "more than 2 readings" in letter.message) == (1, "too_many", True)


@pytest.mark.parametrize(
    ("payload", "sent", "reason", "says"),
    [
        ("cbor", b"\xff", "not_cbor", "the payload is not CBOR: b'\\xff'"),
        ("cbor", b"", "not_cbor", "the payload is not CBOR"),
        ("msgpack", b"\xc1", "not_msgpack", "the payload is not MessagePack: b'\\xc1'"),
        ("number", b"warm", "not_number", "the payload is b'warm': a number as text is needed, such as 23.5"),
        ("number", b"\xff", "not_number", "a number as text is needed"),
        ("number", b"nan", "not_finite", "value is nan: a finite number"),
        ("<f4", b"123", "size", "the payload has 3 bytes: 4 are needed (1 × <f4)"),
        (">f8", struct.pack(">d", float("inf")), "not_finite", "value is inf"),
        ("csv:value,x", b"1", "not_csv", "line 1 is b'1': fields value,x are needed"),
        ("csv:value,x", b"a,1", "not_csv", "line 1 is b'a,1'"),
        ("csv:value,x", b",1", "missing", "value is missing or null"),
        ("csv:value", b"x" * (PAYLOAD_BYTES_MAX + 1), "too_large", "more than 65536 bytes or 10000 lines"),
    ],
)
def test_what_is_refused_and_why(payload: str, sent: bytes, reason: str, says: str) -> None:
    good = {"cbor": cbor2.dumps({"value": 1}), "msgpack": b"\x01", "number": b"1", "<f4": struct.pack("<f", 1)}
    good |= {">f8": struct.pack(">d", 1), "csv:value,x": b"1,2", "csv:value": b"1"}
    batch, (letter,) = decode(Tag, good[payload], sent, good[payload], payload=payload)
    assert (batch.columns["Tag.value"].tolist(), letter.reason, letter.origin) == ([1.0, 1.0], reason, "p/a")
    assert says in letter.message


@pytest.mark.parametrize(
    ("payload", "sent", "value"),
    [
        ("number", b" 23.5\n", 23.5),
        ("number", b"-3e2", -300.0),
        ("<f4", struct.pack("<f", 1.5), 1.5),
        (">i2", struct.pack(">h", -2), -2.0),
        ("<u8", struct.pack("<Q", 2**63), 2.0**63),
        ("msgpack", msgspec.msgpack.encode(2.5), 2.5),
    ],
)
def test_numbers(payload: str, sent: bytes, value: float) -> None:
    batch, dead = decode(Tag, sent, payload=payload)
    assert (dead, batch.columns["Tag.value"].tolist()) == ((), [value])


def test_binary_numbers_are_the_columns_in_order() -> None:
    batch, dead = decode(Press, struct.pack(">2h", 3, -4), payload=">i2")
    assert (dead, batch.columns["Press.rms"].tolist(), batch.columns["Press.count"].tolist()) == ((), [3.0], [-4])


def test_lines_of_csv() -> None:
    text = b"2026-01-31T12:00:00Z,1.5,,x\r\n2026-01-31T12:00:01Z,2.5,7,\n"
    batch, dead = decode(Press, text, b",3,,", payload="csv:time,rms,n,", fields={Press.count: "n"})
    assert (dead, batch.columns["Press.rms"].tolist()) == ((), [1.5, 2.5, 3.0])
    assert batch.columns["Press.count"].tolist() == [-1, 7, -1]
    assert batch.time.tolist() == [1_769_860_800 * 10**9, 1_769_860_801 * 10**9, NOW + 1]
    batch, (letter,) = decode(Press, b"x,1\nb,2\nc,oops", topic="p/+", payload="csv:device,rms", key="device")
    assert (batch.keys, letter.message) == (["x", "b"], "p/a: line 3 is b'c,oops': fields device,rms are needed")


def test_a_level_names_the_column() -> None:
    topics = [b"p/a/rms", b"p/a/on", b"p/b/rms", b"p/a/other", b"p/b/rms"]
    got = decode(Wide, b"1.5", b"true", b'{"rms": 2}', b"?", b"oops", topic="p/{device}/{column}", topics=topics)
    batch, (letter,) = got
    assert batch.names.take(batch.codes).to_pylist() == ["a", "a", "b"]
    assert repr(batch.columns["Wide.rms"].tolist()) == "[1.5, nan, 2.0]"
    assert batch.columns["Wide.on"].tolist() == [False, True, False]
    assert batch.time.tolist() == [NOW, NOW + 1, NOW + 2]
    assert letter.message.startswith("p/b/rms: the payload is not JSON: b'oops'")
    _, (letter,) = decode(Wide, b"1", topic="p/{device}/{column}", topics=[b"q/a/rms"])
    assert letter.reason == "topic"
    _, (letter,) = decode(Wide, b"1", topic="p/+/{column}", topics=[b"q"], key="id")
    assert letter.reason == "topic"


cells = st.sampled_from(["1", "-2.5", "", "x", "nan", '"', "1e5", " 3", "3\n4"])
csv_texts = st.lists(st.lists(cells, min_size=1, max_size=3).map(",".join), min_size=1, max_size=3).map(
    lambda lines: "\n".join(lines).encode()
)
leaves: st.SearchStrategy[Any] = st.sampled_from([1, 2.5, None, "x", True, [], {}])
items = st.dictionaries(st.sampled_from(["rms", "count", "x"]), leaves, max_size=3)
jsons = st.fixed_dictionaries({}, optional={"r": st.lists(items, max_size=3) | leaves, "k": leaves}).map(
    lambda x: json.dumps(x).encode()
)
CASES: list[tuple[Any, dict[str, Any]]] = [
    (csv_texts | st.binary(max_size=9), {"payload": "csv:rms,count"}),
    (jsons | st.binary(max_size=5), {"rows": "r[*]"}),
    (jsons, {"rows": "r[*]", "key": "$.k", "topic": "p/+"}),
]


@settings(max_examples=120, deadline=None)
@given(st.sampled_from(range(len(CASES))).flatmap(lambda i: st.tuples(st.just(i), st.lists(CASES[i][0], max_size=4))))
def test_many_at_once_equals_one_by_one(case: tuple[int, list[bytes]]) -> None:
    options = CASES[case[0]][1]
    assert lists(decode(Press, *case[1], **options)) == lists(decode(Press, *case[1], whole=False, **options))


@settings(max_examples=100, deadline=None)
@given(st.sampled_from([*formats.NAMED, "csv:value", "<f4"]), st.lists(st.binary(max_size=20), max_size=4))
def test_any_bytes_are_readings_or_dead_letters(payload: str, sent: list[bytes]) -> None:
    batch, dead = decode(Tag, *sent, payload=payload)
    assert len(dead) <= len(sent)
    if not payload.startswith("csv"):
        assert len(batch) + len(dead) == len(sent)
    assert lists((batch, dead)) == lists(decode(Tag, *sent, payload=payload, whole=False))
