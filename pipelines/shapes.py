"""What the operators that shape a stream are told: frozen specs with their text, and what users implement."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from pipelines.expr import Array, Expr
from pipelines.schema import Field
from pipelines.units import show_duration

Fill = Literal["previous", "linear", "null"]


class Scanner(Protocol):
    """An operator of your own that goes from row to row of each key: a frozen dataclass.

    Its `repr` is part of fingerprints, so state is not mixed up when a parameter changes; when its code changes, give it a
    `version: int = 2`.
    """

    @property
    def state(self) -> Mapping[str, tuple[str, Any]]:
        """Name -> (dtype, value for a new key)."""
        ...

    def step(self, state: dict[str, Array], *columns: Array) -> tuple[Array, ...]:
        """One row of each of several keys: put the new state into `state`; return the output columns. All of shape `(keys,)`."""
        ...


@dataclass(frozen=True, slots=True)
class ChangesSpec:
    """Report on change."""

    of: Expr[Any]
    dtype: str
    band: float
    relative: bool
    text: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class DedupeSpec:
    """First arrivals only."""

    by: Expr[Any] | None  # None: event time
    within: int  # ns
    text: str

    def __str__(self) -> str:
        return f"by {self.text}, within {show_duration(self.within)}"


@dataclass(frozen=True, slots=True)
class ResampleSpec:
    """A grid in time; all in ns."""

    every: int
    fill: Fill
    late: int
    max_gap: int

    def __str__(self) -> str:
        gap = show_duration(self.max_gap)
        return f"every {show_duration(self.every)}, {self.fill}, gap {gap}, late {show_duration(self.late)}"


@dataclass(frozen=True, slots=True)
class ScanSpec:
    """An operator of a user with state for each key."""

    operator: Scanner
    of: tuple[Expr[Any], ...]
    fields: tuple[Field, ...]
    late: int | None  # ns; None: in the order of arrival
    text: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class ApplySpec:
    """A function of a user over whole columns."""

    function: Callable[..., tuple[Array, ...]]
    of: tuple[Expr[Any], ...]
    fields: tuple[Field, ...]
    text: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class UnpivotSpec:
    """Wide to long."""

    columns: tuple[Expr[Any], ...]
    name: str  # qualified
    value: str

    def __str__(self) -> str:
        return ", ".join(c.name for c in self.columns)
