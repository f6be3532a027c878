"""MQTT payloads to columns: what is taken, what is refused and in which words, and that the fast way equals the slow one."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors import mqtt
from connectors.columns import KEY_CHARS_MAX
from connectors.mqtt.codec import Codec
from connectors.payloads import PAYLOAD_BYTES_MAX
from pipelines.batch import TIME_MAX, Batch
from pipelines.dead import DeadLetter
from tests.connectors.schemas import Motor, Vibration

NOW = 1_800_000_000 * 10**9
LATEST = NOW + 60 * 10**9
TOPIC = b"press/a/vib"
GOOD = b'{"time": "2026-01-31T12:00:00.5Z", "rms": 1.5}'


def source(schema: type[Any] = Vibration, **options: Any) -> Any:
    return mqtt.source(schema, **({"broker": "mqtt://edge", "topic": "press/{device}/vib"} | options))


def decode(
    *payloads: bytes, topics: list[bytes] | None = None, whole: bool = True, latest: int = LATEST, **options: Any
) -> tuple[Batch, tuple[DeadLetter, ...]]:
    codec = Codec(source(**options))
    arrived = np.full(len(payloads), NOW)
    return codec.decode(topics or [TOPIC] * len(payloads), payloads, arrived, latest_ns=latest, whole=whole)


def refused(payload: bytes, **options: Any) -> DeadLetter:
    """The dead letter of one payload between two good ones, which get through."""
    good = options.pop("good", GOOD)
    batch, dead = decode(good, payload, good, **options)
    assert len(batch) == 2
    (letter,) = dead
    assert letter.payload == payload[:PAYLOAD_BYTES_MAX]
    return letter


def test_an_object_is_a_reading() -> None:
    batch, dead = decode(GOOD, b'{"rms": 2, "unknown": [1, {"x": null}]}', topics=[TOPIC, b"press/b/vib"])
    assert dead == ()
    assert batch.keys == ["a", "b"]
    assert batch.columns["Vibration.rms"].tolist() == [1.5, 2.0]
    assert batch.time.tolist() == [1_769_860_800_500_000_000, NOW]  # without a time it is the time of arrival


def test_every_type_and_an_absent_value() -> None:
    text = b'{"time":"2026-01-31T12:00:00Z","speed":1,"torque":2.5,"starts":7,"running":true'
    batch, dead = decode(text + b"}", text + b',"load":50}', schema=Motor)
    assert dead == ()
    assert {n.partition(".")[2]: (c.dtype.name, c.tolist()) for n, c in batch.columns.items()} == {
        "speed": ("float64", [1.0, 1.0]), "torque": ("float32", [2.5, 2.5]), "starts": ("int64", [7, 7]),
        "running": ("bool", [True, True]), "load": ("float64", [-1.0, 50.0]),
    }  # fmt: skip


def test_a_plain_number_is_a_reading_of_a_schema_with_one_column() -> None:
    batch, dead = decode(b"1.5", b"-2", b"3e2")
    assert (dead, batch.columns["Vibration.rms"].tolist(), batch.time.tolist()) == ((), [1.5, -2.0, 300.0], [NOW] * 3)


def test_plain_numbers_and_objects_mix() -> None:
    batch, dead = decode(b"1.5", GOOD)
    assert (dead, batch.columns["Vibration.rms"].tolist()) == ((), [1.5, 1.5])


def test_lines_within_a_payload_do_not_matter() -> None:
    batch, dead = decode(b'{\n  "rms": 1\n}\n', GOOD)
    assert (dead, len(batch)) == ((), 2)


@pytest.mark.parametrize(
    ("unit", "value", "ns"),
    [
        ("s", b"1769860800", 1_769_860_800_000_000_000),
        ("s", b"1769860800.25", 1_769_860_800_250_000_000),
        ("ms", b"1769860800123", 1_769_860_800_123_000_000),
        ("us", b"1769860800123456", 1_769_860_800_123_456_000),
        ("ns", b"1769860800123456789", 1_769_860_800_123_456_789),
        ("iso", b'"2026-01-31T13:00:00.123456789+01:00"', 1_769_860_800_123_456_789),
    ],
)
def test_units_of_time(unit: str, value: bytes, ns: int) -> None:
    batch, dead = decode(b'{"rms":1,"t":' + value + b"}", time="t", time_unit=unit)
    assert (dead, batch.time.tolist()) == ((), [ns])


def test_the_key_in_the_payload() -> None:
    batch, dead = decode(
        b'{"device":"x","rms":1}', b'{"device":"","rms":1}', b'{"rms":1}', topic="all", topics=[b"all"] * 3
    )
    assert batch.keys == ["x"]
    assert [d.message for d in dead] == ["all: the device is empty", "all: there is no device"]


@pytest.mark.parametrize(
    ("payload", "reason", "says"),
    [
        (b'{"rms": "3.5"}', "type", "rms is '3.5': a number is needed"),
        (b'{"rms": true}', "type", "rms is True: a number is needed"),
        (b'{"rms": [1]}', "type", "rms is [1]: a number is needed"),
        (b'{"rms": NaN}', "not_finite", "rms is nan: a finite number of float64 is needed"),
        (b'{"rms": -Infinity}', "not_finite", "rms is -inf: a finite number"),
        (b'{"rms": 1, "x": Inf}', "not_json", "Expecting value"),
        (b'{"rms": 1e999}', "not_finite", "rms is inf: a finite number"),
        (b'{"rms": 1' + b"0" * 400 + b"}", "not_finite", "rms is inf: a finite number"),
        (b'{"time": "2026-01-31T12:00:00Z"}', "missing", "rms is missing or null: a number is needed"),
        (b'{"rms": null}', "missing", "rms is missing or null"),
        (b'{"rms": 1, "time": 5}', "type", "time is 5: ISO 8601 text (or set time_unit=) is needed"),
        (b'{"rms": 1, "time": "yesterday"}', "time", "time is 'yesterday': ISO 8601 with a zone is needed, such as"),
        (b'{"rms": 1, "time": "2026-01-31T12:00:00"}', "time", "ISO 8601 with a zone is needed"),
        (b'{"rms": 1, "time": "1979-12-31T23:59:59Z"}', "time", "1979-12-31T23:59:59.000Z, before 1980: is the device's"),
        (b'{"rms": 1, "time": "2099-01-01T00:00:00Z"}', "time", "but now it is at most 2027-01-15T08:01:00.000Z (`future_max`)"),
        (b'{"rms": 1', "not_json", "the payload is not JSON: b'{\"rms\": 1': Expecting ',' delimiter"),
        (b'{"rms": 1} {"rms": 2}', "not_json", "Extra data"),
        (b"", "not_json", "the payload is not JSON: it is empty"),
        (b'{"a":' + b"[" * 50_000, "not_json", "nested too deep"),
        (b'{"rms": 1, "x": "\xff"}', "not_utf8", "the payload is not UTF-8 (byte 17)"),
        (b'"3.5"', "not_object", "an object or the value of rms is needed, such as {\"rms\": 1}"),
        (b"[1]", "not_object", "an object or the value of rms is needed"),
        (b"null", "not_object", "an object or the value of rms is needed"),
        (b"x" * (PAYLOAD_BYTES_MAX + 1), "too_large", "more than 65536 bytes"),
    ],
)  # fmt: skip
def test_what_is_refused_and_why(payload: bytes, reason: str, says: str) -> None:
    letter = refused(payload)
    assert letter.reason == reason
    assert letter.origin == "press/a/vib"
    assert letter.message.startswith("press/a/vib: ")
    assert says in letter.message


MOTOR = {"speed": 1, "torque": 1, "starts": 1, "running": True}


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("starts", 3.0, "starts is 3.0: a whole number without a point is needed"),
        ("starts", 2**63, f"starts is {2**63}: a whole number"),
        ("running", 1, "running is 1: true or false is needed"),
        ("torque", 1e39, "torque is 1e+39: a finite number of float32 is needed"),
        ("speed", None, "speed is missing or null"),
    ],
)
def test_types_are_strict(field: str, value: object, says: str) -> None:
    payload = json.dumps(MOTOR | {field: value}).encode()
    assert says in refused(payload, schema=Motor, good=json.dumps(MOTOR).encode()).message


def test_a_number_alone_is_no_reading_of_two_columns() -> None:
    assert "an object is needed" in refused(b"1", schema=Motor, good=json.dumps(MOTOR).encode()).message


@pytest.mark.parametrize(
    ("topic", "options", "reason", "says"),
    [
        (b"press//vib", {}, "key", "press//vib: the device is empty"),
        (
            b"press/" + b"d" * (KEY_CHARS_MAX + 1) + b"/vib",
            {},
            "key",
            f"has 256 characters: at most {KEY_CHARS_MAX} are allowed",
        ),
        (
            b"press/b/vib",
            {"devices": {"a"}},
            "unknown_device",
            "press/b/vib: device 'b' is not among the 1 in `devices`",
        ),
        (
            b"oven/a/vib",
            {},
            "topic",
            "does not match 'press/{device}/vib'; does the MQTT broker still hold an old subscription?",
        ),
        (b"press/\xff/vib", {}, "topic", "does not match"),
    ],
)
def test_keys_that_are_refused(topic: bytes, options: dict[str, Any], reason: str, says: str) -> None:
    batch, (letter,) = decode(GOOD, GOOD, topics=[TOPIC, topic], **options)
    assert (len(batch), letter.reason) == (1, reason)
    assert says in letter.message


def test_half_a_character_is_no_key() -> None:
    _, (letter,) = decode(b'{"device":"\\ud800","rms":1}', topic="all", topics=[b"all"])
    assert "device is '\\ud800': text is needed" in letter.message


def test_a_number_that_is_no_time() -> None:
    _, dead = decode(b'{"rms":1,"time":1e300}', b'{"rms":1,"time":5e9}', time_unit="s")
    assert [d.message for d in dead] == [
        "press/a/vib: time is 1e+300 s: that is no time",
        "press/a/vib: time is 2128-06-11T08:53:20.000Z, but now it is at most 2027-01-15T08:01:00.000Z (`future_max`): "
        "set the device's clock",
    ]


# The slow way looks at each message with the standard library's JSON reader; it is the reference for the fast one.

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
)
times = st.sampled_from(
    ["2026-01-31T12:00:00Z", "2026-01-31T12:00:00", "2026-01-31 12:00:00.1234+02", "", "x", "9999-01-01T00:00:00Z"]
)
fields = st.fixed_dictionaries(
    {
        "speed": st.floats(-1e9, 1e9),
        "torque": st.floats(width=32, allow_nan=False, allow_infinity=False),
        "starts": st.integers(0, 2**62),
    }
    | {"running": st.booleans()},
    optional={"load": st.floats(0, 100), "time": times, "more": values},
)
odd = st.fixed_dictionaries(
    {}, optional=dict.fromkeys(["speed", "torque", "starts", "running", "load", "time"], values)
)
objects = st.one_of(fields, fields, fields, odd).map(lambda fields: json.dumps(fields).encode())
fragments = st.sampled_from(
    [b"{", b"}", b'"', b":", b",", b"[", b"]", b"\n", b"NaN", b"Inf", b"1", b'"rms"', b'"x"', b" ", b"\x00", b"\xff"]
)
noise = st.binary(max_size=20) | st.lists(fragments, max_size=12).map(b"".join)
single = st.floats().map(lambda x: json.dumps(x).encode()) | st.floats(-10, 10).map(
    lambda x: json.dumps({"rms": x}).encode()
)


def as_lists(batch: Batch, dead: tuple[DeadLetter, ...]) -> object:
    return batch.keys, batch.time.tolist(), {n: c.tolist() for n, c in batch.columns.items()}, dead


@settings(max_examples=300, deadline=None)
@given(st.lists(objects, max_size=6), st.lists(noise, max_size=1), st.sampled_from([Motor, Vibration]))
def test_the_fast_way_equals_the_slow_one(good: list[bytes], bad: list[bytes], schema: type[Any]) -> None:
    payloads = good + bad
    assert as_lists(*decode(*payloads, schema=schema, latest=TIME_MAX)) == as_lists(
        *decode(*payloads, schema=schema, latest=TIME_MAX, whole=False)
    )


@settings(max_examples=500, deadline=None)
@given(st.lists(noise | single, max_size=4))
def test_any_bytes_are_a_reading_or_a_dead_letter(payloads: list[bytes]) -> None:
    batch, dead = decode(*payloads)
    assert len(batch) + len(dead) == len(payloads)
    assert as_lists(batch, dead) == as_lists(*decode(*payloads, whole=False))


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(st.floats(allow_nan=False, allow_infinity=False), st.integers(315_532_800 * 10**9, LATEST)),
        min_size=1,
        max_size=20,
    )
)
def test_good_readings_come_through_unchanged(readings: list[tuple[float, int]]) -> None:
    payloads = [json.dumps({"rms": rms, "time": time}).encode() for rms, time in readings]
    batch, dead = decode(*payloads, time_unit="ns")
    assert (dead, batch.columns["Vibration.rms"].tolist(), batch.time.tolist()) == (
        (),
        *map(list, zip(*readings, strict=True)),
    )
