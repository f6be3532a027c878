"""What a device's registers mean: where a column stands, how it is written there, and how often it is asked for.

Addresses are those of the protocol, 0 to 65535: what a manual calls 40101 is `holding(100, …)`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from connectors.options import duration
from pipelines.errors import PlanError
from pipelines.expr import Expr
from pipelines.schema import TEXT, Row

Table = Literal["coil", "discrete_input", "holding", "input_register"]
Order = Literal["big", "little"]
Type = Literal[
    "bool", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64", "bcd16", "bcd32", "string"
]  # fmt: skip
FUNCTIONS: Mapping[Table, int] = {"coil": 1, "discrete_input": 2, "holding": 3, "input_register": 4}
WORDS: Mapping[str, int] = {
    "bool": 1, "int16": 1, "uint16": 1, "int32": 2, "uint32": 2, "int64": 4, "uint64": 4, "float32": 2, "float64": 4, "bcd16": 1,
    "bcd32": 2,
}  # fmt: skip
ADDRESS_MAX = 65_535
STRING_WORDS_MAX = 125
ORDERS = ("big", "little")


@dataclass(frozen=True, slots=True)
class Register:
    """Where a value stands in a device and how it is written there. Made by the functions of this module."""

    table: Table
    address: int
    type: str
    words: int = 1  # registers that it takes, or 1 coil
    bit: int | None = None
    word_order: str = "big"
    byte_order: str = "big"
    scale: float = 1.0
    offset: float = 0.0
    unit: str = ""

    @property
    def function(self) -> int:
        """The code of the function that reads it."""
        return FUNCTIONS[self.table]

    def text(self) -> str:
        """For descriptions and messages: `holding 100 float32`."""
        bit = "" if self.bit is None else f".{self.bit}"
        return f"{self.table} {self.address}{bit} {self.type}"


def holding(
    address: int,
    type: Type = "uint16",
    *,
    bit: int | None = None,
    length: int | None = None,
    word_order: Order = "big",
    byte_order: Order = "big",
    scale: float = 1.0,
    offset: float = 0.0,
    unit: str = "",
) -> Register:
    """A value in holding registers (function 3), from `address` on.

    `type`: 'int16' to 'uint64', 'float32', 'float64', 'bcd16' and 'bcd32' (four and eight decimal digits), 'string' of `length`
    registers of two characters each, or, if `bit` (0 is the lowest) is given, the truth of that bit.
    `word_order`: 'big' has the highest register first. `byte_order` is that within a register; 'big' is the standard's.
    The column has value · `scale` + `offset`. `unit`, if given, must be the column's.
    """
    return _register("holding", address, type, bit, length, word_order, byte_order, scale, offset, unit)


def input_register(
    address: int,
    type: Type = "uint16",
    *,
    bit: int | None = None,
    length: int | None = None,
    word_order: Order = "big",
    byte_order: Order = "big",
    scale: float = 1.0,
    offset: float = 0.0,
    unit: str = "",
) -> Register:
    """A value in input registers (function 4); otherwise as `holding`."""
    return _register("input_register", address, type, bit, length, word_order, byte_order, scale, offset, unit)


def coil(address: int) -> Register:
    """The truth of a coil (function 1)."""
    return _checked(Register("coil", address, "bool"))


def discrete_input(address: int) -> Register:
    """The truth of a discrete input (function 2)."""
    return _checked(Register("discrete_input", address, "bool"))


def _register(
    table: Table, address: int, type: str, bit: int | None, length: int | None, word_order: str, byte_order: str, scale: float,
    offset: float, unit: str,
) -> Register:  # fmt: skip
    if bit is not None:
        type, words = "bool", 1
    elif type == "string":
        words = length or 0
    else:
        words = WORDS.get(type, 0)
    made = Register(table, address, type, words, bit, word_order, byte_order, scale, offset, unit)
    if (length is not None) != (type == "string") or (type == "string" and not 1 <= words <= STRING_WORDS_MAX):
        raise PlanError(f"{made.text()}: length= is for 'string', from 1 to {STRING_WORDS_MAX} registers; got {length}")
    return _checked(made)


def _checked(made: Register) -> Register:
    what = made.text()
    if made.type not in WORDS and made.type != "string":
        raise PlanError(f"{what}: there is no such type; types are {', '.join(WORDS)} and string")
    if made.table in ("holding", "input_register") and made.type == "bool" and made.bit is None:
        raise PlanError(f"{what}: say which bit of the register, such as bit=0")
    if made.bit is not None and not 0 <= made.bit <= 15:
        raise PlanError(f"{what}: a register has the bits 0 to 15")
    if not 0 <= made.address <= made.address + made.words - 1 <= ADDRESS_MAX:
        raise PlanError(f"{what}: addresses go from 0 to {ADDRESS_MAX}; a manual's 40101 is holding(100)")
    if made.word_order not in ORDERS or made.byte_order not in ORDERS:
        raise PlanError(f"{what}: word_order and byte_order are 'big' or 'little'")
    if not all(abs(x) < float("inf") for x in (made.scale, made.offset)) or made.scale == 0:
        raise PlanError(f"{what}: scale={made.scale}, offset={made.offset}: finite numbers are needed, scale not 0")
    if made.type in ("bool", "string") and (made.scale, made.offset) != (1, 0):
        raise PlanError(f"{what}: only a number has a scale or an offset")
    return made


@dataclass(frozen=True, slots=True)
class Poll:
    """Columns that are asked for together. Made by `poll`."""

    every: str
    offset: str
    jitter: str
    registers: tuple[tuple[str, Register], ...]  # with the bare name of the column

    def text(self) -> str:
        """For descriptions."""
        return ", ".join(f"{name}={r.text()}" for name, r in self.registers)


def poll(every: str, registers: Mapping[Any, Register], *, offset: str = "0s", jitter: str = "0s") -> Poll:
    """`registers` by column, asked for `every` so often, `offset` after the start; each device up to `jitter` later than that.

    How much later is fixed for a device: it spreads devices, and keeps their interval.
    """
    duration("modbus", "every", every)
    duration("modbus", "offset", offset, zero=True)
    duration("modbus", "jitter", jitter, zero=True)
    for column, register in registers.items():
        if not isinstance(column, Expr) or not column.qualified or not isinstance(register, Register):
            raise PlanError(
                f"modbus registers: {column!r}: {register!r} is given; write Press.pressure: holding(100, 'float32') or such"
            )
    if not registers:
        raise PlanError("modbus registers: a poll has no registers: name at least one column")
    return Poll(every, offset, jitter, tuple((c.qualified, r) for c, r in registers.items()))


def check(row: Row, polls: tuple[Poll, ...]) -> None:
    """`PlanError` unless the polls give each column of `row` once, with a register that fits it."""
    given = [(name, register) for p in polls for name, register in p.registers]
    fields = {f.qualified: f for f in row.fields}
    for n, (name, register) in enumerate(given):
        if name not in fields:
            raise PlanError(
                f"modbus registers: {name} is no column that devices of {row.name} send; they send {_list(fields)}"
            )
        if any(name == other for other, _ in given[:n]):
            raise PlanError(f"modbus registers: {name} is given twice; a column has one register")
        _fits(name, fields[name].dtype, register)
        if register.unit and register.unit != fields[name].unit:
            raise PlanError(
                f"modbus registers: {name} is in {fields[name].unit!r}, {register.text()} in {register.unit!r}: "
                "use scale= and offset= to convert, and give the column's unit"
            )
    if absent := [name for name in fields if name not in dict(given)]:
        raise PlanError(
            f"modbus registers: {_list(absent)} has none: say where it stands, such as holding(100, 'float32')"
        )


def _list(names: Any) -> str:
    return ", ".join(names) or "nothing"


def _fits(name: str, dtype: str, register: Register) -> None:
    kind = {"bool": "bool", "string": TEXT, "float32": "float", "float64": "float"}.get(register.type, "int")
    wanted = "float" if dtype.startswith("float") else {"int64": "int"}.get(dtype, dtype)
    if kind != wanted and (kind, wanted) != ("int", "float"):
        shown = "str" if dtype == TEXT else dtype
        raise PlanError(f"modbus registers: {name} is a column of {shown}, and {register.text()} cannot become one")
    if wanted == "int" and (register.scale % 1 or register.offset % 1):
        raise PlanError(f"modbus registers: {name} is a column of int: scale and offset of it are whole numbers")
