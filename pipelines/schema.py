"""A Schema says once what the columns of a reading are; `Row` is the same, resolved, as it travels and is stored."""

from __future__ import annotations

import hashlib
import inspect
from collections import Counter
from collections.abc import Container, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Generic, TypeVar, get_args

import numpy as np
import pyarrow as pa

from pipelines.batch import TIME_NS_MAX, Batch
from pipelines.errors import PlanError
from pipelines.expr import Array, Expr
from pipelines.quality import BAD, GOOD

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
TEXT = "T"  # dtype of text: numpy's StringDType
_DTYPES: dict[Any, str] = {float: "float64", int: "int64", bool: "bool", np.float32: "float32", str: TEXT}
RESERVED = ("time", "window_start")  # columns that every frame or every windowed frame has by itself


class _Typed(Expr[T_co]):
    """A leaf whose element type stands in brackets: `Col[float]`."""

    def element_type(self) -> Any:
        alias = getattr(self, "__orig_class__", None)
        if alias is None:
            kind = type(self).__name__
            raise PlanError(
                f"{self.qualified} has no type: write {kind}[float](…), {kind}[int](…), {kind}[bool](…) or {kind}[str](…)"
            )
        return get_args(alias)[0]


class Col(_Typed[T_co], Generic[T_co]):
    """A measured column of float, int, bool, str or numpy.float32 with its unit.

    `absent` replaces a value that a reading lacks; without it such a reading is dead-lettered, and a left join that finds
    no row gives NaN (float) or is refused at build (int, bool).
    """

    def __init__(self, unit: str = "", *, absent: T_co | None = None) -> None:
        super().__init__("col")
        self.unit, self.absent = unit, absent

    @property
    def dtype(self) -> str:
        """numpy name of the element type."""
        kind = self.element_type()
        if kind not in _DTYPES:
            raise PlanError(
                f"{self.qualified} cannot be a {kind!r}: a column is float, int, bool, str or numpy.float32"
            )
        return _DTYPES[kind]


class Quality(Col[int]):
    """How far each reading can be trusted: `pipelines.quality.GOOD`, `UNCERTAIN` or `BAD`. int8 on the wire and in files.

    Devices do not send it: the source fills it, GOOD where its protocol does not know. A bad reading has NaN in its float
    columns. A left join that finds no row gives BAD. In expressions it is an int: `where(Motor.quality == GOOD)`.
    """

    def __init__(self) -> None:
        super().__init__(absent=BAD)

    @property
    def dtype(self) -> str:
        """See `Col.dtype`."""
        return "int8"

    def on(self, columns: Mapping[str, Array]) -> Array:
        """See `Expr.on`; int64, so that arithmetic does not overflow."""
        return super().on(columns).astype(np.int64)


class Arrival(Col[int]):
    """When each reading came to the gateway, ns since 1970 by its clock. Devices do not send it: the source fills it.

    A left join that finds no row gives 0.
    """

    def __init__(self) -> None:
        super().__init__("ns", absent=0)

    @property
    def dtype(self) -> str:
        """See `Col.dtype`."""
        return "int64"


class Key(_Typed[T_co], Generic[T_co]):
    """The column by which readings are kept in order, grouped and partitioned: the device or tag. Always text."""

    def __init__(self) -> None:
        super().__init__("key")


class Agg(Expr[T_co]):
    """An aggregate `fn` of columns over a window. Made by the functions of `pipelines.agg`.

    `unit` is a form for the unit of the result, such as '{0}/s'; '' for the usual one.
    """

    def __init__(self, fn: str, *columns: Expr[Any], params: tuple[Any, ...] = (), unit: str = "") -> None:
        super().__init__("agg")
        self.fn, self.columns, self.params, self.unit = fn, columns, params, unit

    @property
    def group(self) -> str:
        """The columns, as text: aggregates of the same share state."""
        return ", ".join(map(repr, self.columns))

    def formula(self, known: Container[str] | None = None) -> str:
        """See `Expr.formula`."""
        return f"{self.fn}({', '.join([*(c.shown(known) for c in self.columns), *map(repr, self.params)])})"


