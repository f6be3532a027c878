"""Schemas from a registry: a real one for what it registers, and a small one that misbehaves for what a registry can do wrong."""

from __future__ import annotations

import base64
import http.server
import json
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto

from connectors import kafka
from connectors.kafka import avro, protobuf, wanted
from connectors.kafka import schemas as schemas_module
from connectors.kafka.codec import Codec
from connectors.kafka.registry import Client, Registered
from connectors.kafka.schemas import Fetched
from connectors.secrets import secret
from pipelines.clock import ManualClock
from pipelines.dead import DeadLetter
from pipelines.errors import BadData, ConfigError, PlanError, Unavailable
from pipelines.ports import Lacking, Surroundings
from tests.bed import free_port
from tests.bed.certificate import self_signed
from tests.bed.schema_registry import SchemaRegistry
from tests.connectors.test_kafka_avro import ABSENT, METER, TAKEN_MS, Any4, decoded, record, written
from tests.connectors.test_kafka_protobuf import Inner, Meter, meter_file


def framed(number: int, body: bytes, indexes: bytes = b"") -> bytes:
    return b"\0" + number.to_bytes(4, "big") + indexes + body


def codec(kind: type[kafka.Avro] | type[kafka.Protobuf], url: str, **options: Any) -> Codec:
    make = avro.decoder if kind is kafka.Avro else protobuf.decoder
    payload = kind(registry=kafka.Registry(url=url))
    return make(kafka.source(Any4, topic="t", payload=payload, **({"time": None} | options)), Surroundings())


async def fetched(codec: Codec, payloads: Sequence[bytes]) -> tuple[list[tuple[Any, ...]], list[DeadLetter]]:
    """As `decoded`; what is lacking is fetched, once for all."""
    with pytest.raises(Lacking) as lacking:
        decoded(codec, payloads)
    await lacking.value.fetch()
    return decoded(codec, payloads)


async def waited_out(codec: Codec, payload: bytes, says: str) -> None:
    """Its schema is lacking, and cannot be had now."""
    with pytest.raises(Lacking) as lacking:
        decoded(codec, [payload])
    with pytest.raises(Unavailable, match=says):
        await lacking.value.fetch()


async def test_messages_of_several_schemas_are_read_together(schema_registry: SchemaRegistry, unique: str) -> None:
    older = schema_registry.register(f"{unique}-old", record("Meter", device="string", whole="int"))
    newer = record("Meter", extra={"type": "array", "items": "string"}, whole="long", number="double", device="string")
    newest = schema_registry.register(f"{unique}-new", newer)
    reading = codec(kafka.Avro, schema_registry.url)
    payloads = [
        framed(older, written(record("Meter", device="string", whole="int"), {"device": "a", "whole": 1})),
        framed(newest, written(newer, {"device": "b", "whole": 2, "number": 0.5, "extra": ["x"]})),
        framed(2**31, b""),
        framed(older, b"\x02c\x06"),
    ]
    rows, dead = await fetched(reading, payloads)
    assert [(r[0], r[2], r[3]) for r in rows] == [("a", ABSENT["float"], 1), ("b", 0.5, 2), ("c", ABSENT["float"], 3)]
    assert [(d.reason, d.message) for d in dead] == [
        ("unknown_schema", f"t[0]@2: the schema registry {schema_registry.url} does not know the schema {2**31}")
    ]
    assert decoded(reading, payloads)[0] == rows, "nothing is asked for again"


async def test_a_field_whose_type_changed_is_refused_in_those_messages(
    schema_registry: SchemaRegistry, unique: str
) -> None:
    worse = record("Meter", device="string", number="string")
    one, two = schema_registry.register(f"{unique}-1", METER), schema_registry.register(f"{unique}-2", worse)
    good, bad = written(METER, {"device": "d", "number": 1.5}), written(worse, {"device": "d", "number": "1.5"})
    rows, dead = await fetched(codec(kafka.Avro, schema_registry.url), [framed(one, good), framed(two, bad)])
    assert [r[2] for r in rows] == [1.5]
    assert [d.message for d in dead] == [f"t[0]@1: number is a string in schema {two}: a number is needed"]


async def test_avro_refers_to_schemas_of_other_subjects(schema_registry: SchemaRegistry, unique: str) -> None:
    inner = record("plant.Value", number="double")
    outer = record("plant.Meter", device="string", value="plant.Value")
    schema_registry.register(f"{unique}-value", inner)
    number = schema_registry.register(f"{unique}-meter", outer, references=[("plant.Value", f"{unique}-value")])
    reading = codec(kafka.Avro, schema_registry.url, fields={Any4.number: "value.number"})
    rows, dead = await fetched(reading, [framed(number, b"\x02d" + b"\0\0\0\0\0\0\xf8\x3f")])
    assert ([r[2] for r in rows], dead) == ([1.5], [])


