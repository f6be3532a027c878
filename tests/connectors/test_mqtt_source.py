"""The description of an MQTT source: what each mistake is answered with, and that it holds no secret and no library."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from connectors import mqtt, topic
from connectors.mqtt import TopicPattern
from connectors.secrets import secret
from pipelines.errors import ConfigError, PlanError
from pipelines.ports import Sink, Source
from pipelines.schema import Col, Key, Schema
from tests.connectors.schemas import Motor, Vibration


def source(**options: Any) -> Any:
    return mqtt.source(Vibration, **({"broker": "mqtt://edge", "topic": "press/{device}/vib"} | options))


@pytest.mark.parametrize(
    ("text", "filter_", "key"),
    [
        ("press/{device}/vib", "press/+/vib", "p1"),
        ("press/+/vib", "press/+/vib", "p1"),
        ("+/{device}/+", "+/+/+", "p1"),
        ("press/{device}/#", "press/+/#", "p1"),
        ("press/p1/vib", "press/p1/vib", None),
        ("#", "#", None),
    ],
)
def test_which_level_is_the_key(text: str, filter_: str, key: str | None) -> None:
    pattern = TopicPattern.of(text, "device", in_payload=False)
    assert pattern.filter == filter_
    assert pattern.matches("press/p1/vib")
    assert pattern.key("press/p1/vib") == key


@pytest.mark.parametrize(
    ("text", "template", "filter_", "key"),
    [
        ("plant/{line}/{device}/temp", None, "plant/+/+/temp", "l1/p1"),
        ("plant/{line}/{device}/#", "{device}@{line}", "plant/+/+/#", "p1@l1"),
        ("plant/{line}/{machine}/temp", "{line}-{machine}", "plant/+/+/temp", "l1-p1"),
        ("plant/+/{device}/{column}", None, "plant/+/+/+", "p1"),
    ],
)
def test_several_levels_make_up_the_key(text: str, template: str | None, filter_: str, key: str) -> None:
    pattern = TopicPattern.of(text, "device", in_payload=False, template=template)
    assert (pattern.filter, pattern.key("plant/l1/p1/temp")) == (filter_, key)
    assert pattern.key("plant/l1//temp") == ""
    assert pattern.column("plant/l1/p1/temp") == ("temp" if "{column}" in text else None)


def test_a_shared_subscription_and_what_is_told() -> None:
    made = source(share="hall", payload="msgpack")
    assert made.shared(made.pattern.filter) == "$share/hall/press/+/vib"
    assert source().shared("a") == "a"
    assert made.describe() == {"mqtt": "mqtt://edge/press/{device}/vib", "payload": "msgpack", "share": "hall"}


def test_the_key_can_stand_in_the_payload_although_there_are_wildcards() -> None:
    assert source(topic="+/+/vib", key="machine").key_field == "machine"
    assert source(topic="all").key_field == "device"
    assert source().key_field is None


@pytest.mark.parametrize("other", ["press/p1", "press/p1/vib/x", "oven/p1/vib", ""])
def test_topics_that_were_not_asked_for(other: str) -> None:
    assert not TopicPattern.of("press/{device}/vib", "device", in_payload=False).matches(other)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            {"topic": "press/{machine}/vib"},
            "level '{machine}' cannot be used: the key is called {device}, a level to be ignored is written +",
        ),
        ({"topic": "+/+/vib"}, "write {device} once, for the level that names the device, and + for the others"),
        ({"topic": "{device}/{device}"}, "write {device} once"),
        ({"topic": "press/p+"}, "level 'p+' cannot be used: a wildcard is a whole level"),
        ({"topic": "press/p{device}"}, "the key is called {device}"),
        ({"topic": "#/vib"}, "# may only be the last level"),
        ({"topic": "/press"}, "may not begin with /"),
        ({"topic": ""}, "may not begin with /"),
        ({"topic": "$SYS/x"}, "or \\$"),
        ({"broker": "http://edge"}, "write 'mqtt://host:1883' or 'mqtts://host:8883'"),
        ({"broker": "edge:1883"}, "write 'mqtt://host:1883'"),
        ({"broker": "mqtt://["}, "mqtt broker 'mqtt://[': write 'mqtt://host:1883'"),
        ({"broker": "mqtt://edge:99999"}, "mqtt broker 'mqtt://edge:99999': write 'mqtt://host:1883'"),
        ({"ca": "ca.pem"}, 'mqtt ca: write secret("name of a file in secrets_dir")'),
        ({"password": secret("pw")}, 'write username="…", password=secret'),
        ({"username": "u", "password": "pw"}, "password=secret"),
        ({"speed": -1}, "speed is at least 0"),
        ({"time_unit": "minutes"}, "time_unit is iso, s, ms, us or ns"),
        ({"future_max": "soon"}, "mqtt future_max: 'soon' is not a duration"),
        ({"silence": "1"}, "mqtt silence: '1' is not a duration"),
        ({"key": "{line}/{device}"}, "the topic 'press/{device}/vib' has no level {line} for a key"),
        ({"key": "{device}}"}, "write the names of levels in braces"),
        (
            {"topic": "{line}/{device}", "key": "{device}"},
            "key='{device}' does not use it; a level to be ignored is written +",
        ),
        ({"share": "a/b"}, "mqtt share='a/b': a name of up to 64 characters"),
        ({"version": "4"}, "mqtt version='4': write 'auto', '5' or '3.1.1'"),
        ({"certificate": secret("c")}, "mqtt certificate: write certificate=secret"),
        ({"certificate": secret("c"), "private_key": secret("k")}, "and a broker of mqtts://"),
        ({"payload": "xml"}, "mqtt payload='xml': write 'json', 'cbor', 'msgpack', 'number', 'csv:time,rms'"),
        ({"payload": "f4"}, "the numpy type of a binary number, such as '<f4'"),
        ({"payload": "csv:"}, "mqtt payload='csv:': write"),
        ({"payload": "csv:time,x"}, "has no field 'rms': name it there, or in fields="),
        ({"payload": "<f4", "topic": "all"}, "holds no key: write {device} in the topic"),
        ({"rows": "readings"}, "mqtt rows='readings': write 'readings[*]'"),
        ({"rows": "r[*]", "payload": "number"}, "for a payload of json, cbor or msgpack"),
        ({"fields": {Vibration.device: "x"}}, "is no column that devices send; they send Vibration.rms"),
        ({"fields": {"rms": "x"}}, "'rms' is no column that devices send"),
        ({"fields": {Vibration.rms: "a..b"}}, "path 'a..b': write names with points between them"),
        ({"fields": {Vibration.rms: "time.x"}}, "is used twice, or as a value and as an object"),
    ],
)
def test_mistakes_are_found_where_they_are_written(options: dict[str, Any], says: str) -> None:
    with pytest.raises(PlanError) as e:
        source(**options)
    assert says.replace("\\", "") in str(e.value)


def test_payloads_that_do_not_fit_the_schema() -> None:
    with pytest.raises(PlanError, match="Motor has 5 columns, and a message one number"):
        mqtt.source(Motor, broker="mqtt://edge", topic="{device}", payload="number")
    with pytest.raises(
        PlanError, match=r"a message holds one \{column\}, so each needs a value where it is absent: write speed"
    ):
        mqtt.source(Motor, broker="mqtt://edge", topic="{device}/{column}")


def test_a_password_in_the_url_is_refused_without_showing_it() -> None:
    with pytest.raises(PlanError) as e:
        source(broker="mqtt://me:geheim@edge")
    assert "geheim" not in str(e.value)


def test_a_description_shows_no_secret(tmp_path: Path) -> None:
    (tmp_path / "pw").write_text("geheim\n")
    made = source(username="me", password=secret("pw"))
    assert made.password.read(tmp_path) == "geheim"
    assert "geheim" not in repr(made) + str(made.describe())


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden"])
def test_a_secret_is_a_plain_file_name(name: str) -> None:
    with pytest.raises(ConfigError, match="plain name of a file in `secrets_dir`"):
        secret(name)


def test_a_secret_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"secret 'pw' is missing: put it into the file {tmp_path}/pw"):
        secret("pw").read(tmp_path)


def test_the_stream_is_called_as_the_schema() -> None:
    class PressVibration(Schema):
        device = Key[str]()
        rms = Col[float]("mm/s")

    assert mqtt.source(PressVibration, broker="mqtt://e", topic="{device}").stream == "press-vibration"
    assert source().stream == "vibration"
    assert source(stream="vib").stream == "vib"
    assert mqtt.source(Vibration, broker="mqtt://e", topic="{device}").describe() == {"mqtt": "mqtt://e/{device}"}
    assert source(speed=60).describe()["speed"] == "60"


def test_descriptions_load_no_client_library() -> None:
    program = "import sys; from connectors import mqtt, replay, simulator, topic; "
    program += "print({m.split('.')[0] for m in sys.modules} & {'aiomqtt', 'aiokafka', 'paho', 'cbor2', 'google'})"
    out = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    )
    assert out.stdout.strip() == "set()"


def test_foreign_topics() -> None:
    work: Source[Vibration] = topic.compacted(Vibration, "maintenance")
    rows: Source[Vibration] = topic.append(Vibration, "vib")
    kept: Sink = topic.results()
    assert (work.stream, rows.stream, kept.kind, kept.describe()) == ("maintenance", "vib", "topic", {})
    assert work.describe() == {"topic": "maintenance", "form": "compacted"}
    assert not hasattr(work, "reader")
    kept.check(Vibration.measured())
    assert issubclass(work.schema, Schema)
