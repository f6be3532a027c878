"""What a pipeline file may say of HTTP, each mistake in words; and the whole way into Kafka, with kill -9."""

from __future__ import annotations

import ast
import asyncio
import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from connectors import http
from connectors.conditions import deadband, swinging_door
from connectors.http import poll, push
from connectors.http.codec import Body, Codec
from connectors.secrets import secret
from containers.child import free_port
from containers.embedded import EmbeddedKafka
from pipelines.errors import PlanError
from tests.bed import until
from tests.connectors.http_world import TOKEN
from tests.connectors.options_table import PAGE, check
from tests.connectors.schemas import Motor, Vibration
from tests.connectors.test_collect import Collect, records

TOKENS: dict[str, Any] = {"tokens": secret("t")}
A = "http://h/a"


def test_the_page_says_what_the_functions_take() -> None:
    check("http.push", push, PAGE.parent / "connectors" / "http.md")
    check("http.poll", poll, PAGE.parent / "connectors" / "http.md")


def test_what_a_description_says_of_itself() -> None:
    pushed = push(
        Vibration, path="/r/{device}", payload="cbor", certificate=secret("c"), private_key=secret("k"), **TOKENS
    )
    assert pushed.describe() == {"http push": "POST https://0.0.0.0:9470/r/{device}", "payload": "cbor"}
    polled = poll(Vibration, url={"a": A, "b": "http://h/b"}, every="5s")
    assert polled.describe() == {"http poll": "GET a=http://h/a, b=http://h/b", "every": "5s"}
    assert (polled.stale, polled.silence, polled.stream) == ("10s", "10s", "vibration")
    assert poll(Vibration, url=A, every="100ms").silence == "2s"
    assert push(Vibration, path="/r", conditions=[deadband(Vibration.rms, absolute=1)], **TOKENS).conditions


