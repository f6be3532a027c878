"""What readings that come over HTTP are, pushed or polled: the body's format, and where key, time and columns stand."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Generic, TypeVar

from connectors import formats
from connectors.base import TimeUnit
from connectors.columns import Layout
from connectors.conditions import Condition
from connectors.options import durations
from connectors.shape import ROOT, ROWS, Shape
from pipelines.errors import PlanError
from pipelines.schema import Schema

S = TypeVar("S", bound=Schema)
NESTED = ("json", "cbor", "msgpack")
MEDIA = {
    "json": ("application/json",),
    "cbor": ("application/cbor",),
    "msgpack": ("application/msgpack", "application/x-msgpack", "application/vnd.msgpack"),
    "csv": ("text/csv",),
}
WHOLE = "body"  # what a list that is a whole body is called
UNITS = ("iso", "s", "ms", "us", "ns")


@dataclass(frozen=True, kw_only=True)
class Readings(Generic[S]):
    """The part of a description that `push` and `poll` have in common."""

    speed: ClassVar[float] = 1.0

    schema: type[S]
    stream: str
    key: str | None
    time: str | None
    time_unit: TimeUnit
    future_max: str
    silence: str
    devices: frozenset[str]
    payload: str
    fields: tuple[tuple[str, str], ...]
    rows: str | None
    conditions: tuple[Condition, ...]
    stale: str | None

    @property
    def key_field(self) -> str | None:
        """The field of a reading that holds its key; None if it is known without."""
        return self.key or self.schema.measured().key

    @cached_property
    def nested(self) -> bool:
        """Whether a body is an object, or a list of them."""
        return self.payload in NESTED

    @cached_property
    def media(self) -> tuple[str, ...]:
        """What the content type of a body may be."""
        return MEDIA[self.payload.partition(":")[0]]

    @cached_property
    def places(self) -> dict[str, str]:
        """Paths by field, of those that do not stand under their own names."""
        return dict(self.fields) if self.rows else {n: p.removeprefix(ROOT) for n, p in self.fields}

    @cached_property
    def listed(self) -> str | None:
        """The path of the list of readings in what is parsed: a body that is a list, or one reading, becomes one."""
        return (self.rows or f"{WHOLE}{ROWS}") if self.nested else None

    def check_readings(self, kind: str) -> None:
        """`PlanError` if it cannot be right; `kind` begins the message."""
        durations(kind, future_max=self.future_max, silence=self.silence, stale=self.stale)
        if self.time_unit not in UNITS:
            raise PlanError(f"{kind} time_unit={self.time_unit!r}: write {', '.join(map(repr, UNITS))}")
        if not self.nested and not (self.payload.startswith(formats.CSV) and self.payload.removeprefix(formats.CSV)):
            raise PlanError(
                f"{kind} payload={self.payload!r}: write {', '.join(map(repr, NESTED))}, or 'csv:time,rms' with the names of its "
                "fields"
            )
        if self.rows is not None and not (self.nested and self.rows.endswith(ROWS)):
            raise PlanError(f"{kind} rows={self.rows!r}: write 'readings[*]', for a payload of json, cbor or msgpack")
        if self.nested:
            extra = [n for n in (self.key_field, self.time) if n is not None]
            columns = [f.name for f in self.schema.sent().fields]
            Shape({name: name for name in (*columns, *extra)} | self.places, self.listed).check()
        else:
            formats.format_of(self.payload, Layout.of(self.schema), key=self.key_field, time=self.time, time_unit=self.time_unit,
                              paths=self.places, rows=None)  # fmt: skip
