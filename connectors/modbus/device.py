"""What is known of one device: its requests, its last values, and whether it answers. Pure.

A device that does not answer is asked less and less often, so that others behind the same gateway lose little time to it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from connectors.modbus import wire
from connectors.modbus.address import Address
from connectors.modbus.blocks import Block, Item, merge
from connectors.modbus.values import Mask
from connectors.modbus.wire import Words

AWAY_AFTER = 2  # polls without an answer, one after the other
AWAY_S_MAX = 30.0
REFUSED_AGAIN_S = 300.0  # what was refused is asked for again
log = logging.getLogger("collect")


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """What one poll of a device gave: the words of its row, and which values are there."""

    device: int
    time: int
    words: Words
    there: Mask


@dataclass(frozen=True, slots=True)
class Timing:
    """When a poll is due, s: `phase` after the start and then every `every`."""

    every: float
    offset: float
    jitter: float


@dataclass(frozen=True)
class Plan:
    """What all devices of a source have in common: the items of each poll, its timing, and which one makes the rows."""

    stream: str
    polls: tuple[tuple[Item, ...], ...]
    timings: tuple[Timing, ...]
    names: tuple[str, ...]  # of the columns, by item
    fastest: int
    gap_max: int
    count: Callable[[str], None]  # an error, by its reason

    @cached_property
    def age_s_max(self) -> npt.NDArray[np.float64]:
        """How long the value of each item lasts: two intervals of its poll. Those of the rows' own poll are always new."""
        lasts = [np.inf if n == self.fastest else 2 * t.every for n, t in enumerate(self.timings)]
        of_item = {i.number: last for items, last in zip(self.polls, lasts, strict=True) for i in items}
        return np.array([of_item[number] for number in range(len(self.names))])

    @property
    def words(self) -> int:
        """Of a row."""
        return sum(i.register.words for items in self.polls for i in items)


class Device:
    """One device of a source."""

    def __init__(self, number: int, name: str, address: Address, timeout_s: float, plan: Plan) -> None:
        self.number, self.name, self.unit, self.timeout_s = number, name, address.unit, timeout_s
        self._plan = plan
        self._merged = [merge(items, gap_max=plan.gap_max) for items in plan.polls]
        self._blocks: list[list[Block]] = [list(blocks) for blocks in self._merged]
        self._words: Words = np.zeros(plan.words, np.uint16)
        self._there = np.zeros(len(plan.names), bool)
        self._read_s = np.full(len(plan.names), -np.inf)  # by item
        self._again_s = np.inf  # when what was refused is asked for again
        self._told: set[str] = set()
        self._silent = 0
        self._failing = ""
        self.away_s = 0.0  # how long it is left alone now

    def blocks(self, poll: int, now_s: float) -> list[Block]:
        """What is to be asked for."""
        if now_s >= self._again_s:
            self._blocks, self._again_s = [list(blocks) for blocks in self._merged], np.inf
        return list(self._blocks[poll])

    def got(self, block: Block, answer: Words, now_s: float) -> None:
        """An answer came."""
        block.put(answer, self._words)
        self._there[block.numbers], self._read_s[block.numbers] = True, now_s

    def failed(self, poll: int, block: Block, reason: str) -> None:
        """A request failed, and the next may not. Values that are asked for less often last until they are too old."""
        self._plan.count(reason)
        if poll == self._plan.fastest:
            self._there[block.numbers] = False

    def refused(self, poll: int, block: Block, error: wire.Refused, now_s: float) -> tuple[Block, ...]:
        """The device has not all of that: what to ask for instead, now and from now on."""
        parts = () if error.code == wire.ILLEGAL_FUNCTION else block.parts()
        self._blocks[poll] = [b for known in self._blocks[poll] for b in (parts if known is block else (known,))]
        if not parts:
            self._there[block.numbers] = False
            self._again_s = min(self._again_s, now_s + REFUSED_AGAIN_S)
            self._plan.count(error.reason)
            for item in block.items:
                self._tell(item, error)
        return parts

    def _tell(self, item: Item, error: wire.Refused) -> None:
        column = self._plan.names[item.number]
        if column not in self._told:
            self._told.add(column)
            log.error(
                "%s: %s refuses %s, which is %s: %s: correct `registers=`, or the device's own settings",
                self._plan.stream, self.name, item.register.text(), column, error,
            )  # fmt: skip

    def heard(self) -> None:
        """A poll is done, and the device was there."""
        self._silent, self.away_s = 0, 0.0
        if self._failing:
            log.info("%s: %s answers again", self._plan.stream, self.name)
            self._failing = ""

    def silent(self, reason: str, why: str) -> None:
        """It did not answer, or could not be reached."""
        self._plan.count(reason)
        if self._failing != reason:
            log.warning("%s: %s: %s", self._plan.stream, self.name, why)
            self._failing = reason
        self._silent += 1
        if self._silent >= AWAY_AFTER:
            shortest = max(self.timeout_s, self._plan.timings[self._plan.fastest].every)
            self.away_s = min(max(2 * self.away_s, shortest), max(AWAY_S_MAX, shortest))

    def row(self, time: int, now_s: float) -> Sample:
        """All that is known of it, as one row."""
        there = self._there & (now_s - self._read_s <= self._plan.age_s_max)
        return Sample(self.number, time, self._words.copy(), there)

    def nothing(self, time: int) -> Sample:
        """A row without values: it was asked, and did not answer."""
        return Sample(self.number, time, self._words.copy(), np.zeros(len(self._there), bool))
