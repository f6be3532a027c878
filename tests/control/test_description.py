"""What a pipeline file may say of commands, what becomes of it, and what each mistake is answered with."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from connectors import control, mqtt, replay
from connectors.control.bridge import origins
from connectors.control.commands import Answer, Command, decode, decode_ack
from connectors.control.service import broker_of
from connectors.link import Broker
from connectors.secrets import secret
from pipelines import Col, Key, Pipeline, Schema
from pipelines.batch import Batch
from pipelines.errors import BadData, ConfigError, PlanError
from pipelines.plan import Plan
from pipelines.settings import Settings

SECOND = 10**9
NOW = 1_700_000_000 * SECOND


class Reading(Schema):
    device = Key[str]()
    rms = Col[float]("mm/s")


class Alarm(Schema):
    rms = Reading.rms


def sink(**changes: Any) -> control.CommandSink:
    return control.command(**({"topic": "press/{device}/cmd", "verb": "stop", "expires": "30s"} | changes))


def plan(*sinks: control.CommandSink, source: Any = None) -> Plan:
    press = Pipeline("press")
    readings = press.read(source or mqtt.source(Reading, broker="mqtt://edge", topic="press/{device}/vib"))
    readings.select(Alarm).to(*sinks)
    return press.plan()


def test_one_command_for_each_row() -> None:
    ((origin, second),) = origins(plan(sink(speed=0.5, why=Alarm.rms), sink(verb="beep")), "s1").values()
    batch = Batch.of_keys(["p1", "p2"], np.array([NOW, NOW + 1]), {"Alarm.rms": np.array([5.0, 6.0])})
    one, two = origin.commands(batch, NOW + SECOND)
    assert one.args == {"speed": 0.5, "why": 5.0}
    assert two.args == {"speed": 0.5, "why": 6.0}
    assert (one.topic, two.topic, one.issuer) == ("press/p1/cmd", "press/p2/cmd", "press/alarm")
    assert (one.issued_at_ns, one.expires_at_ns) == (NOW, NOW + 30 * SECOND)
    assert list(origin.commands(batch, NOW + 2 * SECOND)) == [one, two]  # done again, it is the same
    ids = {c.id for o in (origin, second) for c in o.commands(batch, NOW)}
    assert len(ids) == 4
    assert decode(one.encode(), b"p1") == one


def test_time_counts_from_the_row_but_not_from_the_future_nor_from_a_recording() -> None:
    batch = Batch.of_keys(["p1"], np.array([NOW]), {"Alarm.rms": np.array([5.0])})
    ((origin,),) = origins(plan(sink()), "s1").values()
    assert [c.issued_at_ns for c in origin.commands(batch, NOW - 5)] == [NOW - 5]
    for source in (
        replay.source(Reading, "old.csv"),
        mqtt.source(Reading, broker="mqtt://edge", topic="press/+", speed=60.0),
    ):
        ((origin,),) = origins(plan(sink(), source=source), "s1").values()
        assert [c.issued_at_ns for c in origin.commands(batch, NOW + 7 * SECOND)] == [NOW + 7 * SECOND]


def test_a_description_says_everything_that_matters() -> None:
    described = sink(
        speed=0.5, why=Alarm.rms, idempotent=True, broker="mqtt://b", username="u", password=secret("hidden")
    ).describe()
    assert described == {
        "topic": "press/{device}/cmd", "verb": "stop", "args": "speed=0.5, why=Alarm.rms", "expires": "30s",
        "idempotent": "true", "broker": "mqtt://b",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"topic": "press/cmd"},
            "command topic 'press/cmd': write the device once, as a level of its own before the last",
        ),
        ({"topic": "press/x{device}/cmd"}, "as a level of its own"),
        ({"topic": "press/{device}"}, "before the last"),
        ({"topic": "press/+/{device}/cmd"}, "no wildcards"),
        ({"topic": "press/{device}/ack"}, "answers are read from the topic beside it"),
        ({"verb": "Set Speed"}, "command verb 'Set Speed' cannot be used: write lower-case letters"),
        ({"expires": "soon"}, "command 'stop': expires: 'soon' is not a duration"),
        ({"expires": "0s"}, "expires='0s' must be more than 0"),
        ({"broker": "mqtt://["}, r"command 'stop' broker='mqtt://\[': write 'mqtt://host:1883'"),
        ({"broker": "mqtt://u:p@b"}, "command 'stop' broker='mqtt://…@b': write .* and username= and password= apart"),
        ({"password": secret("pw")}, "command 'stop' password: write username=\"…\", password=secret"),
        ({"ca": "ca.pem"}, "command 'stop' ca: write secret"),
        ({"attempts_max": 0}, "attempts_max=0 must be from 1 to 10"),
        ({"speed": [1]}, r"speed=\[1\] cannot be sent: give a number, a text, True, False or a column"),
        ({"speed": float("nan")}, "speed=nan cannot be sent"),
    ],
)
def test_mistakes_in_a_description(changes: dict[str, object], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        sink(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"topic": "press/{machine}/cmd"}, "the key of Alarm is 'device': write {device} for the device"),
        (
            {"why": Reading.rms * 2},
            r"why=\(Reading.rms \* 2\) is not a column of Alarm \(it has Alarm.rms\): .*\.select\(…\) that before",
        ),
        ({"why": Reading.rms}, "why=Reading.rms is not a column of Alarm"),
    ],
)
def test_mistakes_against_a_row(changes: dict[str, object], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        plan(sink(**changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id": "a b"}, "id: 1 to 128 letters"),
        ({"device": "a/b/c"}, "device: 1 to 256 characters, none of /"),
        ({"verb": "Stop!"}, "verb: lower-case"),
        ({"expires_at_ns": NOW}, "expires_at_ns: after issued_at_ns"),
        ({"attempts_max": 99}, "attempts_max: 1 to 10"),
        ({"args": {f"a{i}": i for i in range(33)}}, "args: at most 32"),
    ],
)
def test_a_command_that_breaks_a_rule(changes: dict[str, object], message: str) -> None:
    fields: dict[str, Any] = {
        "id": "a", "device": "p1", "verb": "stop", "issuer": "me", "issued_at_ns": NOW, "expires_at_ns": NOW + 1
    } | changes  # fmt: skip
    command = Command(**fields)
    with pytest.raises(BadData, match=message):
        decode(command.encode(), command.device.encode())


@pytest.mark.parametrize(
    ("raw", "reason", "message"),
    [
        (None, "size", "a command has 1 to 65536 bytes, this one 0"),
        (b"x" * 70_000, "size", "this one 70000"),
        (b"{", "json", "not JSON"),
        (b'{"id": "a"}', "command", "missing required field `device`"),
        (
            b'{"id":"a","device":"p","verb":"v","issuer":"i","issued_at_ns":1,"expires_at_ns":2,"expire":3}',
            "command",
            "unknown field `expire`",
        ),
    ],
)
def test_what_is_no_command(raw: bytes | None, reason: str, message: str) -> None:
    with pytest.raises(BadData, match=message) as error:
        decode(raw, b"p1")
    assert error.value.reason == reason


def test_answers() -> None:
    assert decode_ack(b'{"id": "a", "state": "SUCCEEDED", "took_ms": 3}').state is Answer.SUCCEEDED
    assert len(decode_ack(b'{"id": "a", "state": "FAILED", "detail": "%s"}' % (b"x" * 5000)).detail) == 500
    for raw in (b"", b"\xff", b'{"id": "a", "state": "DONE"}', b"x" * 70_000):
        with pytest.raises(BadData):
            decode_ack(raw)


def at(folder: Path, **options: str) -> Settings:
    return Settings(site="s1", brokers="b:1", pipeline="press.py", options=options, secrets_dir=str(folder))


def test_where_commands_go(tmp_path: Path) -> None:
    (tmp_path / "pw").write_text("geheim\n")
    assert broker_of(at(tmp_path), plan(sink())) == Broker("edge", 1883, tls=False)
    own = plan(sink(broker="mqtts://plc", username="control", password=secret("pw")))
    assert broker_of(at(tmp_path), own) == Broker("plc", 8883, tls=True, username="control", password="geheim")
    assert broker_of(at(tmp_path, mqtt="mqtt://here:9"), own) == Broker(
        "here", 9, tls=False, username="control", password="geheim"
    )


def test_mistakes_in_where_commands_go(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"2 MQTT brokers \(mqtt://a, mqtt://b\): write the same"):
        broker_of(at(tmp_path), plan(sink(broker="mqtt://a"), sink(broker="mqtt://b", verb="go")))
    with pytest.raises(ConfigError, match="have no MQTT broker: write"):
        broker_of(at(tmp_path), plan(sink(), source=replay.source(Reading, "old.csv")))
    for url in ("http://x", "mqtt://[", "mqtt://x/y"):
        with pytest.raises(ConfigError, match=rf"mqtt broker '{re.escape(url)}': write 'mqtt://host:1883'"):
            broker_of(at(tmp_path, mqtt=url), plan(sink()))
    with pytest.raises(ConfigError, match=r"mqtt broker 'mqtt://…@x': write .*, and username= and password= apart"):
        broker_of(at(tmp_path, mqtt="mqtt://u:p@x"), plan(sink()))
    with pytest.raises(ConfigError, match="secret 'pw' is missing"):
        broker_of(at(tmp_path), plan(sink(broker="mqtt://a", username="u", password=secret("pw"))))
