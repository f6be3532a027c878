"""Messages of Avro -> columns. fastavro parses schemas; messages are read by `avro_reader`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from fastavro.schema import SchemaParseException, UnknownType, parse_schema

from connectors.columns import Faults, Layout, Raw
from connectors.kafka import KafkaSource, wanted
from connectors.kafka.avro_reader import Compiler, Read
from connectors.kafka.codec import Codec
from connectors.kafka.cursor import Cursor
from connectors.kafka.files import read, refuse
from connectors.kafka.framing import messages
from connectors.kafka.registry import Client, Registered
from connectors.kafka.schemas import Fetched, One, Schemas
from connectors.kafka.wanted import Problem
from pipelines.batch import Times
from pipelines.errors import BadData, ConfigError
from pipelines.ports import Surroundings


def decoder(source: KafkaSource[Any], around: Surroundings) -> Codec:
    """Of a source with `kafka.Avro`; `ConfigError` if its file or a secret is not well."""
    return Codec(source, AvroReadings(source, _schemas(source, around)))


def _schemas(source: KafkaSource[Any], around: Surroundings) -> Schemas[Read]:
    want = wanted.of(source, Layout.of(source.schema))
    if source.registry is not None:
        client = Client(source.registry, "AVRO", around.secrets_dir)

        def made(number: int, registered: Registered) -> Read:
            return _compiled(registered, want, f"schema {number}")[0]

        return Fetched(client, made)
    assert source.file is not None
    return One(_of_file(source, around.folder / source.file, want))


def _of_file(source: KafkaSource[Any], path: Path, want: wanted.Place) -> Read:
    try:
        reader, problems = _compiled(Registered(read(path, source.stream).decode(), ()), want, path.name)
    except (BadData, UnicodeDecodeError) as e:
        raise ConfigError(f"stream {source.stream}: {path}: {e}") from e
    refuse(source, problems)
    return reader


def _compiled(registered: Registered, want: wanted.Place, where: str) -> tuple[Read, list[Problem]]:
    """`BadData` if it is no schema of Avro."""
    named: dict[str, Any] = {}
    try:
        for _, text in registered.references:
            parse_schema(json.loads(text), named)
        schema = parse_schema(json.loads(registered.text), named)
        compiler = Compiler(named, where)
        return compiler.reader(schema, want), compiler.problems
    except (SchemaParseException, UnknownType, ValueError, LookupError, TypeError, RecursionError) as e:
        raise BadData(f"{where} is no schema of Avro: {type(e).__name__}: {e}", reason="schema_unusable") from e


class AvroReadings:
    """See `wanted.Readings`."""

    def __init__(self, source: KafkaSource[Any], schemas: Schemas[Read]) -> None:
        self._source, self._schemas, self._layout = source, schemas, Layout.of(source.schema)
        self._framed = source.framed

    def raw(self, payloads: Sequence[bytes], taken: Times, faults: Faults) -> Raw:
        """See `Readings.raw`."""
        found = wanted.Found(len(payloads), faults)
        given = messages(payloads, faults, framed=self._framed)
        good = np.flatnonzero(~faults.bad)
        ids = given.ids[good]
        cursor = Cursor(given.data, given.start, given.end, faults, reason="not_avro")
        for number, reader in self._schemas.get(np.unique(ids).tolist()).items():
            rows = good[ids == number]
            if isinstance(reader, BadData):
                for row in rows.tolist():
                    faults.one(row, reader.reason, str(reader))
                continue
            reader(cursor, found, rows)
            cursor.finish(rows)
        return found.raw(self._layout, self._source, taken)