PUSHES: list[tuple[dict[str, Any], str]] = [
    ({"path": "r"}, r"http push path='r': write one such as '/readings' or '/readings/\{device\}'"),
    ({"path": "/"}, "http push path='/'"),
    ({"path": "/r/x y"}, "http push path='/r/x y'"),
    ({"path": "/{name}"}, r"http push path='/\{name\}': only \{device\}, the schema's Key, can stand in it, once"),
    ({"path": "/{device}/{device}"}, "can stand in it, once"),
    ({"tokens": None}, r'http push: nobody may post: write tokens=secret\("…"\), or users=secret\("…"\)'),
    ({"tokens": "abc"}, r'http push tokens: write secret\("name of a file in secrets_dir"\)'),
    ({"certificate": secret("c")}, "http push certificate: write certificate=.* and private_key=.*, both"),
    ({"listen": "0.0.0.0"}, "http push listen='0.0.0.0': write an IP address and a port, such as '0.0.0.0:9470'"),
    ({"listen": "0.0.0.0:0"}, "http push listen='0.0.0.0:0'"),
    ({"listen": "host:1"}, "http push listen='host:1'"),
    ({"device_rate": "10"}, "http push device_rate: rate '10': write how many in what time, such as '6/1m'"),
    ({"device_rate": "0/1s"}, "http push device_rate='0/1s': write 1 to 1000000 in at most an hour, such as '1000/10s'"),
    ({"token_rate": "1/2h"}, "http push token_rate='1/2h': write 1 to 1000000 in at most an hour"),
    ({"token_rate": "1/0s"}, "http push token_rate='1/0s'"),
    ({"device_rate": "6/1m", "path": "/r"}, r"http push device_rate='6/1m': the path '/r' does not say which device posts: "
     r"write \{device\} into it, or token_rate="),
    ({"path": "/{device}", "key": "id"}, r"http push key='id': the key stands in the path '/\{device\}' already"),
    ({"conditions": [swinging_door(Vibration.rms, deviation=1)]}, "a swinging door holds a reading back .* use a dead-band"),
]  # fmt: skip
POLLS: list[tuple[dict[str, Any], str]] = [
    ({"url": {}}, "http poll url: 0 are given; a source has 1 to 1000"),
    ({"url": {"": A}}, "http poll url: '' is no name of a device: it has 1 to 255 characters"),
    ({"url": "ftp://h"}, "http poll url='ftp://h': write 'https://host/path', and username= and password= apart"),
    ({"url": "http://me:pw@h/"}, "http poll url='http://…@h/': write"),
    ({"url": "http://me:p/w@h/"}, "http poll url='http://…@h/': write"),
    ({"url": "http://h:99999/"}, "http poll url='http://h:99999/'"),
    ({"url": "http://["}, r"http poll url='http://\[': write"),
    ({"ca": "ca.pem"}, "http poll ca: write secret"),
    ({"url": {"a": A}, "key": "id"}, "http poll key='id': each URL has the name of its device already"),
    ({"every": "soon"}, "http poll every: 'soon'"),
    ({"every": "0s"}, "http poll every: '0s' is no time at all"),
    ({"timeout": "0s"}, "http poll timeout: '0s' is no time at all"),
    ({"offset": "x"}, "http poll offset: 'x'"),
    ({"jitter": "x"}, "http poll jitter: 'x'"),
    ({"token": secret("t"), "username": "u", "password": secret("p")}, r'http poll: write token=secret\("…"\), or username='),
    ({"username": "u"}, 'http poll: write token=.*, or username="…" and password='),
    ({"username": "a:b", "password": secret("p")}, "http poll username='a:b': a colon ends it"),
    ({"password": "pw", "username": "u"}, "http poll password: write secret"),
    ({"headers": {"X-Key": "k"}}, "http poll headers X-Key secret: write secret"),
    ({"headers": {"Host": secret("t")}}, "http poll headers: 'Host' cannot be given: write one such as 'X-Api-Key'"),
    ({"headers": {"X Y": secret("t")}}, "http poll headers: 'X Y' cannot be given"),
    ({"cursor": "c"}, r"""http poll cursor='c': where is its value\? Write next_page="paging.next\""""),
    ({"next_page": "p.next", "payload": "cbor"}, "http poll next_page='p.next': a field can be found in JSON only"),
    ({"next_page": "p.next"}, r"""http poll next_page='p.next': where are the readings beside it\? Write rows="""),
    ({"since": "from", "time": None}, r"http poll since='from': readings have no time of their own \(time=None\)"),
    ({"since": "a b"}, "http poll since='a b': write the name of a parameter of the query"),
]  # fmt: skip
BOTH: list[tuple[dict[str, Any], str]] = [
    ({"payload": "xml"}, "payload='xml': write 'json', 'cbor', 'msgpack', or 'csv:time,rms' with the names of its fields"),
    ({"payload": "csv:"}, "payload='csv:': write"),
    ({"payload": "csv:device,time"}, "payload='csv:device,time' has no field 'rms': name it there, or in fields="),
    ({"rows": "list"}, r"rows='list': write 'readings\[\*\]', for a payload of json, cbor or msgpack"),
    ({"rows": "l[*]", "payload": "csv:device,rms"}, r"rows='l\[\*\]': write"),
    ({"fields": {Vibration.rms: "a..b"}}, "path 'a..b': write names with points between them"),
    ({"fields": {Motor.load: "x"}}, "fields: .* is no column that devices send; they send Vibration.rms"),
    ({"time_unit": "h"}, "time_unit='h': write 'iso', 's', 'ms', 'us', 'ns'"),
    ({"future_max": "1"}, "future_max: '1'"),
    ({"silence": "x"}, "silence: 'x'"),
    ({"stale": "0s"}, "stale: '0s' is no time at all"),
]  # fmt: skip


