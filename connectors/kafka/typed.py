"""Messages whose schema is known -> columns, for Avro and Protobuf alike: each type of message is read by a reader of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from connectors.columns import Faults, Layout, Raw
from connectors.kafka import KafkaSource
from connectors.kafka.cursor import Cursor, Rows
from connectors.kafka.framing import Indexes, Messages, messages
from connectors.kafka.schemas import Schemas
from connectors.kafka.wanted import Found, Read
from pipelines.batch import Times
from pipelines.errors import BadData

Split = Callable[[Messages, Faults], dict[Indexes, Rows]]


class Types(Protocol):
    """The types of message that one schema has."""

    def reader(self, which: Indexes) -> Read | BadData:
        """Of the type that a message names; `()` if messages name none."""
        ...


class OneType:
    """All messages are of the same."""

    def __init__(self, read: Read) -> None:
        self._read = read

    def reader(self, which: Indexes) -> Read:
        """See `Types.reader`."""
        return self._read


def unsplit(given: Messages, faults: Faults) -> dict[Indexes, Rows]:
    """No message says of which type it is."""
    return {(): np.flatnonzero(~faults.bad)}


class Typed:
    """See `wanted.Readings`."""

    def __init__(self, source: KafkaSource[Any], schemas: Schemas[Types], split: Split, reason: str) -> None:
        """`split`: which messages are of which type; `reason`: of messages that are not what their schema says."""
        self._source, self._schemas, self._layout = source, schemas, Layout.of(source.schema)
        self._split, self._reason, self._framed = split, reason, source.framed

    def raw(self, payloads: Sequence[bytes], taken: Times, faults: Faults) -> Raw:
        """See `Readings.raw`."""
        found = Found(len(payloads), faults)
        given = messages(payloads, faults, framed=self._framed)
        by_type = self._split(given, faults)
        cursor = Cursor(given.data, given.start, given.end, faults, reason=self._reason)
        for number, types in self._schemas.get(np.unique(given.ids[~faults.bad]).tolist()).items():
            for which, rows in by_type.items():
                mine = rows[given.ids[rows] == number]
                if not len(mine):
                    continue
                read = types if isinstance(types, BadData) else types.reader(which)
                if isinstance(read, BadData):
                    for row in mine.tolist():
                        faults.one(row, read.reason, str(read))
                    continue
                read(cursor, found, mine)
                cursor.finish(mine)
        return found.raw(self._layout, self._source, taken)
