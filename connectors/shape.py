"""Where the values of readings stand in a nested payload: paths to fields, and a list of readings. Pure.

A path is a name, or names with points between: `data.vib.rms`. With `rows`, such as `readings[*]`, a payload holds a list of
readings, paths start from each, and one that begins with `$.` starts from the whole payload.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipelines.errors import BadData, PlanError

READINGS_MAX = 10_000  # of one payload; more are refused
DEPTH_MAX = 16  # names of one path
ROWS = "[*]"
ROOT = "$."
Path = tuple[str, ...]


@dataclass(frozen=True)
class Shape:
    """Paths by field, as text or as their names, and the path of the list of readings: None if a payload is one reading."""

    paths: Mapping[str, str | Path]
    rows: str | None = None

    @cached_property
    def flat(self) -> bool:
        """Whether each field stands in the payload itself, under its own name."""
        return self.rows is None and all(_split(path) == (name,) for name, path in self.paths.items())

    @cached_property
    def _rows(self) -> Path:
        return () if self.rows is None else _split(self.rows.removesuffix(ROWS))

    @cached_property
    def _places(self) -> dict[str, tuple[bool, Path]]:
        """(whether it starts from each reading of a list, names) by field."""
        listed = self.rows is not None
        return {n: (listed and not _from_root(p), _split(p)) for n, p in self.paths.items()}

    def check(self) -> None:
        """`PlanError` if a path is none, or paths contradict each other."""
        self.schema(dict.fromkeys(self.paths, pa.float64()))

    def schema(self, fields: Mapping[str, pa.DataType]) -> pa.Schema:
        """The Arrow schema of payloads that have these fields. `PlanError` if paths contradict each other."""
        root: dict[str, Any] = {}
        item: dict[str, Any] = {}
        for name, kind in fields.items():
            in_row, path = self._places[name]
            _put(item if in_row else root, path, kind)
        if self.rows is not None:
            _put(root, self._rows, pa.list_(_struct(item)))
        return pa.schema([(name, _type(kind)) for name, kind in root.items()])

    def columns(self, table: pa.Table) -> tuple[dict[str, pa.Array], NDArray[np.int64]] | None:
        """Columns by field, and the payload of each row, of a table of `schema`; None if a list is too long or missing."""
        whole = table.to_struct_array().combine_chunks() if table.num_columns else None
        of = np.arange(table.num_rows)
        items = None
        if self.rows is not None:
            lists = _follow(whole, self._rows)
            longest = pc.max(pc.list_value_length(lists)).as_py() or 0
            if lists.null_count or longest > READINGS_MAX:
                return None
            of, items = pc.list_parent_indices(lists).to_numpy(), pc.list_flatten(lists)
            if items.null_count:
                return None
        found = {}
        for name, (in_row, path) in self._places.items():
            column = _follow(items if in_row else whole, path)
            found[name] = column if in_row or items is None else column.take(pa.array(of))
        return found, of

    def readings(self, payload: Any) -> list[dict[str, Any]]:
        """The fields of each reading of one decoded payload, None where one is absent; `BadData` if it is not of this shape."""
        items = [payload]
        if self.rows is not None:
            items = _step(payload, self._rows, self.rows)
            if not isinstance(items, list) or not all(isinstance(i, dict) for i in items):
                raise BadData(f"{self.rows} is no list of objects", reason="not_list")
            if len(items) > READINGS_MAX:
                raise BadData(f"{self.rows} has more than {READINGS_MAX} readings", reason="too_many")
        return [
            {
                n: _step(i if in_row else payload, path, _text(self.paths[n]))
                for n, (in_row, path) in self._places.items()
            }
            for i in items
        ]


def _text(path: str | Path) -> str:
    return path if isinstance(path, str) else ".".join(path)


def _from_root(path: str | Path) -> bool:
    return isinstance(path, str) and path.startswith(ROOT)


def _split(path: str | Path) -> Path:
    if not isinstance(path, str):
        return path
    names = tuple(path.removeprefix(ROOT).split("."))
    if not all(names) or len(names) > DEPTH_MAX or "[" in path:
        raise PlanError(
            f"path {path!r}: write names with points between them, such as 'data.vib.rms', at most {DEPTH_MAX}; "
            f"only rows= ends in {ROWS}"
        )
    return names


def _put(tree: dict[str, Any], path: Path, kind: pa.DataType) -> None:
    for name in path[:-1]:
        tree = tree.setdefault(name, {})
        if not isinstance(tree, dict):
            break
    if not isinstance(tree, dict) or tree.setdefault(path[-1], kind) is not kind:
        raise PlanError(
            f"path {'.'.join(path)!r} is used twice, or as a value and as an object: one field has one path"
        )


def _type(kind: Any) -> pa.DataType:
    return _struct(kind) if isinstance(kind, dict) else kind


def _struct(fields: Mapping[str, Any]) -> pa.DataType:
    return pa.struct([(name, _type(kind)) for name, kind in fields.items()])


def _follow(column: Any, path: Path) -> Any:
    for name in path:
        column = pc.struct_field(column, name)
    return column


def _step(value: Any, path: Path, shown: str) -> Any:
    for name in path:
        if value is None:
            return None
        if not isinstance(value, dict):
            raise BadData(f"{shown} cannot be reached: {name!r} is asked of {type(value).__name__}", reason="path")
        value = value.get(name)
    return value
