"""`python -m benchmarks.foreign`: messages of other programs to frames, by payload, beside what their libraries take alone.

Processor time, which other programs hardly change. No broker: what is read from Kafka costs the same for all.
"""

from __future__ import annotations

import io
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fastavro
import pyarrow as pa
from google.protobuf.descriptor_pb2 import FieldDescriptorProto as Proto
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

from benchmarks.measure import WORKER_CORE, arguments, medians, pinned, show
from connectors import kafka
from connectors.kafka import avro, codec, protobuf
from pipelines.ports import Surroundings
from pipelines.schema import Col, Key, Schema

ROWS = 32_768
ROUNDS = 10
BEGIN_MS = 1_700_000_000_000
SHAPES = dict.fromkeys(("json", "avro", "protobuf", "fastavro", "upb"), "{:,.0f} messages/s")
_FIELDS = (
    ("device", Proto.TYPE_STRING),
    ("time", Proto.TYPE_INT64),
    ("rms", Proto.TYPE_DOUBLE),
    ("n", Proto.TYPE_INT32),
)
AVRO = {
    "type": "record",
    "name": "Tags",
    "fields": [
        {"name": "device", "type": "string"},
        {"name": "time", "type": "long"},
        {"name": "rms", "type": "double"},
        {"name": "n", "type": "int"},
        {"name": "temperature", "type": ["null", "double"]},
    ],
}


class Tags(Schema):
    """What messages hold."""

    device = Key[str]()
    rms = Col[float]("mm/s")
    temperature = Col[float]("degC", absent=0.0)
    n = Col[int]()


@dataclass(slots=True)
class Record:
    """As a consumer gives it."""

    offset: int
    value: bytes
    timestamp: int = BEGIN_MS + 10**6
    topic: str = "tags"
    partition: int = 0
    headers: tuple[tuple[str, bytes], ...] = ()


def _rows() -> list[dict[str, Any]]:
    return [
        {"device": f"device-{i % 1000}", "time": BEGIN_MS + i, "rms": i / 3, "n": i, "temperature": i / 7 if i % 5 else None}
        for i in range(ROWS)
    ]  # fmt: skip


def _proto() -> FileDescriptorProto:
    file = FileDescriptorProto(name="tags.proto", package="bench", syntax="proto3")
    tags = file.message_type.add(name="Tags")
    for number, (name, kind) in enumerate(_FIELDS, 1):
        tags.field.add(name=name, number=number, type=kind, label=Proto.LABEL_OPTIONAL)
    tags.oneof_decl.add(name="_temperature")
    tags.field.add(
        name="temperature", number=5, type=Proto.TYPE_DOUBLE, label=Proto.LABEL_OPTIONAL, proto3_optional=True,
        oneof_index=0,
    )  # fmt: skip
    return file


def _rate(work: Callable[[], object]) -> float:
    """Messages a second of processor time."""
    work()
    start = time.process_time()
    for _ in range(ROUNDS):
        work()
    return ROUNDS * ROWS / (time.process_time() - start)


def _frames(decoder: codec.Codec, messages: list[bytes]) -> float:
    records = [Record(i, m) for i, m in enumerate(messages)]
    (frame,), dead = decoder.frames(records)
    assert len(frame.batch) == ROWS
    assert not dead
    return _rate(lambda: decoder.frames(records))


def run(folder: Path) -> dict[str, float]:
    """One run of each."""
    rows, around = _rows(), Surroundings(folder)
    (folder / "tags.avsc").write_text(json.dumps(AVRO))
    (folder / "tags.binpb").write_bytes(FileDescriptorSet(file=[_proto()]).SerializeToString())

    def source(payload: kafka.Payload) -> kafka.KafkaSource[Tags]:
        return kafka.source(Tags, topic="tags", time_unit="ms", payload=payload)

    schema, pool = fastavro.parse_schema(AVRO), DescriptorPool()
    pool.Add(_proto())
    made = GetMessageClass(pool.FindMessageTypeByName("bench.Tags"))
    avros = []
    for row in rows:
        fastavro.schemaless_writer(out := io.BytesIO(), schema, row)
        avros.append(out.getvalue())
    protos = [made(**row).SerializeToString() for row in rows]

    def by_fastavro() -> pa.Table:
        return pa.Table.from_pylist([fastavro.schemaless_reader(io.BytesIO(m), schema, None) for m in avros])

    def by_upb() -> pa.Table:
        found = [made.FromString(m) for m in protos]
        names = [*(name for name, _ in _FIELDS), "temperature"]
        return pa.table({name: [getattr(m, name) for m in found] for name in names})

    return {
        "json": _frames(codec.decoder(source("json"), around), [json.dumps(row).encode() for row in rows]),
        "avro": _frames(avro.decoder(source(kafka.Avro(file="tags.avsc")), around), avros),
        "protobuf": _frames(
            protobuf.decoder(source(kafka.Protobuf(file="tags.binpb", message="bench.Tags")), around), protos
        ),
        "fastavro": _rate(by_fastavro),
        "upb": _rate(by_upb),
    }


def main() -> None:
    """Measure and show."""
    options = arguments("Messages of other programs to frames.").parse_args()
    with tempfile.TemporaryDirectory() as folder, pinned(WORKER_CORE):
        figures = medians([run(Path(folder)) for _ in range(options.runs)])
    title = "To frames by payload (json, avro, protobuf); fastavro and upb: to an Arrow table by the library alone"
    show(title, figures, SHAPES, options.json)


if __name__ == "__main__":
    main()
