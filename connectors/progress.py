"""How far a source has come: its watermark, which goes on with the clock while the whole fleet is silent."""

from __future__ import annotations

from pipelines.batch import TIME_MAX, TIME_MIN


class Progress:
    """The watermark of one source: the newest event time seen, or later if nothing has come for longer than `silence_s`.

    Silence counts only while the link is up: behind a broken link readings may be waiting. It never goes back.
    """

    def __init__(self, speed: float, silence_s: float) -> None:
        self._speed, self._silence_s = speed, silence_s
        self._base = self.watermark = TIME_MIN
        self._since_s = 0.0

    def link_up(self, now_s: float) -> None:
        """The link was made: silence counts from here."""
        self._base, self._since_s = self.watermark, now_s

    def saw(self, newest_ns: int, now_s: float) -> None:
        """Readings came, the newest of that event time."""
        self._base = self.watermark = max(self.watermark, newest_ns)
        self._since_s = now_s

    def silent(self, now_s: float) -> None:
        """Nothing came although the link is up."""
        quiet_s = now_s - self._since_s - self._silence_s
        if quiet_s > 0 and self._base > TIME_MIN:
            self.watermark = max(self.watermark, min(self._base + int(quiet_s * self._speed * 1e9), TIME_MAX - 1))

    def ended(self) -> None:
        """Nothing more will come, ever."""
        self.watermark = TIME_MAX


class DeviceClock:
    """How late a device's clock may honestly be now: what is later than that would close every window at once.

    At speed 1 devices share our clock, within `future_ns`. A recording runs at its own speed from the first batch on, whose
    middle reading is taken for its present.
    """

    def __init__(self, speed: float, future_ns: int) -> None:
        self._speed, self._future_ns = speed, future_ns
        self._offset_ns: int | None = 0 if speed == 1 else None

    def latest(self, now_ns: int) -> int:
        """The latest acceptable event time, ns; `TIME_MAX` while that is unknown."""
        if self._offset_ns is None or self._speed == 0:
            return TIME_MAX
        return int(now_ns * self._speed) + self._offset_ns + int(self._future_ns * self._speed)

    def learn(self, middle_ns: int, now_ns: int) -> None:
        """The middle event time of a batch that was read at `now_ns`; only the first counts."""
        if self._offset_ns is None:
            self._offset_ns = middle_ns - int(now_ns * self._speed)