@pytest.mark.parametrize(("wrong", "says"), [*PUSHES, *((w, f"(http push )?{s}") for w, s in BOTH)], ids=lambda x: "")
def test_a_push_that_cannot_be_right(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(PlanError, match=says):
        push(Vibration, **({"path": "/r"} | TOKENS | wrong))


@pytest.mark.parametrize(("wrong", "says"), [*POLLS, *((w, f"(http poll )?{s}") for w, s in BOTH)], ids=lambda x: "")
def test_a_poll_that_cannot_be_right(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(PlanError, match=says):
        poll(Vibration, **({"url": A} | wrong))


def test_both_ways_of_decoding_give_the_same() -> None:
    codec = Codec(push(Motor, path="/r/{device}", time_unit="s", **TOKENS))
    good = {"speed": 1, "torque": 2.5, "starts": 3, "running": True, "time": 1_767_225_600}
    texts = [
        json.dumps(good), json.dumps([good, good | {"load": 7}]), json.dumps([good, good | {"starts": 1.5}, good]), "[]", "{}",
        json.dumps(good, indent=2), '{"speed": "\\ud800"}', '["x"]',
        json.dumps([good | {"torque": 1e300}]), " ", "null", "[null]",
    ]  # fmt: skip
    bodies = [Body(t.encode(), "o", 1_767_225_600 * 10**9, "a") for t in texts]
    for some in (bodies, bodies[:2], []):
        fast, slow = (codec.decode(some, latest_ns=2**62, whole=whole) for whole in (True, False))
        assert (fast.verdicts, fast.letters, fast.ends.tolist()) == (slow.verdicts, slow.letters, slow.ends.tolist())
        assert (fast.batch.keys, fast.batch.time.tolist()) == (slow.batch.keys, slow.batch.time.tolist())
        assert {n: c.tolist() for n, c in fast.batch.columns.items()} == {
            n: c.tolist() for n, c in slow.batch.columns.items()
        }


def test_nothing_but_get_is_sent() -> None:
    """aiohttp could send more; we say GET, in one place."""
    folder = Path(http.__file__).parent
    sent = []
    for file in sorted(folder.glob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Attribute) and ast.unparse(node.value).endswith("_session"):
                sent.append((file.name, node.attr))
    assert sent == [("client.py", "get"), ("client.py", "close")]
    assert [f.name for f in folder.glob("*.py") if "ClientSession" in f.read_text()] == ["client.py"]
    assert "WSConnect" not in (folder / "client.py").read_text()


async def test_kill_9_loses_nothing_that_was_accepted(
    kafka: EmbeddedKafka, unique: str, tmp_path: Path, collects: list[Collect]
) -> None:
    port = free_port()
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "t").write_text(TOKEN)
    read = f"http.push(Vibration, path='/r/{{device}}', tokens=secret('t'), listen='127.0.0.1:{port}')"
    collect = Collect(tmp_path, unique, kafka.bootstrap, read)
    file = tmp_path / "pipeline.py"
    file.write_text("from connectors import http\nfrom connectors.secrets import secret\n" + file.read_text())
    settings = json.loads((tmp_path / "collect.json").read_text())
    (tmp_path / "collect.json").write_text(json.dumps({**settings, "secrets_dir": str(tmp_path / "secrets")}))
    collects.append(collect.start())
    left, accepted = list(range(200)), []

    async def device(session: aiohttp.ClientSession) -> None:
        while left:
            value = left.pop(0)
            while value not in accepted:
                try:
                    async with session.post(f"http://127.0.0.1:{port}/r/d{value % 5}", json=[{"rms": value}]) as answer:
                        if answer.status == 200:
                            accepted.append(value)
                            continue
                except aiohttp.ClientError:
                    pass
                await asyncio.sleep(0.05)
            await asyncio.sleep(0.01)

    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {TOKEN}"}) as session:
        posting = [asyncio.create_task(device(session)) for _ in range(4)]
        await until(lambda: len(accepted) > 40, 30, "readings to be accepted")
        collect.child.kill9()
        before = set(accepted)
        await asyncio.to_thread(collect.start)
        await asyncio.gather(*posting)
        async with session.post(f"http://127.0.0.1:{port}/r/d", json=[{"rms": 1000}, {"rms": None}]) as answer:
            assert answer.status == 400
    values = await collect.values()
    assert before <= set(values)
    assert set(values) == {*range(200), 1000}
    assert [v for _, _, v in await records(kafka.bootstrap, f"{unique}.dead")] == [b'[{"rms": 1000}, {"rms": null}]']
