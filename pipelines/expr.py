"""Expressions over whole columns. Building one computes nothing; `Expr.on` evaluates it with numpy."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from typing import Any, Generic, TypeVar, cast, overload

import numpy as np
import numpy.typing as npt

from pipelines.errors import PlanError

Array = npt.NDArray[Any]
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

# symbol or function name -> numpy function; what is not here cannot be written in a pipeline
_OPS: dict[str, Any] = {
    "+": np.add, "-": np.subtract, "*": np.multiply, "/": np.divide, "//": np.floor_divide, "%": np.mod, "**": np.float_power,
    ">": np.greater, ">=": np.greater_equal, "<": np.less, "<=": np.less_equal, "==": np.equal, "!=": np.not_equal,
    "&": np.bitwise_and, "|": np.bitwise_or, "~": np.invert, "neg": np.negative, "abs": np.abs,
    "sqrt": np.sqrt, "log": np.log, "exp": np.exp, "isnan": np.isnan, "same": np.asarray,
    "sin": np.sin, "cos": np.cos, "tan": np.tan, "arctan2": np.arctan2, "log10": np.log10, "floor": np.floor, "ceil": np.ceil,
    "round": np.round, "sign": np.sign, "minimum": np.minimum, "maximum": np.maximum, "clip": np.clip,
    "where": lambda which, *of: np.where(which, *(np.asarray(x, "T") if isinstance(x, str) else x for x in of)),
    "isin": lambda of, *values: np.isin(of, np.array(values, of.dtype)),
    "fill": lambda of, value: np.where(np.isnan(of), value, of), "unit": lambda of, text: of,
}  # fmt: skip


class Expr(Generic[T_co]):
    """A column that is measured, aggregated or computed. Combine with `+ - * / // % ** < <= == != >= > & | ~ abs()`."""

    def __init__(self, op: str, *args: object) -> None:
        self.op, self.args = op, args
        self.owner = self.name = ""

    def __set_name__(self, owner: type, name: str) -> None:
        if not self.owner:  # a column of another schema keeps its name; Schema makes an alias of it
            self.owner, self.name = owner.__name__, name

    @property
    def qualified(self) -> str:
        """`Schema.column`, the name by which a pipeline knows this column; '' for an unnamed expression."""
        return f"{self.owner}.{self.name}" if self.owner else ""

    def on(self, columns: Mapping[str, Array]) -> Array:
        """Evaluate over columns (each of shape `(rows,)`) given by qualified name."""
        known = columns.get(self.qualified)
        if known is not None:
            return known
        if self.op not in _OPS:
            raise PlanError(f"column {self} is not in this stream; it has {', '.join(sorted(columns)) or 'none'}")
        return cast(Array, _OPS[self.op](*(a.on(columns) if isinstance(a, Expr) else a for a in self.args)))

    def leaves(self, known: frozenset[str] = frozenset()) -> Iterator[Expr[Any]]:
        """The columns this expression reads, not looking behind those in `known`."""
        if self.op not in _OPS or self.qualified in known:
            yield self
            return
        for arg in self.args:
            if isinstance(arg, Expr):
                yield from arg.leaves(known)

    def __repr__(self) -> str:
        return self.qualified or self.formula()

    def formula(self, known: Container[str] | None = None) -> str:
        """The expression as text, stable over runs: it is part of fingerprints.

        Columns in `known` (by default all that have a name) stand as names, others as their own formulas.
        """
        if self.op not in _OPS:
            return self.qualified
        shown = [a.shown(known) if isinstance(a, Expr) else repr(a) for a in self.args]
        if len(shown) == 2 and not self.op.isalpha():
            return f"({shown[0]} {self.op} {shown[1]})"
        return f"{self.op}({', '.join(shown)})"

    def shown(self, known: Container[str] | None = None) -> str:
        """Its name if it has one (that is known), else its formula."""
        named = self.qualified and (known is None or self.qualified in known)
        return self.qualified if named else self.formula(known)

    def __bool__(self) -> bool:
        raise PlanError(f"column {self} has no truth value: combine conditions with & | ~ rather than and, or, not")

    __hash__ = object.__hash__

    def __add__(self, other: object) -> Expr[T_co]:
        return Expr("+", self, other)

    def __radd__(self, other: object) -> Expr[T_co]:
        return Expr("+", other, self)

    def __sub__(self, other: object) -> Expr[T_co]:
        return Expr("-", self, other)

    def __rsub__(self, other: object) -> Expr[T_co]:
        return Expr("-", other, self)

    def __mul__(self, other: object) -> Expr[T_co]:
        return Expr("*", self, other)

    def __rmul__(self, other: object) -> Expr[T_co]:
        return Expr("*", other, self)

    def __truediv__(self, other: object) -> Expr[float]:
        return Expr("/", self, other)

    def __rtruediv__(self, other: object) -> Expr[float]:
        return Expr("/", other, self)

    def __floordiv__(self, other: object) -> Expr[T_co]:
        return Expr("//", self, other)

    def __mod__(self, other: object) -> Expr[T_co]:
        return Expr("%", self, other)

    def __pow__(self, other: object) -> Expr[T_co]:
        return Expr("**", self, other)

    def __neg__(self) -> Expr[T_co]:
        return Expr("neg", self)

    def __abs__(self) -> Expr[T_co]:
        return Expr("abs", self)

    def __gt__(self, other: object) -> Expr[bool]:
        return Expr(">", self, other)

    def __ge__(self, other: object) -> Expr[bool]:
        return Expr(">=", self, other)

    def __lt__(self, other: object) -> Expr[bool]:
        return Expr("<", self, other)

    def __le__(self, other: object) -> Expr[bool]:
        return Expr("<=", self, other)

    def __eq__(self, other: object) -> Expr[bool]:  # type: ignore[override]  # a column compares row by row
        return Expr("==", self, other)

    def __ne__(self, other: object) -> Expr[bool]:  # type: ignore[override]  # a column compares row by row
        return Expr("!=", self, other)

    @overload
    def __and__(self: Expr[bool], other: Expr[bool]) -> Expr[bool]: ...
    @overload
    def __and__(self: Expr[int], other: Expr[int] | int) -> Expr[int]: ...
    def __and__(self, other: object) -> Expr[Any]:
        return Expr("&", self, other)

    @overload
    def __or__(self: Expr[bool], other: Expr[bool]) -> Expr[bool]: ...
    @overload
    def __or__(self: Expr[int], other: Expr[int] | int) -> Expr[int]: ...
    def __or__(self, other: object) -> Expr[Any]:
        return Expr("|", self, other)

    def __invert__(self) -> Expr[T_co]:
        return Expr("~", self)


def sqrt(of: Expr[float]) -> Expr[float]:
    """Square root; NaN below zero."""
    return Expr("sqrt", of)


def log(of: Expr[float]) -> Expr[float]:
    """Natural logarithm; NaN below zero."""
    return Expr("log", of)


def exp(of: Expr[float]) -> Expr[float]:
    """e to the power of the column."""
    return Expr("exp", of)


def isnan(of: Expr[float]) -> Expr[bool]:
    """True where a value is missing or undefined."""
    return Expr("isnan", of)


def if_else(condition: Expr[bool], then: object, otherwise: object) -> Expr[Any]:
    """`then` where the condition holds, else `otherwise`; both may be columns or constants."""
    return Expr("where", condition, then, otherwise)


def log10(of: Expr[float]) -> Expr[float]:
    """Decimal logarithm; NaN below zero."""
    return Expr("log10", of)


def sin(of: Expr[float]) -> Expr[float]:
    """Sine of radians."""
    return Expr("sin", of)


def cos(of: Expr[float]) -> Expr[float]:
    """Cosine of radians."""
    return Expr("cos", of)


def tan(of: Expr[float]) -> Expr[float]:
    """Tangent of radians."""
    return Expr("tan", of)


def arctan2(y: Expr[float], x: Expr[float]) -> Expr[float]:
    """Angle of the point (x, y), radians from −π to π; of wind, of a phase."""
    return Expr("arctan2", y, x)


def floor(of: Expr[float]) -> Expr[float]:
    """The next whole number below."""
    return Expr("floor", of)


def ceil(of: Expr[float]) -> Expr[float]:
    """The next whole number above."""
    return Expr("ceil", of)


def round(of: Expr[float], decimals: int = 0) -> Expr[float]:
    """Rounded; halves go to the even neighbour."""
    return Expr("round", of, decimals)


def sign(of: Expr[T]) -> Expr[T]:
    """−1, 0 or 1."""
    return Expr("sign", of)


def minimum(a: Expr[T], b: object) -> Expr[T]:
    """The smaller of two, row by row."""
    return Expr("minimum", a, b)


def maximum(a: Expr[T], b: object) -> Expr[T]:
    """The larger of two, row by row."""
    return Expr("maximum", a, b)


def clip(of: Expr[T], low: object, high: object) -> Expr[T]:
    """What lies outside `low` … `high` is moved to the nearer of them."""
    return Expr("clip", of, low, high)


def isin(of: Expr[Any], *values: object) -> Expr[bool]:
    """Whether a value is one of these: `isin(Machine.state, "fault", "stop")`."""
    return Expr("isin", of, *values)


def fill(of: Expr[float], value: object) -> Expr[float]:
    """`value`, a number or a column, where there is NaN."""
    return Expr("fill", of, value)


def unit(of: Expr[T], text: str) -> Expr[T]:
    """The same values, in a unit that is stated: `power = unit(V.u * V.i, "W")`. Nothing is converted."""
    return Expr("unit", of, text)