class Schema:
    """Base of row types: class attributes are the columns.

    >>> class Vibration(Schema):
    ...     device = Key[str]()
    ...     rms = Col[float]("mm/s")
    """

    def __init_subclass__(cls) -> None:
        if extended := [b.__name__ for b in cls.__mro__[1:] if issubclass(b, Schema) and b is not Schema]:
            raise PlanError(
                f"{cls.__name__} extends {extended[0]}: a schema stands for itself; write its columns again"
            )
        bare = [n for n in inspect.get_annotations(cls) if n not in vars(cls)]
        bare += [n for n, v in vars(cls).items() if not n.startswith("_") and not isinstance(v, Expr)]
        if bare:
            raise PlanError(
                f"{cls.__name__}.{bare[0]} is no column: write {bare[0]} = Col[…](…), an aggregate or an expression"
            )
        for name, value in list(vars(cls).items()):
            if isinstance(value, Expr) and (value.owner, value.name) != (cls.__name__, name):
                alias: Expr[Any] = Expr("same", value)  # `level = Usual.level` is a column of this schema, too
                alias.__set_name__(cls, name)
                setattr(cls, name, alias)
            if isinstance(value, Expr) and (name in RESERVED or name.startswith("_")):
                raise PlanError(
                    f"{cls.__name__}.{name}: this name is taken; columns may not be called {', '.join(RESERVED)} or _…"
                )

    @classmethod
    def columns(cls) -> dict[str, Expr[Any]]:
        """Every column but the key, by name, in order of definition."""
        return {n: c for n, c in vars(cls).items() if isinstance(c, Expr) and not isinstance(c, Key)}

    @classmethod
    def key(cls) -> str | None:
        """Name of the key column, None if the schema takes its key from the stream it is computed from."""
        keys = [n for n, c in vars(cls).items() if isinstance(c, Key)]
        if len(keys) > 1:
            raise PlanError(f"{cls.__name__} has {len(keys)} keys ({', '.join(keys)}): a schema has one Key")
        return keys[0] if keys else None

    @classmethod
    def measured(cls) -> Row:
        """The row of a source: a key and measured columns only."""
        key = cls.key()
        if key is None:
            raise PlanError(f"{cls.__name__} has no key: add a line such as  device = Key[str]()")
        fields = []
        for name, column in cls.columns().items():
            if not isinstance(column, Col):
                raise PlanError(
                    f"{cls.__name__}.{name} is computed ({column.formula()}): a source has measured columns only, Col[…]"
                )
            fields.append(Field(column.qualified, column.dtype, column.unit))
        quality_of(cls), arrival_of(cls)
        return Row(cls.__name__, key, tuple(fields))

    @classmethod
    def sent(cls) -> Row:
        """What devices send of `measured()`: all but `Quality` and `Arrival`, which the source fills."""
        row, filled = cls.measured(), (quality_of(cls), arrival_of(cls))
        return replace(row, fields=tuple(f for f in row.fields if f.qualified not in filled))

    @classmethod
    def key_field(cls) -> tuple[KeyField, ...]:
        """The key as a column that expressions can read; nothing if the schema has none of its own."""
        name = cls.key()
        return (KeyField(f"{cls.__name__}.{name}", TEXT),) if name else ()

    @classmethod
    def batch(cls, *, time: Any, **values: Any) -> Batch:
        """Make a batch by hand, for tests: `time` in ns (int64) or datetime64, and a sequence for every column.

        Where they are not given, a `Quality` column is GOOD and an `Arrival` column equals `time`.
        """
        row = cls.measured()
        names = [row.key, *(f.name for f in row.fields)]
        when = np.asarray(time)
        when = when.astype("datetime64[ns]").astype(np.int64) if when.dtype.kind in "MU" else when.astype(np.int64)
        filled = {quality_of(cls): np.full(len(when), GOOD), arrival_of(cls): when}
        values = {f.name: filled[f.qualified] for f in row.fields if f.qualified in filled} | values
        if set(values) != set(names):
            raise PlanError(f"{cls.__name__} has columns {sorted(names)}, got {sorted(values)}")
        if len(when) and not -TIME_NS_MAX <= when.min() <= when.max() <= TIME_NS_MAX:
            raise PlanError(
                f"{cls.__name__}.batch: a time is absent or absurd; give ns since 1970 as int, or datetime64"
            )
        columns = {f.qualified: np.asarray(values[f.name], dtype=f.dtype) for f in row.fields}
        if wrong := [n for n in names if len(values[n]) != len(when)]:
            raise PlanError(
                f"{cls.__name__}.batch: {wrong[0]} has {len(values[wrong[0]])} values for {len(when)} times"
            )
        return Batch.of_keys(values[row.key], when, columns)

    @classmethod
    def facts(cls, **values: Any) -> Batch:
        """Make the content of a dimension by hand, for tests: a sequence for every column, one row for each key."""
        keys = values.get(cls.measured().key, ())
        if twice := [k for k, n in Counter(keys).items() if n > 1]:
            raise PlanError(f"{cls.__name__}.facts: {twice[0]!r} is there twice; a dimension has one row for each key")
        return cls.batch(time=np.zeros(len(keys), np.int64), **values)


