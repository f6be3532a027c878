"""Messages of Protobuf -> columns. google.protobuf understands descriptors; messages are read by `protobuf_reader`.

No compiler is needed: registries give descriptors, and files hold them.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from google.protobuf import any_pb2, duration_pb2, empty_pb2, field_mask_pb2, struct_pb2, timestamp_pb2, wrappers_pb2
from google.protobuf.descriptor import Descriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError

from connectors.columns import Faults, Layout, Raw
from connectors.kafka import KafkaSource, Protobuf, wanted
from connectors.kafka.codec import Codec
from connectors.kafka.cursor import Cursor
from connectors.kafka.files import read, refuse
from connectors.kafka.framing import Indexes, messages, split_indexes
from connectors.kafka.protobuf_reader import Reader
from connectors.kafka.registry import Client, Registered
from connectors.kafka.schemas import Fetched, One, Schemas
from pipelines.batch import Times
from pipelines.errors import BadData, ConfigError
from pipelines.ports import Surroundings

# They come with every compiler, so nobody registers them.
_KNOWN = (any_pb2, duration_pb2, empty_pb2, field_mask_pb2, struct_pb2, timestamp_pb2, wrappers_pb2)


class Types(Protocol):
    """The types of message that one schema has."""

    def reader(self, which: Indexes) -> Reader | BadData:
        """Of the type that a frame names; `()` if there are no frames."""
        ...


def decoder(source: KafkaSource[Any], around: Surroundings) -> Codec:
    """Of a source with `kafka.Protobuf`; `ConfigError` if its file or a secret is not well."""
    return Codec(source, ProtobufReadings(source, _schemas(source, around)))


def _schemas(source: KafkaSource[Any], around: Surroundings) -> Schemas[Types]:
    want = wanted.of(source, Layout.of(source.schema))
    if source.registry is not None:
        client = Client(source.registry, "PROTOBUF", around.secrets_dir)
        return Fetched(client, lambda number, registered: _File(registered, want, f"schema {number}"))
    assert source.file is not None
    return One(_OneType(_of_file(source, around.folder / source.file, want)))


def _of_file(source: KafkaSource[Any], path: Path, want: wanted.Place) -> Reader:
    assert isinstance(source.payload, Protobuf)
    name, where = source.payload.message, f"stream {source.stream}: {path}"
    try:
        files = FileDescriptorSet.FromString(read(path, source.stream)).file
        pool = _pool((f.name, f) for f in files)
        found = pool.FindMessageTypeByName(name)
    except (DecodeError, TypeError) as e:
        cure = "write it with  protoc --include_imports --descriptor_set_out"
        raise ConfigError(f"{where} is no set of descriptors of Protobuf ({e}): {cure}") from e
    except KeyError as e:
        has = ", ".join(f"{f.package}.{m.name}".lstrip(".") for f in files for m in f.message_type)
        raise ConfigError(f"{where} has no message {name!r}; it has {has}: correct message=") from e
    reader = _reader(found, want, path.name)
    refuse(source, reader.problems)
    return reader


def _pool(files: Iterable[tuple[str, FileDescriptorProto]]) -> DescriptorPool:
    """Of files in the order in which they need each other, by the names under which they are imported."""
    pool = DescriptorPool()
    for known in _KNOWN:
        pool.AddSerializedFile(known.DESCRIPTOR.serialized_pb)
    there = {known.DESCRIPTOR.name for known in _KNOWN}
    for name, file in files:
        if name not in there:
            file.name = name
            pool.Add(file)
    return pool


def _reader(of: Descriptor, want: wanted.Place, where: str) -> Reader:
    return Reader(of, want, f"{of.full_name} in {where}")


class _OneType:
    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    def reader(self, which: Indexes) -> Reader:
        """See `Types.reader`."""
        return self._reader


class _File:
    """What one id says; readers are made when their message is met first."""

    def __init__(self, registered: Registered, want: wanted.Place, where: str) -> None:
        """`BadData` if it is no file of Protobuf."""
        self._want, self._where = want, where
        self._readers: dict[Indexes, Reader | BadData] = {}
        texts = [*registered.references, ("", registered.text)]
        try:
            files = [(name, FileDescriptorProto.FromString(base64.b64decode(t))) for name, t in texts]
            self._file = _pool(files).FindFileByName("")
        except (DecodeError, TypeError, KeyError) as e:
            raise BadData(f"{where} is no file of Protobuf: {e}", reason="schema_unusable") from e

    def reader(self, which: Indexes) -> Reader | BadData:
        """See `Types.reader`."""
        if which not in self._readers:
            self._readers[which] = self._made(which)
        return self._readers[which]

    def _made(self, which: Indexes) -> Reader | BadData:
        there, found = list(self._file.message_types_by_name.values()), None
        for index in which:
            if not 0 <= index < len(there):
                return BadData(f"{self._where} has no message number {list(which)}", reason="not_framed")
            found = there[index]
            there = list(found.nested_types)
        assert found is not None
        return _reader(found, self._want, self._where)


class ProtobufReadings:
    """See `wanted.Readings`."""

    def __init__(self, source: KafkaSource[Any], schemas: Schemas[Types]) -> None:
        self._source, self._schemas, self._layout = source, schemas, Layout.of(source.schema)
        self._framed = source.framed

    def raw(self, payloads: Sequence[bytes], taken: Times, faults: Faults) -> Raw:
        """See `Readings.raw`."""
        found = wanted.Found(len(payloads), faults)
        given = messages(payloads, faults, framed=self._framed)
        of = split_indexes(given, faults) if self._framed else {(): np.flatnonzero(~faults.bad)}
        cursor = Cursor(given.data, given.start, given.end, faults, reason="not_protobuf")
        ids = np.unique(given.ids[np.concatenate([*of.values(), np.zeros(0, np.int64)]).astype(np.int64)])
        for number, types in self._schemas.get(ids.tolist()).items():
            for which, rows in of.items():
                mine = rows[given.ids[rows] == number]
                reader = types if isinstance(types, BadData) else types.reader(which)
                if not isinstance(reader, BadData):
                    reader.read(cursor, found, mine)
                    continue
                for row in mine.tolist():
                    faults.one(row, reader.reason, str(reader))
        return found.raw(self._layout, self._source, taken)
