"""Which requests give the registers of a poll: neighbours are asked for together. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from connectors.modbus.registers import Register
from connectors.modbus.wire import COUNT_MAX, Words

Index = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Item:
    """A register of a row: the number of its value, and where its words begin in the row's words."""

    number: int
    word: int
    register: Register

    @property
    def end(self) -> int:
        """The first address after it."""
        return self.register.address + self.register.words


@dataclass(frozen=True)
class Block:
    """What one request asks for; its items are in order of address."""

    function: int
    start: int
    count: int
    items: tuple[Item, ...]

    @cached_property
    def numbers(self) -> Index:
        """Of the values that it gives."""
        return np.array([i.number for i in self.items])

    @cached_property
    def _from_to(self) -> tuple[Index, Index]:
        source = [np.arange(i.register.address - self.start, i.end - self.start) for i in self.items]
        target = [np.arange(i.word, i.word + i.register.words) for i in self.items]
        return np.concatenate(source), np.concatenate(target)

    def put(self, answer: Words, row: Words) -> None:
        """The words of the answer, to where they belong in the row."""
        source, target = self._from_to
        row[target] = answer[source]

    def parts(self) -> tuple[Block, ...]:
        """Smaller requests for the same, because this one was refused: without gaps, else in halves; () if it has one item."""
        if len(self.items) == 1:
            return ()
        runs = merge(self.items, gap_max=0)
        if len(runs) > 1:
            return runs
        half = len(self.items) // 2
        return merge(self.items[:half], gap_max=0) + merge(self.items[half:], gap_max=0)


def items(registers: Sequence[Register]) -> tuple[Item, ...]:
    """Registers of a row in order, each with its place in the row's words."""
    ends = np.cumsum([r.words for r in registers]).tolist()
    return tuple(Item(n, end - r.words, r) for n, (r, end) in enumerate(zip(registers, ends, strict=True)))


def merge(wanted: Sequence[Item], *, gap_max: int) -> tuple[Block, ...]:
    """The fewest requests in order of address that give the items, reading through up to `gap_max` unwanted registers at once.

    A value is never cut in two.
    """
    blocks: list[Block] = []
    run: list[Item] = []
    end = 0
    for item in sorted(wanted, key=lambda i: (i.register.function, i.register.address, i.end)):
        function, address = item.register.function, item.register.address
        joins = (
            bool(run)
            and run[0].register.function == function
            and address - end <= gap_max
            and max(end, item.end) - run[0].register.address <= COUNT_MAX[function]
        )
        if not joins:
            blocks += _block(run, end)
            run, end = [], 0
        run.append(item)
        end = max(end, item.end)
    return (*blocks, *_block(run, end))


def _block(run: list[Item], end: int) -> list[Block]:
    if not run:
        return []
    first = run[0].register
    return [Block(first.function, first.address, end - first.address, tuple(run))]