READING_PROTO = """
syntax = "proto3";
package plant;
enum State { OFF = 0; ON = 1; FAULT = 5; }
message Reading { double d = 1; State state = 10; }
"""


async def test_a_registry_that_has_no_descriptors_to_give_is_waited_out_with_a_cure(
    schema_registry: SchemaRegistry, unique: str
) -> None:
    """Apicurio 3.3 either fails or gives the bytes as if they were text."""
    number = schema_registry.register(unique, READING_PROTO, "PROTOBUF")
    says = (
        r"does not give (the schema|descriptors).* answers .*; .*write file= with the output of protoc, and framed=True"
    )
    await waited_out(codec(kafka.Protobuf, schema_registry.url), framed(number, b"", b"\0"), says)


async def test_a_schema_of_another_kind_is_refused(schema_registry: SchemaRegistry, unique: str) -> None:
    number = schema_registry.register(unique, READING_PROTO, "PROTOBUF")
    _, dead = await fetched(codec(kafka.Avro, schema_registry.url), [framed(number, b"")])
    assert [(d.reason, d.message) for d in dead] == [
        ("schema_kind", f"t[0]@0: schema {number} is of the kind PROTOBUF, and payload= says AVRO")
    ]


# What a registry can do wrong

Answer = Callable[[str, dict[str, str]], tuple[int, bytes]]


@contextmanager
def answering(answer: Answer, port: int = 0, tls: Path | None = None) -> Iterator[str]:
    """A server that answers a path and headers with a status and a body."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = answer(self.path, dict(self.headers))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Location", "http://127.0.0.1:1/elsewhere")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
    if tls is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tls)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"{'http' if tls is None else 'https'}://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def schema_answer(schema: object) -> bytes:
    return json.dumps({"schema": schema if isinstance(schema, str) else json.dumps(schema)}).encode()


GOOD = schema_answer(METER)


@pytest.mark.parametrize(
    ("status", "body", "says"),
    [
        (500, b"oops", r"the schema registry does not give the schema 7: .*/schemas/ids/7 answers 500 b'oops'"),
        (401, b"", r"the schema registry lets nobody in with this account \(401\): .*: mend its secret"),
        (403, b"", r"lets nobody in with this account \(403\)"),
        (302, b"", r"answers 302"),
        (200, b"<html>", r"does not answer as a schema registry does \(b'<html>'\): correct the url= of kafka\.Registry"),
        (404, b"<html>", r"does not answer as a schema registry does"),
        (404, b'{"error_code":404,"message":"HTTP 404 Not Found"}', r"answers 404"),
        (200, b'{"schema":"' + b"x" * 2**22 + b'"}', r"does not give the schema 7"),
    ],
)  # fmt: skip
async def test_what_is_no_answer_is_waited_out(status: int, body: bytes, says: str) -> None:
    with answering(lambda path, headers: (status, body)) as url:
        await waited_out(codec(kafka.Avro, url), framed(7, b""), says)


async def test_a_registry_that_is_not_there_is_waited_out() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    says = rf"the schema registry does not answer: {url}/schemas/ids/7: .*refused"
    await waited_out(codec(kafka.Avro, url), framed(7, b""), says)


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ("{", "schema 7 is no schema of Avro: JSONDecodeError"),
        (record("M", device="string", number="Nobody"), "schema 7 is no schema of Avro: UnknownType"),
        (["null", "int"], "there is no device"),
    ],
)  # fmt: skip
async def test_a_schema_that_cannot_be_used_ends_in_its_messages(schema: object, says: str) -> None:
    answers = {"/schemas/ids/7": schema_answer(schema), "/schemas/ids/8": GOOD}
    with answering(lambda path, headers: (200, answers[path])) as url:
        good = written(METER, {"device": "d", "number": 1.5})
        rows, dead = await fetched(codec(kafka.Avro, url), [framed(7, b"\0"), framed(8, good)])
    assert [r[2] for r in rows] == [1.5]
    assert says in dead[0].message


async def test_protobuf_as_text_is_waited_out_with_a_cure() -> None:
    answer = json.dumps({"schemaType": "PROTOBUF", "schema": READING_PROTO}).encode()
    with answering(lambda path, headers: (200, answer)) as url:
        says = r"does not give descriptors: .*/schemas/ids/7.* answers .*; write file= with the output of protoc, and framed=True"
        await waited_out(codec(kafka.Protobuf, url), framed(7, b"", b"\0"), says)


async def test_a_circle_of_references_is_followed_once() -> None:
    circle = json.dumps({
        "schema": json.dumps(METER), "references": [{"name": "a", "subject": "a", "version": 1}],
    }).encode()  # fmt: skip
    with answering(lambda path, headers: (200, circle)) as url:
        good = written(METER, {"device": "d", "number": 1.5})
        rows, dead = await fetched(codec(kafka.Avro, url), [framed(7, good)])
    assert ([r[2] for r in rows], dead) == ([1.5], [])


def serialized(file: FileDescriptorProto, *references: tuple[str, str]) -> bytes:
    """As Confluent's registry and Karapace answer `format=serialized`."""
    refers = [{"name": name, "subject": subject, "version": 3} for name, subject in references]
    text = base64.b64encode(file.SerializeToString()).decode()
    return json.dumps({"schemaType": "PROTOBUF", "schema": text, "references": refers}).encode()


