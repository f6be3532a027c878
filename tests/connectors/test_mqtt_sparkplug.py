"""Sparkplug B: births, aliases, types, history, deaths, what is lost on the way, and any nonsense."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors import mqtt
from connectors.mqtt import spb_codec, spb_nodes
from connectors.mqtt.spb_codec import SparkplugCodec
from connectors.mqtt.wishes import Wishes
from pipelines.batch import Batch
from pipelines.dead import DeadLetter
from pipelines.errors import PlanError
from pipelines.quality import BAD, GOOD, UNCERTAIN
from pipelines.schema import Arrival, Col, Key, Quality, Schema
from tests.connectors.edge_node import BOOLEAN, DOUBLE, FLOAT, INT16, INT32, INT64, NS, STRING, EdgeNode, Message

NOW = 1_800_000_000


class Press(Schema):
    device = Key[str]()
    temp = Col[float]("°C")
    count = Col[int](absent=0)
    quality = Quality()
    arrived = Arrival()


METRICS = {"Motor/Temperature": (DOUBLE, 20.0), "count": (INT32, -1), "unknown": (STRING, "x")}


def codec(**options: Any) -> SparkplugCodec:
    return SparkplugCodec(
        mqtt.sparkplug(Press, broker="mqtt://edge", fields={Press.temp: "Motor/Temperature"}, **options)
    )


def decode(decoder: SparkplugCodec, *messages: Message) -> tuple[Batch, tuple[DeadLetter, ...]]:
    topics, payloads = [m[0] for m in messages], [m[1] for m in messages]
    arrived = np.full(len(messages), NOW * NS) + np.arange(len(messages))
    return decoder.decode(topics, payloads, arrived, latest_ns=(NOW + 60) * NS)


def rows(batch: Batch) -> list[tuple[str, int, float | None, int, int]]:
    """(key, seconds, temp or None for NaN, count, quality) of each."""
    c = batch.columns
    temps = [None if np.isnan(t) else t for t in c["Press.temp"].tolist()]
    keys = batch.names.take(batch.codes).to_pylist()
    times = (batch.time // NS).tolist()
    return list(zip(keys, times, temps, c["Press.count"].tolist(), c["Press.quality"].tolist(), strict=True))


def alive(node: EdgeNode) -> list[Message]:
    return [node.birth(NOW - 100), node.device_birth("d", NOW - 99, METRICS)]


def test_births_name_what_data_say_by_alias() -> None:
    node = EdgeNode()
    sent = [*alive(node), node.data("d", NOW - 98, **{"Motor/Temperature": 21.5}), node.data("d", NOW - 97, count=7)]
    batch, dead = decode(decoder := codec(), *sent)
    assert dead == ()
    assert rows(batch) == [
        ("G/n1/d", NOW - 99, 20.0, -1, GOOD),
        ("G/n1/d", NOW - 98, 21.5, -1, GOOD),
        ("G/n1/d", NOW - 97, 21.5, 7, GOOD),  # what is not reported has not changed
    ]
    assert (batch.columns["Press.arrived"] - NOW * NS).tolist() == [1, 2, 3]
    assert (decoder.gaps, decoder.unborn) == (0, 0)


def test_one_at_a_time_gives_the_same() -> None:
    node, together, single = EdgeNode(), codec(), codec()
    sent = [*alive(node), *(node.data("d", NOW - 90 + i, count=i) for i in range(5)), node.will()]
    whole = rows(decode(together, *sent)[0])
    assert [r for m in sent for r in rows(decode(single, m)[0])] == [(k, t, v, c, q) for k, t, v, c, q in whole]


def test_metrics_of_the_node_itself_and_keys_by_template() -> None:
    node = EdgeNode()
    batch, dead = decode(codec(key="{node}/{device}"), node.birth(NOW, METRICS), node.device_birth("d", NOW, METRICS))
    assert (dead, batch.keys) == ((), ["n1", "n1/d"])


def test_history_does_not_change_what_is_now() -> None:
    node = EdgeNode()
    sent = alive(node)
    old = node.data("d", NOW - 5000, historical=True, **{"Motor/Temperature": 5.0})
    batch, dead = decode(codec(), *sent, old, node.data("d", NOW, count=3))
    assert dead == ()
    assert rows(batch)[1:] == [("G/n1/d", NOW - 5000, 5.0, 0, GOOD), ("G/n1/d", NOW, 20.0, 3, GOOD)]


def test_sequence_numbers_wrap() -> None:
    node, decoder = EdgeNode(), codec()
    decode(decoder, *alive(node), *(node.data("d", NOW, count=i) for i in range(600)))
    assert decoder.gaps == 0


def test_a_lost_message_makes_values_uncertain_until_the_next_birth() -> None:
    node, decoder = EdgeNode(), codec()
    decode(decoder, *alive(node))
    node.data("d", NOW, count=1)  # is lost
    batch, dead = decode(decoder, node.data("d", NOW, count=2), node.data("d", NOW, count=3))
    assert dead == ()
    assert [(r[3], r[4]) for r in rows(batch)] == [(2, UNCERTAIN), (3, UNCERTAIN)]
    assert (decoder.gaps, decoder.unborn) == (1, 1)
    batch, _ = decode(decoder, *alive(node))
    assert [r[4] for r in rows(batch)] == [GOOD]
    assert decoder.unborn == 0


def test_who_lacks_a_birth_is_known_until_he_is_born_or_dead() -> None:
    node, other = EdgeNode(), EdgeNode("G", "n2", bdseq=3)
    decoder = codec()
    decode(decoder, *alive(node))
    assert list(decoder.mute) == []
    node.data("d", NOW, count=5)  # is lost
    decode(decoder, node.data("d", NOW, count=6), (b"spBv1.0/G/DDATA/n2/d", node.data("d", NOW, count=7)[1]))
    assert list(decoder.mute) == [("G", "n1"), ("G", "n2")]
    assert decoder.unborn == 2
    decode(decoder, node.birth(NOW), other.will())
    assert list(decoder.mute) == []
    assert decoder.unborn == 1  # the dead one, which nobody could ask


def test_a_birth_is_wished_for_at_once_and_again_and_not_in_a_stream() -> None:
    wishes, mute = Wishes(), {("G", "n1"): None}
    assert wishes.due({}, 0.0) == ()
    assert wishes.due(mute, 0.0) == ("G/n1",)
    mute["G", "n2"] = None
    assert wishes.due(mute, 0.5) == ()
    assert wishes.due(mute, 1.0) == ("G/n1", "G/n2")
    assert wishes.due(mute, 15.9) == ()
    assert wishes.due(mute, 16.0) == ("G/n1", "G/n2")
    mute = {("G", f"n{n}" if n else "x" * 300): None for n in range(1_201)}
    named = [wishes.due(mute, 100.0 + 15 * n) for n in range(3)]
    assert [len(names) for names in named] == [500] * 3
    assert (
        len({name for names in named for name in names}) == 1_200
    )  # all but the long name, which control could not use


def test_deaths() -> None:
    node = EdgeNode(bdseq=7)
    decoder = codec()
    decode(decoder, *alive(node))
    old = EdgeNode(bdseq=6).will()
    assert len(decode(decoder, old)[0]) == 0  # the broker notices the end of the session before
    batch, dead = decode(decoder, node.will())
    assert (dead, rows(batch)) == ((), [("G/n1/d", NOW, None, -1, BAD)])
    assert len(decode(decoder, node.will())[0]) == 0  # nobody dies twice
    batch, dead = decode(decoder, *alive(node), node.device_death("d", NOW - 1), node.will())
    assert rows(batch)[1:] == [("G/n1/d", NOW - 1, None, -1, BAD)]


def test_null_and_the_property_of_quality() -> None:
    node, decoder = EdgeNode(), codec()
    decode(decoder, *alive(node))
    batch, dead = decode(decoder, node.data("d", NOW, **{"Motor/Temperature": None}), node.data("d", NOW + 1, count=1))
    assert (dead, [r[2:] for r in rows(batch)]) == ((), [(None, -1, BAD), (None, 1, BAD)])
    batch, _ = decode(decoder, node.data("d", NOW + 2, **{"Motor/Temperature": 1.0}))
    assert [r[2:] for r in rows(batch)] == [(1.0, 1, GOOD)]


def test_integers_have_signs() -> None:
    for kind, given_ in ((INT16, -5), (INT32, -(2**31)), (INT64, -(2**63)), (INT64, 2**63 - 1)):
        node = EdgeNode()
        sent = [node.birth(NOW), node.device_birth("d", NOW, METRICS | {"count": (kind, given_)})]
        assert [r[3] for r in rows(decode(codec(), *sent)[0])] == [given_]


def test_data_without_a_birth_are_dead_letters_that_say_so_and_others_go_on() -> None:
    lost, node, decoder = EdgeNode(name="n0"), EdgeNode(), codec()
    alive(lost)
    batch, (letter,) = decode(decoder, *alive(node), lost.data("d", NOW, count=1), node.data("d", NOW, count=1))
    assert (len(batch), letter.reason, letter.origin) == (2, "no_birth", "spBv1.0/G/DDATA/n0/d")
    assert "the node's birth was not seen; let the node be born again (Node Control/Rebirth)" in letter.message
    assert decoder.unborn == 1


def test_an_alias_that_the_birth_does_not_have() -> None:
    node = EdgeNode()
    sent = alive(node)
    node.aliases["d", "new"] = (99, FLOAT)
    _, (letter,) = decode(codec(), *sent, node.data("d", NOW, new=1.0))
    assert (letter.reason, "alias 99 has no name: its birth does not have it" in letter.message) == (
        "unknown_alias",
        True,
    )


def test_types_are_strict() -> None:
    node = EdgeNode()
    sent = node.device_birth("d", NOW, {"Motor/Temperature": (DOUBLE, 1.0), "count": (BOOLEAN, True)})
    batch, (letter,) = decode(codec(), node.birth(NOW), sent)
    assert "metric 'count': count is True: a whole number" in letter.message
    assert [r[3] for r in rows(batch)] == [0]  # the other metric is a reading


@pytest.mark.parametrize(
    "topic", [b"spBv1.0/G/DDATA/n", b"spBv1.0/G/NDATA/n/d", b"spBv1.0/G/X/n", b"other", b"spBv1.0//NDATA/n"]
)
def test_topics_that_are_none(topic: bytes) -> None:
    _, (letter,) = decode(codec(), (topic, b""))
    assert (letter.reason, "spBv1.0/group/NDATA/node" in letter.message) == ("topic", True)


@pytest.mark.parametrize("topic", [b"spBv1.0/G/NCMD/n", b"spBv1.0/G/DCMD/n/d", b"spBv1.0/STATE/host"])
def test_what_hosts_write_is_not_for_us(topic: bytes) -> None:
    batch, dead = decode(codec(), (topic, b"\xff"))
    assert (len(batch), dead) == (0, ())


def test_a_payload_that_is_cut_off() -> None:
    node = EdgeNode()
    topic, payload = alive(node)[0]
    _, (letter,) = decode(codec(), (topic, payload[:-3]))
    assert letter.reason == "not_sparkplug"


def test_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spb_codec, "BIRTH_BYTES_MAX", 100)
    _, (letter,) = decode(codec(), (b"spBv1.0/G/NDATA/n", b"x" * 101))
    assert (letter.reason, "more than 100 bytes" in letter.message) == ("too_large", True)
    monkeypatch.undo()
    monkeypatch.setattr(spb_nodes, "NODES_MAX", 1)
    _, dead = decode(codec(), EdgeNode(name="a").birth(NOW), EdgeNode(name="b").birth(NOW))
    assert ["more than 1 edge nodes" in d.message for d in dead] == [True]
    monkeypatch.setattr(spb_nodes, "METRICS_MAX", 2)
    _, (letter,) = decode(codec(), *alive(EdgeNode()))
    assert "more than 2 metrics" in letter.message
    monkeypatch.setattr(spb_nodes, "DEVICES_MAX", 0)
    _, dead = decode(codec(), *alive(EdgeNode()))
    assert "more than 0 devices" in dead[-1].message


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from([b"NBIRTH", b"DBIRTH", b"NDATA", b"DDATA", b"NDEATH", b"DDEATH"]),
    st.binary(max_size=40) | st.integers(0, 60).map(lambda n: alive(EdgeNode())[1][1][:n]),
)
def test_any_bytes_are_readings_or_a_dead_letter(kind: bytes, payload: bytes) -> None:
    node, decoder = EdgeNode(name="good"), codec()
    topic = b"spBv1.0/G/" + kind + b"/n" + (b"/d" if kind[:1] == b"D" else b"")
    batch, dead = decode(decoder, *alive(node), (topic, payload), node.data("d", NOW, count=1))
    assert rows(batch)[-1] == ("G/good/d", NOW, 20.0, 1, GOOD)
    assert len(dead) <= 1


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"group": "a/b"}, "sparkplug group='a/b': the name of one group is needed"),
        ({"key": "{line}"}, "make it of {group}, {node} and {device}"),
        ({"key": "x"}, "make it of {group}, {node} and {device}"),
        ({"fields": {Press.quality: "q"}}, "is no column that devices send; they send Press.temp, Press.count"),
        ({"broker": "edge"}, "write 'mqtt://host:1883'"),
    ],
)
def test_mistakes_are_found_where_they_are_written(options: dict[str, Any], says: str) -> None:
    with pytest.raises(PlanError) as e:
        mqtt.sparkplug(Press, **({"broker": "mqtt://edge"} | options))
    assert says in str(e.value)
