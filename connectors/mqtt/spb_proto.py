"""The protobuf messages of Sparkplug B, as far as they are read. Parsed by the library `protobuf`.

Field numbers and types are those of sparkplug_b.proto in the Sparkplug 3.0 specification; fields that are left out here (data
sets, templates, metadata) are skipped by the parser.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message, message_factory

from pipelines.errors import BadData

_KINDS = {"double": 1, "float": 2, "uint64": 4, "bool": 8, "string": 9, "message": 11, "bytes": 12, "uint32": 13}
_PACKAGE = "sitestream.sparkplug"
_MESSAGES: dict[str, list[tuple[str, int, str]]] = {
    "PropertyValue": [
        ("type", 1, "uint32"), ("is_null", 2, "bool"), ("int_value", 3, "uint32"), ("long_value", 4, "uint64"),
        ("string_value", 8, "string"),
    ],
    "PropertySet": [("keys", 1, "*string"), ("values", 2, "*PropertyValue")],
    "Metric": [
        ("name", 1, "string"), ("alias", 2, "uint64"), ("timestamp", 3, "uint64"), ("datatype", 4, "uint32"),
        ("is_historical", 5, "bool"), ("is_transient", 6, "bool"), ("is_null", 7, "bool"), ("properties", 9, "PropertySet"),
        ("int_value", 10, "uint32"), ("long_value", 11, "uint64"), ("float_value", 12, "float"), ("double_value", 13, "double"),
        ("boolean_value", 14, "bool"), ("string_value", 15, "string"), ("bytes_value", 16, "bytes"),
    ],
    "Payload": [("timestamp", 1, "uint64"), ("metrics", 2, "*Metric"), ("seq", 3, "uint64")],
}  # fmt: skip


def _file() -> Any:
    file = descriptor_pb2.FileDescriptorProto(name="sitestream_sparkplug.proto", package=_PACKAGE, syntax="proto2")
    for name, fields in _MESSAGES.items():
        added = file.message_type.add(name=name)
        for field, number, kind in fields:
            bare = kind.lstrip("*")
            made = added.field.add(name=field, number=number, label=3 if kind.startswith("*") else 1)
            made.type = _KINDS.get(bare, _KINDS["message"])
            if bare in _MESSAGES:
                made.type_name = f".{_PACKAGE}.{bare}"
    return file


_pool = descriptor_pool.DescriptorPool()
_pool.Add(_file())
Payload: Any = message_factory.GetMessageClass(_pool.FindMessageTypeByName(f"{_PACKAGE}.Payload"))


def parse(data: bytes) -> Any:
    """A `Payload`; `BadData` if these bytes are none."""
    try:
        return Payload.FromString(data)
    except message.DecodeError as e:
        raise BadData(f"the payload is not Sparkplug B: {e}", reason="not_sparkplug") from e
