"""Messages of Avro -> columns. fastavro parses schemas; messages are read by `avro_reader`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fastavro.schema import SchemaParseException, UnknownType, parse_schema

from connectors.columns import Layout
from connectors.kafka import KafkaSource, wanted
from connectors.kafka.avro_reader import Compiler
from connectors.kafka.codec import Codec
from connectors.kafka.files import read, refuse
from connectors.kafka.registry import Client, Registered
from connectors.kafka.schemas import Fetched, One, Schemas
from connectors.kafka.typed import OneType, Typed, Types, unsplit
from connectors.kafka.wanted import Problem, Read
from pipelines.errors import BadData, ConfigError
from pipelines.ports import Surroundings


def decoder(source: KafkaSource[Any], around: Surroundings) -> Codec:
    """Of a source with `kafka.Avro`; `ConfigError` if its file or a secret is not well."""
    return Codec(source, Typed(source, _schemas(source, around), unsplit, "not_avro"))


def _schemas(source: KafkaSource[Any], around: Surroundings) -> Schemas[Types]:
    want = wanted.of(source, Layout.of(source.schema))
    if source.registry is not None:
        client = Client(source.registry, "AVRO", around.secrets_dir)

        def made(number: int, registered: Registered) -> Types:
            return OneType(_compiled(registered, want, f"schema {number}")[0])

        return Fetched(client, made)
    assert source.file is not None
    return One(OneType(_of_file(source, around.folder / source.file, want)))


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
