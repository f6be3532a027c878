"""From what is read to what is sent: quality, conditions, silence and clocks, with acknowledgements and watermarks in step."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
from prometheus_client import REGISTRY

from connectors import intake, simulator
from connectors.base import QUALITY, EndOfInput, quality_column
from connectors.conditions import deadband, scale, swinging_door
from connectors.owed import ROWS_MAX
from pipelines import Arrival, Col, Key, Quality, Schema
from pipelines.batch import Batch
from pipelines.errors import NotConnected
from pipelines.quality import BAD, GOOD, UNCERTAIN
from pipelines.wire import decode
from tests.connectors.test_collector import PARTITIONS, World, info

S = 10**9
T0 = 10**18
NAN = float("nan")


class Tank(Schema):
    device = Key[str]()
    level = Col[float]("m")
    mode = Col[str]()
    quality = Quality()
    at = Arrival()


class Plain(Schema):
    device = Key[str]()
    level = Col[float]("m")


def raw(schema: type[Any], *rows: tuple[str, float, float], quality: list[int] | None = None) -> Batch:
    """(device, seconds after the start, level), as a reader gives it."""
    device, at, level = zip(*rows, strict=True)
    columns: dict[str, Any] = {f"{schema.__name__}.level": np.array(level, np.float64)}
    if schema is Tank:
        columns["Tank.mode"] = np.array(["on"] * len(rows), "T")
    if quality is not None:
        columns[quality_column(schema)] = np.array(quality, np.int8)
    return Batch.of_keys(device, np.array([T0 + int(s * S) for s in at], np.int64), columns)


def world(*steps: Any, schema: type[Any] = Plain, **options: Any) -> World:
    return World(*steps, source=simulator.source(schema, stream="vibration", **options))


def sent(made: World, schema: type[Any] = Plain) -> list[tuple[Any, ...]]:
    """(device, seconds, level, quality …) of all that Kafka has, in order of time."""
    row = schema.measured()
    batches = [decode(r.value, row) for r in made.kafka.taken if r.topic == "plant.vibration"]
    rows = [
        (k, (t - T0) / S, *values)
        for b in batches
        for k, t, *values in zip(
            b.keys, b.time.tolist(), *(b.columns[f.qualified].tolist() for f in row.fields), strict=True
        )
    ]
    return sorted(rows, key=lambda r: r[1::-1])


def metric(name: str) -> float:
    return REGISTRY.get_sample_value(f"sitestream_{name}", {"site": "plant", "stream": "vibration"}) or 0.0


async def test_quality_and_arrival_are_filled() -> None:
    made = world(raw(Tank, ("a", -1, 5.0)), 2, raw(Tank, ("a", 1, NAN), quality=[BAD]), schema=Tank)
    await made.run()
    assert repr(sent(made, Tank)) == repr([("a", -1.0, 5.0, "on", GOOD, T0), ("a", 1.0, NAN, "", BAD, T0 + 2 * S)])


async def test_a_bad_reading_has_no_values_whatever_the_reader_says() -> None:
    made = world(raw(Tank, ("a", 0, 5.0), ("b", 1, 6.0), quality=[BAD, UNCERTAIN]), schema=Tank)
    await made.run()
    assert repr([r[2:5] for r in sent(made, Tank)]) == repr([(NAN, "", BAD), (6.0, "on", UNCERTAIN)])


async def test_without_a_column_for_it_bad_readings_stay_here_and_are_counted() -> None:
    assert quality_column(Plain) == QUALITY
    before = metric("collect_bad_readings_total")
    made = world(raw(Plain, ("a", 0, 5.0), ("b", 1, 6.0), ("c", 2, 7.0), quality=[BAD, UNCERTAIN, GOOD]))
    await made.run()
    assert sent(made) == [("b", 1.0, 6.0), ("c", 2.0, 7.0)]
    assert metric("collect_bad_readings_total") - before == 1
    assert max(made.watermarks(0)) == T0 + 2 * S


async def test_columns_are_scaled_before_they_are_judged() -> None:
    steps = [raw(Plain, ("a", i, level)) for i, level in enumerate((400, 405, 411))]
    conditions = [deadband(Plain.level, absolute=1.0), scale(Plain.level, factor=0.1, offset=-40.0)]
    made = world(*steps, conditions=conditions)
    await made.run()
    assert sent(made) == [("a", 0.0, 0.0), ("a", 2.0, pytest.approx(1.1))]


async def test_what_is_not_reported_is_acknowledged_and_counted_and_time_goes_on() -> None:
    before, read = metric("collect_suppressed_readings_total"), metric("source_records_total")
    steps = [raw(Plain, ("a", i, 5.0), ("b", i, 6.0)) for i in range(5)]
    made = world(*steps, conditions=[deadband(Plain.level, absolute=1)])
    await made.run()
    assert len(sent(made)) == 2
    assert made.log.count("ack") == 6
    assert metric("collect_suppressed_readings_total") - before == 8
    assert metric("source_records_total") - read == 10
    assert made.collector._watermark() == T0 + 4 * S


DOOR = [swinging_door(Plain.level, deviation=0.5, hold="10s")]


async def test_a_held_reading_is_acknowledged_when_it_has_passed_or_a_newer_one_took_its_place() -> None:
    made = world(*(raw(Plain, ("a", i, 5.0)) for i in range(4)), NotConnected("gone"), conditions=DOOR)
    await made.run()
    start = ["connect", "read 1", "sent 1", "ack"]  # the first passes
    held = ["read 1", "sent 0", "read 1", "sent 0", "ack", "read 1", "sent 0", "ack"]
    # Kafka is told the time at each read only if a heartbeat is due; what matters here are reads, rows and acknowledgements
    log = [e for e in made.log if e != "sent 0"]
    assert log[:9] == [e for e in start + held if e != "sent 0"][:9]
    assert log[9:] == ["sent 1", "ack", "close", "connect", "ack", "close"]  # passed on as the link broke


async def test_the_watermark_waits_for_what_is_held_and_no_row_is_late() -> None:
    steps = [raw(Plain, ("a", i, 5.0), ("b", i + 0.5, 5.0)) for i in range(3)]
    steps += [raw(Plain, ("b", i + 0.5, 5.0)) for i in range(3, 30)]  # a falls silent
    made = world(*(x for s in steps for x in (s, 1)), conditions=DOOR)
    await made.run()
    mark = T0 - S
    for record in (r for r in made.kafka.taken if r.topic == "plant.vibration"):
        rows = decode(record.value, Plain.measured())
        promised = made.watermarks(record.partition)
        assert promised == sorted(promised)
        if len(rows):
            assert int(rows.time.min()) >= mark
        mark = max(mark, info(record).watermark)
    assert ("a", 2.0, 5.0) in sent(made)  # after `hold`
    assert T0 + 18 * S < mark <= T0 + 30 * S


@pytest.mark.parametrize("end", [EndOfInput(), NotConnected("gone")])
async def test_at_the_end_and_at_a_break_what_is_held_is_passed_on(end: Exception) -> None:
    made = world(*(raw(Plain, ("a", i, 5.0), ("b", i, 6.0)) for i in range(4)), end, conditions=DOOR)
    await made.run()
    assert sent(made) == [("a", 0.0, 5.0), ("b", 0.0, 6.0), ("a", 3.0, 5.0), ("b", 3.0, 6.0)]
    assert made.log.count("ack") >= 4


async def test_at_a_stop_what_is_held_is_passed_on() -> None:
    made = world(*(raw(Plain, ("a", i, 5.0)) for i in range(4)), conditions=DOOR)
    await made.run()
    assert sent(made) == [("a", 0.0, 5.0), ("a", 3.0, 5.0)]
    assert made.log[-3:] == ["ack", "ack", "close"]


async def test_what_kafka_has_not_taken_does_not_count_as_reported() -> None:
    steps = [raw(Plain, ("a", 0, 5.0)), raw(Plain, ("a", 1, 9.0)), raw(Plain, ("a", 1, 9.0))]
    made = world(*steps, conditions=[deadband(Plain.level, absolute=1)])
    send, calls = made.kafka.send, 0

    async def fail_second(records: Any) -> None:
        nonlocal calls
        calls += 1
        made.kafka.fails = int(calls == 2)
        await send(records)

    made.kafka.send = fail_second  # type: ignore[method-assign]
    await made.run()
    assert sent(made) == [("a", 0.0, 5.0), ("a", 1.0, 9.0)]  # delivered again by the devices' side, and sent


async def test_a_crash_loses_nothing_that_the_devices_side_keeps() -> None:
    """What was not acknowledged comes again to a new process; with what Kafka has, the line is near every reading."""
    rows = [raw(Plain, ("a", i, float(level))) for i, level in enumerate((0, 1, 2, 3, 2, 1, 0, 5, 5, 5))]
    for crash_at in range(1, len(rows)):
        first = world(*rows[:crash_at], conditions=DOOR)
        crashed = RuntimeError("killed")

        async def die(*_: Any, crashed: Exception = crashed) -> None:
            raise crashed

        first.collector._settle = die  # type: ignore[method-assign,assignment]
        with pytest.raises(RuntimeError, match="killed"):
            await first.run()
        again = world(*rows[first.log.count("ack") - first.log.count("read 0") :], conditions=DOOR)
        await again.run()
        kept = sorted(set(sent(first) + sent(again)))
        line = np.interp(np.arange(len(rows)), [r[1] for r in kept], [r[2] for r in kept])
        assert (np.abs(line - [0, 1, 2, 3, 2, 1, 0, 5, 5, 5]) <= 0.5).all(), crash_at


async def test_a_large_fleet_is_acknowledged_though_some_is_held() -> None:
    many = [f"d{i}" for i in range(ROWS_MAX // 4)]
    steps = [raw(Plain, ("still", 0, 0.0)), raw(Plain, ("still", 0.5, 0.0))]
    steps += [raw(Plain, *((d, i, 5.0 * i * i) for d in many)) for i in range(1, 8)]
    made = world(*steps, conditions=DOOR)
    acks: list[int] = []
    settle = made.collector._settle

    async def count() -> bool:
        acks.append(made.log.count("ack"))
        return await settle()

    made.collector._settle = count  # type: ignore[method-assign]
    await made.run()
    assert acks == [5]  # the newest four large ones wait, and no more


async def test_a_device_that_falls_silent_is_marked() -> None:
    steps: list[Any] = [raw(Tank, ("a", 0, 5.0), ("b", 0, 6.0))]
    for i in range(1, 8):
        steps += [1, raw(Tank, ("b", i, 6.0))]
    steps += [raw(Tank, ("a", 7, 5.0))]
    made = world(*steps, schema=Tank, stale="3s")
    await made.run()
    got = [r[:5] for r in sent(made, Tank) if r[0] == "a"]
    assert got == [("a", 0.0, 5.0, "on", GOOD), ("a", 3.0, 5.0, "on", BAD), ("a", 7.0, 5.0, "on", GOOD)]
    assert metric("collect_stale_devices") == 0
    made = world(*steps[:-1], schema=Tank, stale="3s")
    await made.run()
    assert metric("collect_stale_devices") == 1


async def test_after_silence_a_device_is_reported_anew_and_its_held_reading_was_passed_on() -> None:
    conditions = [swinging_door(Tank.level, deviation=0.5, hold="1h")]
    steps: list[Any] = [raw(Tank, ("a", 0, 5.0)), 1, raw(Tank, ("a", 1, 5.0)), 1, 1, 1, 1, 1, raw(Tank, ("a", 7, 5.0))]
    made = world(*steps, schema=Tank, stale="3s", conditions=conditions)
    await made.run()
    assert [r[1:5:3] for r in sent(made, Tank)] == [(0.0, GOOD), (1.0, GOOD), (4.0, BAD), (7.0, GOOD)]


async def test_skew_is_measured_and_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        made = world(raw(Plain, ("a", 0, 5.0), ("b", -100, 6.0)), 1, raw(Plain, ("a", 1, 5.0), ("b", -99, 6.0)))
        await made.run()
    assert metric("collect_clock_skew_seconds") == pytest.approx(100)
    (told,) = (r.getMessage() for r in caplog.records if "clock" in r.getMessage())
    assert told == "vibration: the clock of b is 100 s behind, or its readings come that late"


async def test_what_a_device_had_buffered_passes_whole_and_holds_nobody_up() -> None:
    """After an outage `a` sends an hour of readings: all are passed on, the watermark does not go back, `b` goes on."""
    old = raw(Plain, *(("a", -3600.0 + i, float(i % 7)) for i in range(3600)))
    steps = [raw(Plain, ("a", -3601, 0.0), ("b", 0, 1.0)), old, raw(Plain, ("a", 1, 0.0), ("b", 1, 2.0))]
    made = world(*steps)
    await made.run()
    assert len(sent(made)) == 3604
    for partition in range(PARTITIONS):
        assert made.watermarks(partition) == sorted(made.watermarks(partition))
    assert made.watermarks(0)[-1] == T0 + S


async def test_devices_that_are_remembered_are_limited(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(intake, "DEVICES_MAX", 3)
    steps = [raw(Plain, ("a", i, 5.0), ("b", i, 6.0)) for i in range(2)] + [
        raw(Plain, *((d, 2, 7.0) for d in "cd")), raw(Plain, ("a", 3, 5.0)),
    ]  # fmt: skip
    made = world(*steps, conditions=DOOR)
    with caplog.at_level(logging.WARNING):
        await made.run()
    assert [r[:2] for r in sent(made)] == [
        ("a", 0.0), ("b", 0.0), ("a", 1.0), ("b", 1.0), ("c", 2.0), ("d", 2.0), ("a", 3.0),
    ]  # fmt: skip
    assert "more than 3 devices were seen" in caplog.text