async def test_protobuf_of_a_registry_needs_no_compiler() -> None:
    meter, reading = meter_file(), FileDescriptorProto(name="default", package="plant", syntax="proto3")
    state = FileDescriptorProto(name="default", package="plant", syntax="proto3")
    state.enum_type.extend(meter.enum_type)
    reading.dependency.append("plant/state.proto")
    reading.message_type.append(meter.message_type.pop(0))
    meter.ClearField("enum_type")
    meter.dependency.append("plant/reading.proto")
    answers = {
        "/schemas/ids/7?format=serialized": serialized(meter, ("plant/reading.proto", "a/b")),
        "/subjects/a%2Fb/versions/3?format=serialized": serialized(reading, ("plant/state.proto", "c")),
        "/subjects/c/versions/3?format=serialized": serialized(state),
    }
    fields = {Any4.number: "reading.d", Any4.word: "reading.state"}
    body = Meter(device="d", reading={"d": 2.5, "state": 5}, at={"seconds": TAKEN_MS // 1000 - 1}).SerializeToString()
    inner = Inner(device="i", number=1.5).SerializeToString()
    payloads = [framed(7, body, b"\0"), framed(7, inner, b"\x04\x00\x00"), framed(7, body, b"\x02\x0e")]
    with answering(lambda path, headers: (200, answers[path])) as url:
        rows, dead = await fetched(codec(kafka.Protobuf, url, fields=fields, time="at"), payloads)
    assert [(r[0], r[1], r[2], r[5]) for r in rows] == [
        ("d", TAKEN_MS - 1000, 2.5, "FAULT"),
        ("i", TAKEN_MS, ABSENT["float"], ABSENT["text"]),
    ]
    assert [(d.reason, d.message) for d in dead] == [("not_framed", "t[0]@2: schema 7 has no message number [7]")]


async def test_an_id_is_asked_for_once_and_an_unknown_one_again_after_a_while() -> None:
    asked: list[str] = []
    unknown = json.dumps({"error_code": 40403, "message": "Schema not found"}).encode()

    def answer(path: str, headers: dict[str, str]) -> tuple[int, bytes]:
        asked.append(path.rpartition("/")[2])
        return (200, GOOD) if path.endswith("/1") else (404, unknown)

    clock = ManualClock()
    with answering(answer) as url:
        client = Client(kafka.Registry(url=url), "AVRO", Path())
        schemas = Fetched(client, lambda number, registered: registered.text, clock)
        for _ in range(2):
            with pytest.raises(Lacking) as lacking:
                schemas.get([1, 2])
            await lacking.value.fetch()
            found = schemas.get([1, 2])
            assert found[1] == json.dumps(METER)
            assert isinstance(found[2], BadData)
            clock.advance(31)
    assert asked == ["1", "2", "2", "2", "2"], "an unknown one twice each time: registries of several machines lag"


@pytest.mark.parametrize("known_max", [100, 10_000])
async def test_so_many_unknown_ids_that_asking_for_all_takes_longer_than_one_is_remembered(
    monkeypatch: pytest.MonkeyPatch, known_max: int
) -> None:
    """What is no Avro at all, and begins with byte 0, has an id of its own in each message: it must not stop the partition."""
    monkeypatch.setattr(schemas_module, "UNKNOWN_S", 2.0)
    monkeypatch.setattr(schemas_module, "UNKNOWN_MAX", known_max)
    clock = ManualClock()

    class Slow(Client):
        def __init__(self) -> None:
            pass

        def schema(self, number: int) -> Registered:
            clock.advance(0.02)
            raise BadData("nobody knows it", reason="unknown_schema")

    schemas = Fetched(Slow(), lambda number, registered: registered.text, clock)
    for first in (0, 300):
        with pytest.raises(Lacking) as lacking:
            schemas.get(range(first, first + 300))
        await lacking.value.fetch()
        assert all(isinstance(found, BadData) for found in schemas.get(range(first, first + 300)).values())


def test_numbers_of_messages_that_there_are_not_are_not_kept() -> None:
    text = base64.b64encode(meter_file().SerializeToString()).decode()
    types = protobuf._File(Registered(text, ()), wanted.Place(), "schema 7")
    for number in range(100, 200):
        assert isinstance(types.reader((number,)), BadData)
    assert not types._reads


async def test_a_reference_to_what_is_no_file_of_protobuf_is_told() -> None:
    answers = {
        "/schemas/ids/7?format=serialized": serialized(meter_file(), ("plant/a.proto", "a")),
        "/subjects/a/versions/3?format=serialized": json.dumps({"schema": "{not base64}"}).encode(),
    }
    with answering(lambda path, headers: (200, answers[path])) as url:
        rows, dead = await fetched(codec(kafka.Protobuf, url), [framed(7, b"", b"\0")])
    assert (rows, [d.reason for d in dead]) == ([], ["schema_unusable"])


async def test_the_account_and_the_authority_are_used(tmp_path: Path) -> None:
    certificate, key = self_signed("127.0.0.1")
    (tmp_path / "pair.pem").write_bytes(certificate + key)
    for name, content in (
        ("ca", certificate),
        ("word", b"p\xc3\xa4ss\n"),
        ("token", b"t0k\n"),
        ("bad", b"none"),
        ("euro", "t€k".encode()),
    ):
        (tmp_path / name).write_bytes(content)
    seen: list[str | None] = []

    def noted(path: str, headers: dict[str, str]) -> tuple[int, bytes]:
        seen.append(headers.get("Authorization"))
        return 200, GOOD

    with answering(noted, tls=tmp_path / "pair.pem") as url:
        accounts: list[dict[str, Any]] = [{"username": "u", "password": secret("word")}, {"token": secret("token")}, {}]
        for account in accounts:
            registry = kafka.Registry(url=url, ca=secret("ca"), **account)
            assert Client(registry, "AVRO", tmp_path).schema(7).text == json.dumps(METER)
        with pytest.raises(Unavailable, match=r"does not answer: .*certificate verify failed"):
            Client(kafka.Registry(url=url), "AVRO", tmp_path).schema(7)
    assert seen == ["Basic " + base64.b64encode("u:päss".encode()).decode(), "Bearer t0k", None]
    with pytest.raises(ConfigError, match="secret 'bad' holds no CA certificates in PEM form"):
        Client(kafka.Registry(url=url, ca=secret("bad")), "AVRO", tmp_path)
    with pytest.raises(ConfigError, match="the secret token= has characters that no header can have"):
        Client(kafka.Registry(url=url, token=secret("euro")), "AVRO", tmp_path)
    with pytest.raises(ConfigError, match="secret 'none' is missing"):
        Client(kafka.Registry(url=url, token=secret("none")), "AVRO", tmp_path)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: kafka.Registry(url="registry:8081"), r"kafka registry url='registry:8081': write 'https://host:8081'"),
        (lambda: kafka.Registry(url="http://u:p@host"), r"url='http://…@host': write"),
        (lambda: kafka.Registry(url="http://host", ca=secret("ca")), r"ca: http://host has no certificate to check: write https"),
        (lambda: kafka.Registry(url="http://host", username="u"), r'write token=secret\("…"\), or username="…" and password='),
        (lambda: kafka.Registry(url="http://host", token="t"), r'kafka registry token: write secret\("name of a file'),  # type: ignore[arg-type]
        (lambda: kafka.Registry(url="http://host", username="u:", password=secret("p")), r"username='u:': a colon ends it"),
        (lambda: kafka.Avro(), r"kafka Avro: write registry=kafka\.Registry\(url=…\), or file="),
        (lambda: kafka.Avro(file="../m.avsc"), r"kafka Avro file='\.\./m\.avsc': write the path of a file that lies beside"),
        (lambda: kafka.Avro(file="avro\\m.avsc"), r"write the path of a file that lies beside the pipeline file or below it"),
        (lambda: kafka.Avro(registry=kafka.Registry(url="http://h"), framed=True), r"kafka Avro framed: messages of a registry"),
        (lambda: kafka.Protobuf(file="m.binpb"), r"kafka Protobuf message: it is needed with file="),
        (lambda: kafka.Protobuf(file="m.binpb", message="a b"), r"message='a b': write its full name, such as 'plant\.Meter'"),
        (lambda: kafka.source(Any4, topic="t", payload="avro"), r"kafka payload='avro': write \"json\", kafka\.Avro\(…\) or"),  # type: ignore[arg-type]
        (lambda: kafka.source(Any4, topic="t", fields={Any4.number: "a..b"}), r"path 'a\.\.b': write names with points"),
    ],
)  # fmt: skip
def test_a_mistake_is_explained(make: Callable[[], object], says: str) -> None:
    with pytest.raises(PlanError, match=says):
        make()
