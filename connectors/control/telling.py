"""When each device is told its settings: at once, then again after longer and longer, until it says that it has them. Pure.

Nothing is spent on being certain: to tell a device twice does no harm. All waits are cut at random, so that many devices that
came back together are not told together.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from connectors.control.agenda import Agenda
from connectors.control.twin import Desired, State, Twins

AGAIN_S_MIN, AGAIN_S_MAX = 5.0, 600.0
GAP_S_MIN = 1.0  # between two to one device that says that it has not heard the newest
SPREAD_S = 5.0  # after a connection was made, for all that differ
ASSERT_S = 3600.0  # a device that agrees is told again after that: it may have been reset, and its report lost
AT_ONCE_MAX = 200  # devices told before others get their turn


@dataclass(slots=True)
class _Turn:
    wait_s: float = AGAIN_S_MIN
    told_s: float = -GAP_S_MIN
    version: int = 0  # of the last that it was told


class Telling:
    """Turns by device, of those that `hears`; times are those of a clock that never goes back."""

    def __init__(
        self, twins: Twins, now_s: float, seed: int | None = None, hears: Callable[[str], bool] = lambda _: True
    ) -> None:
        self._twins, self._agenda = twins, Agenda()
        self._random = random.Random(seed)  # noqa: S311 - spreads load, guards nothing
        self._turns: dict[str, _Turn] = {}
        for desired in filter(lambda d: hears(d.device), twins.desired()):
            spread = SPREAD_S if desired.device in twins.different else ASSERT_S
            self._turns[desired.device] = _Turn()
            self._agenda.put(desired.device, now_s + spread * self._random.random())

    def changed(self, device: str, now_s: float) -> None:
        """Something else is desired: it is told at once."""
        self._turns[device] = _Turn()
        self._agenda.put(device, now_s)

    def connected(self, now_s: float) -> None:
        """Devices can be reached again: those that differ are told soon."""
        for device in self._twins.different:
            if turn := self._turns.get(device):
                turn.wait_s = AGAIN_S_MIN
                self._sooner(device, now_s + SPREAD_S * self._random.random())

    def heard(self, device: str, now_s: float) -> None:
        """A device has said something, which is on record: if it lacks the newest, it hears it now; if it differs, soon."""
        turn = self._turns.get(device)
        if turn is None:
            return
        state = self._twins[device].state
        if state is State.PENDING:
            self._sooner(device, max(now_s, turn.told_s + GAP_S_MIN))
        elif state is State.DIFFERS:
            self._sooner(device, max(now_s, turn.told_s + turn.wait_s))
        elif state is State.IN_SYNC:
            turn.wait_s = AGAIN_S_MIN
            self._agenda.put(device, now_s + self._cut(ASSERT_S))

    def _sooner(self, device: str, at_s: float) -> None:
        if at_s < self._agenda.at(device):
            self._agenda.put(device, at_s)

    def due(self, now_s: float) -> Iterable[Desired]:
        """What is to be told now."""
        return [d for device in self._agenda.due(now_s, AT_ONCE_MAX) if (d := self._twins[device].desired)]

    def told(self, desired: Desired, now_s: float) -> bool:
        """Take note that a device was told; whether it was for the first time."""
        turn = self._turns[desired.device]
        first = turn.version != desired.version
        turn.version, turn.told_s = desired.version, now_s
        self._agenda.put(desired.device, now_s + self._cut(turn.wait_s))
        turn.wait_s = min(turn.wait_s * 2, AGAIN_S_MAX)
        return first

    def _cut(self, wait_s: float) -> float:
        return wait_s * self._random.uniform(0.5, 1)
