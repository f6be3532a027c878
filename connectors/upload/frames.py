"""Records of Kafka -> rows of a segment. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pipelines.batch import WINDOW_START, Batch
from pipelines.dead import DeadLetter
from pipelines.errors import BadData
from pipelines.ports import Received
from pipelines.schema import Field, Row
from pipelines.wire import FrameInfo, decode

DEAD_BYTES_MAX = 2**20  # what is kept of a frame that cannot be used


@dataclass(frozen=True, slots=True)
class Taken:
    """What a record holds: rows of a layout, or none (a heartbeat, or a bad frame that became a dead letter)."""

    offset: int
    bytes: int
    row: Row
    batch: Batch | None


def read(records: Iterable[Received], row: Row) -> tuple[list[Taken], list[DeadLetter]]:
    """Every record in order, with its rows; what is not a frame of the stream is also a dead letter.

    A frame written before or after the schema changed keeps its own columns: its rows go to a file of that layout.
    """
    taken, dead = [], []
    for r in records:
        value, batch, layout = r.value or b"", None, row
        try:
            info = FrameInfo.of(r.headers)
            layout = row if info.schema == row.fingerprint else layout_of(value, row)
            got = decode(value, layout)
            batch = got if len(got) else None
        except BadData as e:
            origin = f"{r.topic}[{r.partition}]@{r.offset}"
            dead.append(DeadLetter(value[:DEAD_BYTES_MAX], e.reason, str(e), origin))
        taken.append(Taken(r.offset, len(value), layout, batch))
    return taken, dead


def layout_of(value: bytes, like: Row) -> Row:
    """The layout of a frame of another version of the schema `like`; `like` itself if it is something else."""
    try:
        with pa.ipc.open_stream(value) as reader:
            schema = reader.schema
    except (pa.ArrowException, OSError) as e:
        raise BadData(f"not an Arrow stream: {e}", reason="not_arrow") from e
    named = (schema.metadata or {}).get(b"sitestream.row", b"").decode(errors="replace")
    windowed = WINDOW_START in schema.names
    fields = [f for i, f in enumerate(schema) if i >= 2 + windowed]
    if named != like.name or schema.names[:1] != [like.key] or any(_dtype(f) is None for f in fields):
        return like
    columns = tuple(Field(f"{named}.{f.name}", str(_dtype(f)), _unit(f)) for f in fields)
    return Row(named, like.key, columns, windowed)


def _dtype(field: pa.Field) -> str | None:
    numeric = pa.types.is_floating(field.type) or pa.types.is_integer(field.type) or pa.types.is_boolean(field.type)
    return np.dtype(field.type.to_pandas_dtype()).name if numeric else None


def _unit(field: pa.Field) -> str:
    unit: bytes = (field.metadata or {}).get(b"unit", b"")
    return unit.decode(errors="replace")
