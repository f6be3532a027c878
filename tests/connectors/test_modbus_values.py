"""Which requests are made, and what becomes of their answers: against slow references that go register by register."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.modbus.blocks import Item, items, merge
from connectors.modbus.registers import FUNCTIONS, WORDS, Register, Table
from connectors.modbus.values import Column, Values
from connectors.modbus.wire import COUNT_MAX
from pipelines.quality import BAD, GOOD, UNCERTAIN
from pipelines.schema import Field

FORMATS = {
    "int16": "h", "uint16": "H", "int32": "i", "uint32": "I", "int64": "q", "uint64": "Q", "float32": "f", "float64": "d"
}  # fmt: skip
TABLES: list[Table] = list(FUNCTIONS)


@st.composite
def registers(draw: st.DrawFn) -> list[Register]:
    made = []
    top = draw(st.sampled_from([60, 600, 65_000]))
    for _ in range(draw(st.integers(1, 40))):
        table = draw(st.sampled_from(TABLES))
        kind = "bool" if table in ("coil", "discrete_input") else draw(st.sampled_from([*FORMATS, "string"]))
        words = draw(st.integers(1, 9)) if kind == "string" else WORDS[kind]
        made.append(Register(table, draw(st.integers(0, top)), kind, words))
    return made


@settings(max_examples=40)
@given(registers(), st.integers(0, 30))
def test_merged_requests_give_all_that_is_wanted_and_no_more_than_may_be(wanted: list[Register], gap_max: int) -> None:
    placed = items(wanted)
    blocks = merge(placed, gap_max=gap_max)
    assert sorted(i.number for b in blocks for i in b.items) == list(range(len(wanted)))
    memory = {f: np.random.default_rng(f).integers(0, 2**16, 65_536).astype(np.uint16) for f in FUNCTIONS.values()}
    row = np.zeros(sum(r.words for r in wanted), np.uint16)
    for b in blocks:
        assert 1 <= b.count <= COUNT_MAX[b.function]
        needed = {a for i in b.items for a in range(i.register.address, i.end)}
        asked = set(range(b.start, b.start + b.count))
        assert needed <= asked
        assert {b.start, b.start + b.count - 1} <= needed
        assert _longest_run(asked - needed) <= gap_max
        b.put(memory[b.function][b.start : b.start + b.count], row)
    expected = [memory[r.function][r.address : r.address + r.words] for r in wanted]
    assert (row == np.concatenate(expected)).all()
    assert len(blocks) == _fewest(placed, gap_max)


def _longest_run(addresses: set[int]) -> int:
    longest = run = 0
    before = -9
    for a in sorted(addresses):
        run = run + 1 if a == before + 1 else 1
        before, longest = a, max(longest, run)
    return longest


def _fewest(placed: tuple[Item, ...], gap_max: int) -> int:
    """By dynamic programming over the items in order of address: the fewest cuts into requests that may be made."""
    count = 0
    for function in FUNCTIONS.values():
        here = sorted((i for i in placed if i.register.function == function), key=lambda i: (i.register.address, i.end))
        best = [0] + [10**9] * len(here)
        for first in range(len(here)):
            end = here[first].register.address
            for last in range(first, len(here)):
                if here[last].register.address - end > gap_max and last > first:
                    break
                end = max(end, here[last].end)
                if end - here[first].register.address > COUNT_MAX[function]:
                    break
                best[last + 1] = min(best[last + 1], best[first] + 1)
        count += best[-1]
    return count


@settings(max_examples=40)
@given(registers())
def test_parts_of_a_request_that_is_refused_end_with_single_registers(wanted: list[Register]) -> None:
    todo = list(merge(items(wanted), gap_max=10))
    single = []
    for _ in range(10_000):
        if not todo:
            break
        block = todo.pop()
        parts = block.parts()
        assert sorted(i.number for p in parts for i in p.items) == (sorted(block.numbers.tolist()) if parts else [])
        single += [] if parts else list(block.items)
        todo += parts
    assert sorted(i.number for i in single) == list(range(len(wanted)))


def test_a_request_with_gaps_is_cut_there_first() -> None:
    placed = items([Register("holding", a, "uint16") for a in (0, 1, 5, 6)])
    (block,) = merge(placed, gap_max=10)
    assert (block.start, block.count) == (0, 7)
    assert [(p.start, p.count) for p in block.parts()] == [(0, 2), (5, 2)]
    assert [(p.start, p.count) for p in block.parts()[0].parts()] == [(0, 1), (1, 1)]


def slow(r: Register, words: list[int], dtype: str) -> Any:
    """The value of one register, or None."""
    ordered = words[::-1] if r.word_order == "little" and r.type != "string" else words
    data = b"".join(w.to_bytes(2, r.byte_order) for w in ordered)  # type: ignore[arg-type]  # 'big' or 'little'
    if r.type == "bool":
        return bool(int.from_bytes(data, "big") >> (r.bit or 0) & 1)
    if r.type == "string":
        try:
            return data.partition(b"\0")[0].decode().rstrip()
        except UnicodeDecodeError:
            return None
    if r.type.startswith("bcd"):
        text = data.hex()
        if not text.isdigit():
            return None
        number: Any = int(text)
    else:
        (number,) = struct.unpack(f">{FORMATS[r.type]}", data)
    if dtype == "int64":
        number = number * int(r.scale) + int(r.offset)
        return number if -(2**63) <= number < 2**63 else None
    with np.errstate(over="ignore", invalid="ignore"):
        value = np.float64(number)
        if (r.scale, r.offset) != (1, 0):
            value = value * r.scale + r.offset
        value = np.dtype(dtype).type(value)
    return value if np.isfinite(value) else None


@st.composite
def columns(draw: st.DrawFn) -> list[tuple[Register, str]]:
    made = []
    for _ in range(draw(st.integers(1, 12))):
        kind = draw(st.sampled_from([*FORMATS, "bool", "bcd16", "bcd32", "string"]))
        words = draw(st.integers(1, 5)) if kind == "string" else WORDS[kind]
        orders = draw(st.tuples(*[st.sampled_from(["big", "little"])] * 2))
        if kind in ("bool", "string"):
            bit = draw(st.integers(0, 15)) if kind == "bool" else None
            made.append(
                (Register("holding", 0, kind, words, bit, orders[0], orders[1]), "bool" if kind == "bool" else "T")
            )
            continue
        dtype = draw(st.sampled_from(["float64", "float32"] + ["int64"] * ("float" not in kind)))
        scale, offset = draw(st.sampled_from([(1, 0), (10, 3), (-7, 0)] + [(0.1, -40.0)] * (dtype != "int64")))
        made.append((Register("holding", 0, kind, words, None, orders[0], orders[1], scale, offset), dtype))
    return made


@settings(max_examples=60)
@given(columns(), st.integers(0, 4), st.data())
def test_values_are_those_that_a_slow_decoder_gives(
    given: list[tuple[Register, str]], rows: int, data: st.DataObject
) -> None:
    placed = items([r for r, _ in given])
    fields = [Field(f"S.c{n}", dtype) for n, (_, dtype) in enumerate(given)]
    decoder = Values([Column(f, i, None) for f, i in zip(fields, placed, strict=True)])
    width = decoder.shape[0]
    word = st.sampled_from([0, 1, 0x7FF0, 0x7F80, 0xFFFF, 0x8000, 0x1234, 0x4142, 0xC3A4]) | st.integers(0, 65_535)
    words = data.draw(st.lists(st.lists(word, min_size=width, max_size=width), min_size=rows, max_size=rows))
    there = data.draw(
        st.lists(st.lists(st.booleans(), min_size=len(given), max_size=len(given)), min_size=rows, max_size=rows)
    )
    found, quality = decoder.decode(
        np.array(words, np.uint16).reshape(rows, width), np.array(there, bool).reshape(rows, len(given))
    )
    assert list(found) == [f.qualified for f in fields]
    for row in range(rows):
        lost = False
        for field, item in zip(fields, placed, strict=True):
            value = slow(item.register, words[row][item.word : item.word + item.register.words], field.dtype)
            got = found[field.qualified][row]
            if value is None or not there[row][item.number]:
                lost = True
                assert np.isnan(got) if field.dtype.startswith("float") else not got
            else:
                assert got == value
        assert quality[row] == (BAD if lost else GOOD)
    assert [c.dtype for c in found.values()] == [np.dtypes.StringDType() if f.dtype == "T" else f.dtype for f in fields]


def test_quality() -> None:
    """A value that can be replaced makes a row uncertain, another makes it bad; and so do none at all."""
    placed = items([Register("holding", 0, "uint16"), Register("holding", 1, "uint16")])
    fields = Field("S.a", "float64"), Field("S.b", "int64")
    there = np.array([[1, 1], [0, 1], [1, 0], [0, 0]], bool)
    words = np.full((4, 2), 5, np.uint16)
    for absent, expected in (
        ((np.nan, None), [GOOD, UNCERTAIN, BAD, BAD]),
        ((-1.0, 7), [GOOD, UNCERTAIN, UNCERTAIN, BAD]),
        ((None, None), [GOOD, BAD, BAD, BAD]),
    ):
        columns = [Column(f, i, a) for f, i, a in zip(fields, placed, absent, strict=True)]
        found, quality = Values(columns).decode(words, there)
        assert quality.tolist() == expected
        assert found["S.b"].tolist() == [5, 5, absent[1] or 0, absent[1] or 0]
        np.testing.assert_equal(found["S.a"][1], np.nan if absent[0] is None else absent[0])
