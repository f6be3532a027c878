"""Messages of Protobuf -> columns. google.protobuf understands descriptors; messages are read by `protobuf_reader`.

No compiler is needed: registries give descriptors, and files hold them.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from google.protobuf import any_pb2, duration_pb2, empty_pb2, field_mask_pb2, struct_pb2, timestamp_pb2, wrappers_pb2
from google.protobuf.descriptor import Descriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError

from connectors.columns import Layout
from connectors.kafka import KafkaSource, Protobuf, wanted
from connectors.kafka.codec import Codec
from connectors.kafka.files import read, refuse
from connectors.kafka.framing import Indexes, split_indexes
from connectors.kafka.protobuf_reader import Reader
from connectors.kafka.registry import Client, Registered
from connectors.kafka.schemas import Fetched, One, Schemas
from connectors.kafka.typed import OneType, Typed, Types, unsplit
from connectors.kafka.wanted import Read
from pipelines.errors import BadData, ConfigError
from pipelines.ports import Surroundings

# They come with every compiler, so nobody registers them.
_KNOWN = (any_pb2, duration_pb2, empty_pb2, field_mask_pb2, struct_pb2, timestamp_pb2, wrappers_pb2)


def decoder(source: KafkaSource[Any], around: Surroundings) -> Codec:
    """Of a source with `kafka.Protobuf`; `ConfigError` if its file or a secret is not well."""
    split = split_indexes if source.framed else unsplit
    return Codec(source, Typed(source, _schemas(source, around), split, "not_protobuf"))


def _schemas(source: KafkaSource[Any], around: Surroundings) -> Schemas[Types]:
    want = wanted.of(source, Layout.of(source.schema))
    if source.registry is not None:
        client = Client(source.registry, "PROTOBUF", around.secrets_dir)
        return Fetched(client, lambda number, registered: _File(registered, want, f"schema {number}"))
    assert source.file is not None
    return One(OneType(_of_file(source, around.folder / source.file, want).read))


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


class _File:
    """What one id says; readers are made when their message is met first."""

    def __init__(self, registered: Registered, want: wanted.Place, where: str) -> None:
        """`BadData` if it is no file of Protobuf."""
        self._want, self._where = want, where
        self._reads: dict[Indexes, Read] = {}
        texts = [*registered.references, ("", registered.text)]
        try:
            files = [(name, FileDescriptorProto.FromString(base64.b64decode(t))) for name, t in texts]
            self._file = _pool(files).FindFileByName("")
        except (DecodeError, TypeError, KeyError, ValueError) as e:
            raise BadData(f"{where} is no file of Protobuf: {e}", reason="schema_unusable") from e

    def reader(self, which: Indexes) -> Read | BadData:
        """See `Types.reader`."""
        if which in self._reads:
            return self._reads[which]
        found = self._found(which)
        if found is None:  # and not kept: whoever sends can make up as many as they like
            return BadData(f"{self._where} has no message number {list(which)}", reason="not_framed")
        self._reads[which] = _reader(found, self._want, self._where).read
        return self._reads[which]

    def _found(self, which: Indexes) -> Descriptor | None:
        there, found = list(self._file.message_types_by_name.values()), None
        for index in which:
            if not 0 <= index < len(there):
                return None
            found = there[index]
            there = list(found.nested_types)
        return found
