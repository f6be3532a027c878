"""Where the days, weeks, months, quarters and years of a time zone begin, from the IANA time zone database."""

from __future__ import annotations

from datetime import timedelta
from functools import lru_cache
from typing import Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
import numpy.typing as npt

from pipelines.batch import Times

Unit = Literal["day", "week", "month", "quarter", "year"]
DAYS: dict[Unit, int] = {"day": 1, "week": 7, "month": 28, "quarter": 90, "year": 365}  # at least
_MONTHS: dict[Unit, int] = {"month": 1, "quarter": 3, "year": 12}
_FIRST, _LAST = 1822, 2128  # years: every event time (`batch.TIME_NS_MAX`), and windows of ten years beyond it
_SECOND_NS = 10**9


def known(tz: str) -> bool:
    """Whether there is such a time zone."""
    try:
        ZoneInfo(tz)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return False
    return True


@lru_cache(maxsize=64)
def edges(unit: Unit, tz: str, offset: int) -> tuple[int, Times]:
    """Number of the first unit, and where (ns, UTC) it and all that follow begin; 1 January 1970 lies in number 0.

    Each begins `offset` ns after its midnight by the clock on the wall. A time that the clock skips is taken as much later,
    one that it shows twice is the first; a day that a zone skipped altogether has no length.
    """
    first, midnights = _midnights(unit)
    zone, shift = ZoneInfo(tz), timedelta(seconds=offset // _SECOND_NS)
    local = [t.replace(tzinfo=zone) + shift for t in midnights.tolist()]
    seconds = np.array([round(t.timestamp()) for t in local])
    ns = np.maximum.accumulate(seconds) * _SECOND_NS + offset % _SECOND_NS
    ns.flags.writeable = False
    return first, ns


def _midnights(unit: Unit) -> tuple[int, npt.NDArray[np.datetime64]]:
    """Number of the first unit, and the date at which each begins, as local time."""
    if unit in _MONTHS:
        step, zero, one = _MONTHS[unit], 0, "M"
    else:
        step, zero, one = DAYS[unit], -3 if unit == "week" else 0, "D"  # 29 December 1969 was a Monday
    low, high = (int(np.array(f"{year}-01", f"datetime64[{one}]").astype(np.int64)) // step for year in (_FIRST, _LAST))
    return low, (np.arange(low, high) * step + zero).astype(f"datetime64[{one}]").astype("datetime64[s]")
