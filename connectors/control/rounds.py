"""When each device that cannot tell its settings itself is read, and when it may be written to. Pure.

It is read on its period, and at once when something else is desired. What is not as desired is written at once, and if that did
not help, or did not last, again after longer and longer: memory in which devices keep settings wears out. All waits are cut at
random, so that many devices are not asked together.
"""

from __future__ import annotations

import math
import random
from collections.abc import Collection
from dataclasses import dataclass

from connectors.control.agenda import Agenda
from connectors.control.telling import AGAIN_S_MAX, AGAIN_S_MIN, ASSERT_S, GAP_S_MIN, SPREAD_S

QUIET_S_MIN, QUIET_S_MAX = 0.25, 60.0  # a device that did not answer is asked again after that


@dataclass(slots=True)
class _Round:
    version: int = 0  # of what is desired, when it was last written to
    written_s: float = -math.inf
    write_s: float = -math.inf  # it is not written to before, unless something else is desired
    wait_s: float = AGAIN_S_MIN
    quiet_s: float = QUIET_S_MIN
    ended_s: float = -GAP_S_MIN


class Rounds:
    """Turns by device; times are those of a clock that never goes back."""

    def __init__(self, seed: int | None = None) -> None:
        self._agenda, self._rounds = Agenda(), dict[str, _Round]()
        self._random = random.Random(seed)  # noqa: S311 - spreads load, guards nothing

    def begin(self, devices: Collection[str], now_s: float) -> None:
        """All of these are read soon."""
        for device in devices:
            self._rounds[device] = _Round()
            self._agenda.put(device, now_s + SPREAD_S * self._random.random())

    def changed(self, device: str, now_s: float) -> None:
        """Something else is desired: its turn is at once, or as soon as it may be again."""
        turn = self._rounds.setdefault(device, _Round())
        self._agenda.put(device, max(now_s, turn.ended_s + GAP_S_MIN))

    def due(self, now_s: float, count_max: int) -> list[str]:
        """Whose turn it is; until `started`."""
        return self._agenda.due(now_s, count_max)

    def started(self, device: str) -> None:
        """It has its turn until `ended`, `silent` or `put_off`."""
        self._agenda.put(device, math.inf)

    def put_off(self, device: str, now_s: float) -> None:
        """Something else comes first."""
        self._again(device, now_s, GAP_S_MIN)

    def silent(self, device: str, now_s: float) -> bool:
        """It cannot be reached, or did not answer; whether that is worth a word: once, and not while a link is being made."""
        turn = self._rounds[device]
        before = turn.quiet_s
        self._again(device, now_s, self._cut(before))
        turn.quiet_s = min(before * 2, QUIET_S_MAX)
        return before < AGAIN_S_MIN <= turn.quiet_s

    def may_write(self, device: str, version: int, now_s: float) -> bool:
        """Whether what is desired may be written now."""
        turn = self._rounds[device]
        return version != turn.version or now_s >= turn.write_s

    def wrote(self, device: str, version: int, now_s: float) -> None:
        """It was written to, or that was tried."""
        turn = self._rounds[device]
        if version != turn.version or now_s - turn.written_s >= ASSERT_S:
            turn.wait_s = AGAIN_S_MIN
        turn.version, turn.written_s = version, now_s
        turn.write_s = now_s + self._cut(turn.wait_s)
        turn.wait_s = min(turn.wait_s * 2, AGAIN_S_MAX)

    def ended(self, device: str, now_s: float, every_s: float, *, agrees: bool) -> None:
        """It has answered. One that is not as desired comes again when it may be written to."""
        turn = self._rounds[device]
        turn.quiet_s = QUIET_S_MIN
        wait_s = self._cut(every_s)
        self._again(device, now_s, wait_s if agrees else min(wait_s, max(turn.write_s - now_s, GAP_S_MIN)))

    def _again(self, device: str, now_s: float, wait_s: float) -> None:
        turn = self._rounds[device]
        turn.ended_s = now_s
        # what was desired meanwhile has its turn already
        self._agenda.put(device, min(now_s + wait_s, max(self._agenda.at(device), now_s + GAP_S_MIN)))

    def _cut(self, wait_s: float) -> float:
        return wait_s * self._random.uniform(0.5, 1)
