"""Notifications of single nodes become rows of devices; compared with the same done one by one in plain Python."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from connectors.base import quality_column
from connectors.columns import Layout
from connectors.opcua import wire
from connectors.opcua.rows import WAITING, Item, Joined, Joiner
from connectors.opcua.wire import Notifications
from pipelines import Arrival, Col, Key, Quality, Schema
from pipelines.quality import BAD, GOOD, UNCERTAIN
from pipelines.schema import arrival_of
from tests.connectors.schemas import Vibration

T0 = 1_767_225_600 * 10**9
BAD_STATUS, UNCERTAIN_STATUS = 0x80310000, 0x40900000


class Motor(Schema):
    device = Key[str]()
    rms = Col[float]("mm/s")
    starts = Col[int]()
    mode = Col[str](absent="?")
    on = Col[bool]()
    small = Col[np.float32]()
    quality = Quality()
    came = Arrival()


def joiner(schema: type[Schema], *nodes: tuple[str, str]) -> Joiner:
    made = Joiner(schema.sent(), Layout.of(schema), quality_column(schema), arrival_of(schema))
    made.add([Item(device, column, f"Objects/{device}/{column}") for device, column in nodes])
    return made


def said(*items: tuple[Any, ...]) -> Notifications:
    """From (handle, value, time in s, status)."""
    kinds = {bool: wire.BOOL, int: 8, float: 11, str: wire.TEXT, type(None): wire.NONE}
    padded = [(*i, *(0, 0)[len(i) - 2 :]) for i in items]
    values = [i[1] for i in padded]
    return Notifications(
        np.array([i[0] for i in padded], np.uint32), np.array([kinds[type(v)] for v in values], np.uint8),
        np.array([float(v) if isinstance(v, int | float) else np.nan for v in values]),
        np.array([int(v) if isinstance(v, int) else 0 for v in values], np.int64),
        np.array([i[3] for i in padded], np.uint32), np.array([i[2] and T0 + int(i[2] * 1e9) for i in padded], np.int64),
        {n: v for n, v in enumerate(values) if isinstance(v, str)},
    )  # fmt: skip


def join(to: Joiner, *items: tuple[Any, ...], arrived: float = 100.0) -> Joined:
    return to.join(said(*items), T0 + int(arrived * 1e9), T0 + int(1e12))


def rows(got: Joined, schema: type[Schema]) -> list[tuple[Any, ...]]:
    """(device, seconds, values …, quality)."""
    batch = got.batch
    columns = [batch.columns[f.qualified].tolist() for f in schema.sent().fields]
    quality = batch.columns[quality_column(schema)].tolist()
    return list(zip(batch.keys, ((batch.time - T0) / 1e9).tolist(), *columns, quality, strict=True))


def test_one_column_is_the_simple_case() -> None:
    one = joiner(Vibration, ("a", "rms"), ("b", "rms"))
    got = join(one, (0, 1.0, 1), (1, 5.0, 1), (0, 2.0, 2), (0, 3, 3))
    assert rows(got, Vibration) == [("a", 1, 1, GOOD), ("a", 2, 2, GOOD), ("a", 3, 3, GOOD), ("b", 1, 5, GOOD)]


def test_a_row_joins_what_changed_then_with_what_was_last_known() -> None:
    class Two(Schema):
        device = Key[str]()
        x = Col[float]()
        y = Col[float]()

    two = joiner(Two, ("a", "x"), ("a", "y"), ("b", "x"), ("b", "y"))
    assert rows(join(two, (0, 1.0, 1), (2, 7.0, 1)), Two) == [], "nothing is known of y yet"
    got = join(two, (1, 10.0, 2), (0, 2.0, 3), (1, 20.0, 3), (3, 70.0, 1))
    assert rows(got, Two) == [("a", 2, 1, 10, GOOD), ("a", 3, 2, 20, GOOD), ("b", 1, 7, 70, GOOD)]
    late = join(two, (0, 9.0, 2.5), (0, 3.0, 4))
    assert rows(late, Two) == [("a", 2.5, 9, 20, GOOD), ("a", 4, 3, 20, GOOD)], "the others are as last known now"


def test_two_values_for_the_same_time_are_two_rows() -> None:
    one = joiner(Vibration, ("a", "rms"))
    got = join(one, (0, 1.0, 1), (0, 2.0, 1), (0, 2.0, 1))
    assert rows(got, Vibration) == [("a", 1, 1, GOOD), ("a", 1, 2, GOOD), ("a", 1, 2, GOOD)]


ALL = [("m", c) for c in ("rms", "starts", "mode", "on", "small")]


def test_all_types_and_the_time_of_arrival() -> None:
    motor = joiner(Motor, *ALL)
    got = join(motor, (0, 1.5, 1), (1, 2**62 + 1, 1), (2, "run", 1), (3, True, 1), (4, 0.5, 1))
    assert rows(got, Motor) == [("m", 1, 1.5, 2**62 + 1, "run", True, 0.5, GOOD)]
    assert got.batch.columns["Motor.came"].tolist() == [T0 + 100 * 10**9]
    assert got.batch.columns["Motor.small"].dtype == np.float32
    assert got.batch.columns["Motor.quality"].dtype == np.int8
    again = join(motor, (2, "x" * 5_000, 2))
    assert len(rows(again, Motor)[0][4]) == 1_000


def test_quality_is_that_of_the_worst_column() -> None:
    motor = joiner(Motor, *ALL)
    join(motor, (0, 1.5, 1), (1, 7, 1), (2, "run", 1), (3, True, 1), (4, 0.5, 1))
    got = join(
        motor, (0, 2.5, 2, UNCERTAIN_STATUS), (1, 8, 3, BAD_STATUS), (0, 3.5, 4), (1, 9, 5), (0, 0.0, 6, BAD_STATUS)
    )
    assert [r[2:4] + r[-1:] for r in rows(got, Motor)][:4] == [
        (2.5, 7, UNCERTAIN),
        (2.5, 7, BAD),
        (3.5, 7, BAD),
        (3.5, 9, GOOD),
    ]
    rms, starts, quality = [r[2:4] + r[-1:] for r in rows(got, Motor)][4]
    assert np.isnan(rms), "a bad float is NaN"
    assert (starts, quality) == (9, BAD)
    assert rows(join(motor, (2, None, 7, BAD_STATUS)), Motor)[0][4] == "run", "others stay as they were"


@pytest.mark.parametrize(
    ("handle", "value", "says"),
    [
        (0, "no", "Objects/m/rms: rms is 'no' (String): a number is needed"),
        (0, True, "rms is 1.0 (Boolean): a number is needed"),
        (0, float("inf"), "rms is inf (Double): a number is needed"),
        (1, 1.0, "starts is 1.0 (Double): a whole number without a point is needed"),
        (2, 1.0, "mode is 1.0 (Double): text is needed"),
        (3, 1, "on is 1.0 (an integer of type 8): true or false is needed"),
        (4, 1e300, "small is 1e+300 (Double): a number is needed"),
        (0, None, "rms is null: a number is needed"),
    ],
)
def test_a_value_of_another_type_is_bad_and_told(handle: int, value: Any, says: str) -> None:
    motor = joiner(Motor, *ALL)
    join(motor, (0, 1.5, 1), (1, 7, 1), (2, "run", 1), (3, True, 1), (4, 0.5, 1))
    got = join(motor, (handle, value, 2))
    (text,) = got.mistyped
    assert says in text
    (row,) = rows(got, Motor)
    assert row[-1] == BAD
    assert join(motor, (handle, value, 3, BAD_STATUS)).mistyped == (), "what is bad anyhow need not fit"


def test_time_is_the_sources_else_the_arrival() -> None:
    one = joiner(Vibration, ("a", "rms"))
    assert rows(join(one, (0, 1.0), arrived=50), Vibration) == [("a", 50, 1, GOOD)]


def test_what_is_of_no_time_is_refused() -> None:
    one = joiner(Vibration, ("a", "rms"))
    got = one.join(said((0, 1.0, 1), (0, 2.0, 2_000)), T0, T0 + 60 * 10**9)
    assert rows(got, Vibration) == [("a", 1, 1, GOOD)]
    (letter,) = got.rejects
    assert (letter.reason, letter.origin) == ("time", "Objects/a/rms")
    assert letter.message.startswith("Objects/a/rms: time is 2026-01-01T00:33:20.000Z, but now it is at most")
    assert letter.payload == b"a 1767227600000000000 rms=2.0, ~quality=0"
    old = one.join(said((0, 3.0, -T0 / 1e9 + 1)), T0, T0)
    assert old.rejects[0].message.startswith("Objects/a/rms: time is 1970-01-01T00:00:01.000Z, before 1980")


def test_a_node_that_waits_for_its_first_value_says_nothing() -> None:
    one = joiner(Vibration, ("a", "rms"))
    assert rows(join(one, (0, None, 1, WAITING)), Vibration) == []
    assert rows(join(one, (99, 1.0, 1)), Vibration) == [], "a handle that nobody knows"


def test_what_a_new_subscription_repeats_is_left_out_once() -> None:
    one = joiner(Vibration, ("a", "rms"), ("b", "rms"))
    join(one, (0, 1.0, 1), (1, 1.0, 1))
    one.renew([0, 1])
    got = join(one, (0, 1.0, 1), (1, 2.0, 2), (0, 1.0, 1))
    assert rows(got, Vibration) == [("a", 1, 1, GOOD), ("b", 2, 2, GOOD)]
    assert rows(join(one, (1, 2.0, 2)), Vibration) == [("b", 2, 2, GOOD)], "only right after it"


def test_a_device_without_a_node_for_a_column() -> None:
    motor = joiner(Motor, *[n for n in ALL if n[1] != "mode"])
    assert rows(join(motor, (0, 1.5, 1), (1, 7, 1), (2, True, 1), (3, 0.5, 1)), Motor)[0][4:] == ("?", True, 0.5, GOOD)
    motor.lost([1])
    assert rows(join(motor, (0, 2.5, 2)), Motor)[0][-1] == BAD
    waiting = joiner(Motor, *ALL)
    assert rows(join(waiting, (0, 1.5, 1), (1, 7, 1), (2, "run", 1), (3, True, 1)), Motor) == []
    waiting.lost([4])
    (row,) = rows(join(waiting, (0, 2.5, 2)), Motor)
    assert np.isnan(row[6])
    assert row[-1] == BAD


def test_as_one_by_one() -> None:
    """Random notifications in random portions, against a loop in plain Python."""

    class Three(Schema):
        device = Key[str]()
        x = Col[float]()
        y = Col[float]()
        z = Col[int]()
        quality = Quality()

    names = ("x", "y", "z")
    nodes = [(f"d{d}", c) for d in range(4) for c in names]
    for seed in range(12):
        random.seed(seed)
        ours = joiner(Three, *nodes)
        known: dict[str, dict[str, tuple[Any, int]]] = {f"d{d}": {} for d in range(4)}
        clock = 0
        for _ in range(12):
            portion = []
            for _ in range(random.randint(1, 25)):
                clock += random.choice([0, 0, 1])
                handle = random.randrange(len(nodes))
                value: Any = random.randint(0, 99) if handle % 3 == 2 else random.random()
                portion.append((handle, value, 1 + clock, random.choice([0, 0, 0, UNCERTAIN_STATUS, BAD_STATUS])))
            expected = _slowly(portion, nodes, known, names)
            np.testing.assert_equal(rows(join(ours, *portion), Three), expected)


def _slowly(
    portion: list[tuple[Any, ...]],
    nodes: list[tuple[str, str]],
    known: dict[str, dict[str, tuple[Any, int]]],
    names: tuple[str, ...],
) -> list[tuple[Any, ...]]:
    turns: dict[tuple[str, int, int], dict[str, tuple[Any, int]]] = {}
    counts: dict[tuple[int, int], int] = {}
    for handle, value, time, status in portion:
        device, column = nodes[handle]
        turn = counts[handle, time] = counts.get((handle, time), -1) + 1
        turns.setdefault((device, time, turn), {})[column] = (value, status >> 30)
    out = []
    for device, time, turn in sorted(turns):
        for column, (value, quality) in turns[device, time, turn].items():
            if quality == BAD:
                value = known[device].get(column, (0, 0))[0] if column == "z" else float("nan")
            known[device][column] = (value, quality)
        if len(known[device]) == len(names):
            now = [known[device][c] for c in names]
            out.append((device, float(time), *(v for v, _ in now), max(q for _, q in now)))
    return out