def quality_of(schema: type[Schema]) -> str | None:
    """Qualified name of a schema's `Quality` column; None if it has none."""
    return _only(schema, Quality)


def arrival_of(schema: type[Schema]) -> str | None:
    """Qualified name of a schema's `Arrival` column; None if it has none."""
    return _only(schema, Arrival)


def _only(schema: type[Schema], kind: type[Col[int]]) -> str | None:
    found = [c.qualified for c in schema.columns().values() if isinstance(c, kind)]
    if len(found) > 1:
        raise PlanError(f"{schema.__name__} has several {kind.__name__} columns ({', '.join(found)}): one is enough")
    return found[0] if found else None


def arrow_type(dtype: str) -> pa.DataType:
    """How a column travels: text as a dictionary, since states and modes repeat."""
    return pa.dictionary(pa.int32(), pa.string()) if dtype == TEXT else pa.from_numpy_dtype(np.dtype(dtype))


@dataclass(frozen=True, slots=True)
class Field:
    """One resolved column: `Schema.column`, numpy dtype name and unit."""

    qualified: str
    dtype: str
    unit: str = ""

    @property
    def name(self) -> str:
        """The bare name, as on the wire and in Parquet."""
        return self.qualified.rpartition(".")[2]


class KeyField(Field):
    """The key of a stream as a text column: made where something reads it, never written as one."""


@dataclass(frozen=True)
class Row:
    """The resolved layout of a stream: what one row is on the wire and in Parquet."""

    name: str
    key: str
    fields: tuple[Field, ...]
    windowed: bool = False  # rows carry `window_start`; `time` is the last nanosecond of the window

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits that change when a column, type, unit or the key changes."""
        return hashlib.sha256(repr((self.key, self.fields, self.windowed)).encode()).hexdigest()[:16]

    @cached_property
    def arrow(self) -> pa.Schema:
        """Arrow schema of a frame: key (dictionary of strings), time, `window_start` if windowed, columns."""
        when = pa.timestamp("ns", tz="UTC")
        columns = [
            pa.field(self.key, pa.dictionary(pa.int32(), pa.string()), nullable=False),
            pa.field("time", when, nullable=False),
        ]
        if self.windowed:
            columns.append(pa.field("window_start", when, nullable=False))
        for f in self.fields:
            meta = {"unit": f.unit} if f.unit else None
            columns.append(pa.field(f.name, arrow_type(f.dtype), nullable=False, metadata=meta))
        return pa.schema(columns, metadata={"sitestream.row": self.name, "sitestream.fingerprint": self.fingerprint})
