"""Maintenance windows: 'Mon-Fri 22:00-04:00 Europe/Berlin'. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pipelines.errors import ConfigError

_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_FORM = re.compile(r"(?:([A-Za-z]{3})(?:-([A-Za-z]{3}))? )?(\d\d):(\d\d)-(\d\d):(\d\d)(?: (\S+))?")


@dataclass(frozen=True)
class Window:
    """From `begin` on, for minutes of the day on the days on which it begins; it may go on past midnight."""

    days: frozenset[int]  # Monday is 0
    begin_min: int
    end_min: int  # not later than begin_min: of the next day
    zone: ZoneInfo

    def open(self, now_s: float) -> bool:
        """Whether a device may restart now. Wall-clock times of the zone count, also on days with 23 or 25 hours."""
        local = datetime.fromtimestamp(now_s, self.zone)
        minute = local.hour * 60 + local.minute
        yesterday = (local.date() - timedelta(days=1)).weekday()
        if self.begin_min < self.end_min:
            return local.weekday() in self.days and self.begin_min <= minute < self.end_min
        late = local.weekday() in self.days and minute >= self.begin_min
        return late or (yesterday in self.days and minute < self.end_min)


def parse(text: str) -> tuple[Window, ...]:
    """Windows with ';' between them; none for '': always. `ConfigError` if it is not that."""
    return tuple(_window(part.strip()) for part in text.split(";") if part.strip())


def is_open(windows: tuple[Window, ...], now_s: float) -> bool:
    """Whether one of them is open, or there is none."""
    return not windows or any(w.open(now_s) for w in windows)


def _window(text: str) -> Window:
    found = _FORM.fullmatch(text)
    wrong = ConfigError(
        f"maintenance window {text!r}: write days, times and time zone, such as 'Mon-Fri 22:00-04:00 Europe/Berlin', "
        "several with ';'"
    )
    if found is None:
        raise wrong
    first, last, *times, zone = found.groups()
    hours, minutes = [int(t) for t in times[::2]], [int(t) for t in times[1::2]]
    if max(hours) > 23 or max(minutes) > 59 or {d.lower() for d in (first, last) if d} - set(_DAYS):
        raise wrong
    try:
        at = ZoneInfo(zone or "UTC")
    except (ZoneInfoNotFoundError, ValueError) as e:
        raise ConfigError(f"maintenance window {text!r}: there is no time zone {zone!r}") from e
    begin, end = (h * 60 + m for h, m in zip(hours, minutes, strict=True))
    return Window(_span(first, last), begin, end, at)


def _span(first: str | None, last: str | None) -> frozenset[int]:
    if not first:
        return frozenset(range(7))
    a = _DAYS.index(first.lower())
    b = _DAYS.index((last or first).lower())
    return frozenset((a + n) % 7 for n in range((b - a) % 7 + 1))
