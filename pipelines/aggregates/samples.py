"""Samples: the readings of open windows themselves, for aggregates that depend on their order or on all of them.

They are put into the order of (event time, arrival) when a window is computed. What lies between two samples of a key
that follow each other, a *segment*, belongs to the window of the later one; the newest sample of a key before the
window is remembered for that. So the integrals of windows side by side add up to the whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from pipelines.expr import Array
from pipelines.state import State

Ints = npt.NDArray[np.int64]
_CARRY = -1  # state row of samples whose slices are gone: the newest of each slot


@dataclass(frozen=True, slots=True)
class Ordered:
    """The samples of windows, sorted by (group, event time, arrival); a group is a window and a slot.

    `before` holds for each sample the value before it and `dt` the seconds since; NaN where there is none.
    """

    groups: int
    group: Ints
    time: Ints
    value: Array
    before: Array
    dt: npt.NDArray[np.float64]

    def sums(self, of: Array) -> npt.NDArray[np.float64]:
        """Sum over each group, in order; NaN counts nothing. Shape `(groups,)`."""
        ok = ~np.isnan(of)
        return np.bincount(self.group[ok], of[ok], self.groups).astype(np.float64, copy=False)

    def counts(self, where: Array) -> Ints:
        """How many samples of each group fulfil a condition."""
        return np.bincount(self.group[where], minlength=self.groups)

    @property
    def edges(self) -> Ints:
        """Where the groups that have samples begin, and the end."""
        return (
            np.flatnonzero(np.r_[True, self.group[1:] != self.group[:-1], True])
            if len(self.group)
            else np.zeros(1, int)
        )


@dataclass
class Samples:
    """Samples of one column."""

    dtype: str
    carry: bool  # whether what comes before a window counts
    _parts: list[tuple[Ints, Ints, Ints, Array]] = field(default_factory=list)  # state row, slot, time, value

    def add(self, rows: Ints, slots: Array, times: Ints, values: Array) -> None:
        """Keep readings, in the order of arrival."""
        self._parts.append((rows, slots.astype(np.int64), times, values))

    def _all(self) -> tuple[Ints, Ints, Ints, Array]:
        if len(self._parts) != 1:
            none = (np.empty(0, np.int64),) * 3
            joined = [np.concatenate(c) for c in zip((*none, np.empty(0, self.dtype)), *self._parts, strict=True)]
            self._parts = [(joined[0], joined[1], joined[2], joined[3])]
        return self._parts[0]

    def _keep(self, rows: Array) -> None:
        self._parts = [tuple(a[rows] for a in self._all())]  # type: ignore[list-item]  # four in, four out

    def ordered(self, windows: Ints, slots: slice) -> Ordered:
        """The samples of windows, given as state rows of shape (windows, slices), and a range of slots."""
        row, slot, time, value = self._all()
        inside = np.flatnonzero((slot >= slots.start) & (slot < slots.stop))
        inside = inside[np.lexsort((time[inside], slot[inside]))]  # stable: of equal times in the order of arrival
        row, slot, time, value = row[inside], slot[inside], time[inside], value[inside]
        window, at = _members(row, windows)
        width = slots.stop - slots.start
        group = window * width + (slot[at] - slots.start)
        previous = at - 1
        if self.carry:
            has = (at > 0) & (slot[previous] == slot[at])
        else:
            has = np.r_[False, group[1:] == group[:-1]][: len(group)]
            previous = np.r_[0, at[:-1]][: len(at)]
        dt = np.where(has, (time[at] - time[previous]) / 1e9, np.nan)
        before = value[previous] if len(at) else value[:0]
        if before.dtype.kind == "f":
            before = np.where(has, before, np.nan)
        return Ordered(len(windows) * width, group, time[at], value[at], before, dt)

    def absorb(self, target: int, source: int, slots: Ints) -> None:
        """Move samples to another state row."""
        row, slot, time, value = self._all()
        self._parts = [(np.where((row == source) & np.isin(slot, slots), target, row), slot, time, value)]

    def clear(self, row: int, slots: Ints) -> None:
        """Forget the samples of some slots of a row, but for the newest of each."""
        rows, slot, *_ = self._all()
        self._forget((rows == row) & np.isin(slot, slots))

    def release(self, rows: list[int]) -> None:
        """Forget the samples of rows, but for the newest of each slot."""
        self._forget(np.isin(self._all()[0], rows))

    def _forget(self, gone: Array) -> None:
        row, slot, time, value = self._all()
        if not self.carry:
            return self._keep(~gone)
        candidates = np.flatnonzero(gone | (row == _CARRY))
        order = candidates[np.lexsort((time[candidates], slot[candidates]))]
        newest = order[np.r_[slot[order][1:] != slot[order][:-1], True][: len(order)]]
        kept = ~gone & (row != _CARRY)
        kept[newest] = True
        row = row.copy()
        row[newest] = _CARRY
        self._parts = [(row, slot, time, value)]
        return self._keep(kept)

    @property
    def nbytes(self) -> int:
        """Memory."""
        return sum(a.nbytes for part in self._parts for a in part)

    def save(self, rows: list[int]) -> State:
        """Plain values; `rows` are renumbered 0, 1, … in the given order."""
        row, slot, time, value = self._all()
        number = np.full(max([*rows, _CARRY]) + 2, _CARRY, np.int64)
        number[rows] = np.arange(len(rows))
        return {"row": number[row], "slot": slot, "time": time, "value": value}

    def load(self, rows: list[int], state: State) -> None:
        """Inverse of `save`."""
        number = np.array([*rows, _CARRY], np.int64)
        self._parts = [(number[state["row"]], state["slot"], state["time"], state["value"])]


def _members(row: Ints, windows: Ints) -> tuple[Ints, Ints]:
    """(window, sample) for each sample of each window, by window and then as the samples stand."""
    number = np.full(max(int(row.max(initial=0)), int(windows.max(initial=0))) + 2, -1, np.int64)
    found = []
    for column in windows.T:
        number[:] = -1
        number[column] = np.arange(len(column))
        number[0] = number[_CARRY] = -1  # row 0 means nothing
        window = number[row]
        at = np.flatnonzero(window >= 0)
        found.append((window[at], at))
    window, at = (np.concatenate(c) for c in zip(*found, strict=True))
    order = np.lexsort((at, window))
    return window[order], at[order]


Compute = Callable[[Ordered, tuple[float, ...]], Array]


def increase(s: Ordered, params: tuple[float, ...]) -> Array:
    """How much a counter grew; where it fell it began again at 0."""
    grown = np.where(s.value >= s.before, s.value - s.before, s.value.astype("float64"))
    return s.sums(np.where(_counts(s, params), grown, np.nan))


def rate(s: Ordered, params: tuple[float, ...]) -> Array:
    """Growth of a counter a second, over the time that its samples cover."""
    covered = s.sums(np.where(_counts(s, params), s.dt, np.nan))
    return np.where(covered > 0, increase(s, params) / covered, np.nan)


def _counts(s: Ordered, params: tuple[float, ...]) -> Array:
    """Segments that exist and are not longer than the gap (seconds; the last parameter, 0 for none)."""
    exists = ~np.isnan(s.dt)
    return exists & (s.dt <= params[-1]) if params[-1] else exists


def _area(s: Ordered, params: tuple[float, ...]) -> Array:
    linear = params[0]
    height = (s.before + s.value) / 2 if linear else s.before
    return s.sums(np.where(_counts(s, params), height * s.dt, np.nan))


def integral(s: Ordered, params: tuple[float, ...]) -> Array:
    """Area under the samples: (linear, seconds of the unit, gap)."""
    return _area(s, params) / params[1]


def time_mean(s: Ordered, params: tuple[float, ...]) -> Array:
    """Area divided by the time it covers; where that is nothing, the mean of the samples."""
    covered = s.sums(np.where(_counts(s, params), s.dt, np.nan))
    plain = s.sums(s.value.astype("float64")) / s.counts(np.ones(len(s.group), bool))
    return np.where(covered > 0, _area(s, params) / covered, plain)


def duration(s: Ordered, params: tuple[float, ...]) -> Array:
    """Seconds for which a condition held: from each sample to the next one."""
    return s.sums(np.where(_counts(s, params) & (s.before > 0), s.dt, np.nan))


def ewma(s: Ordered, params: tuple[float, ...]) -> Array:
    """Mean with weights 2^(−age / half-life), age counted from the newest sample of the window."""
    edges = s.edges
    newest = np.repeat(s.time[edges[1:] - 1], np.diff(edges))
    weight = np.exp2((s.time - newest) / 1e9 / params[0])
    return s.sums(weight * s.value) / s.sums(weight)


def mode(s: Ordered, params: tuple[float, ...]) -> Array:
    """The k-th most frequent value (k from 0); of several as frequent the smallest."""
    values, code = np.unique(s.value, return_inverse=True)
    order = np.lexsort((code, s.group))
    group, code = s.group[order], code[order]
    first = np.flatnonzero(np.r_[True, (group[1:] != group[:-1]) | (code[1:] != code[:-1])][: len(group)])
    group, code, count = group[first], code[first], np.diff(np.r_[first, len(order)])
    rank = np.lexsort((code, -count, group))
    group, code = group[rank], code[rank]
    begins = np.flatnonzero(np.r_[True, group[1:] != group[:-1]][: len(group)])
    sizes = np.diff(np.r_[begins, len(group)])
    k = int(params[0])
    has = sizes > k
    kind = "T" if s.value.dtype.kind == "T" else "float64" if s.value.dtype.kind == "f" else s.value.dtype
    out = np.full(s.groups, "" if kind == "T" else np.nan if kind == "float64" else 0, kind)
    out[group[begins[has]]] = values[code[begins[has] + k]]
    return out


def _spectra(s: Ordered, of: Callable[[Array, Array], Array]) -> Array:
    """`of(power, frequencies)` of the groups, computed together where they have as many samples.

    The mean is taken off; power is the periodogram, in squared units, so that it sums up to the variance. The
    sampling rate is that of evenly spaced samples between the first and the last.
    """
    out, edges = np.full(s.groups, np.nan), s.edges
    begins, sizes = edges[:-1], np.diff(edges)
    for n in np.unique(sizes[sizes >= 4]).tolist():
        at = begins[sizes == n]
        x = s.value[at[:, None] + np.arange(n)].astype("float64")
        seconds = (s.time[at + n - 1] - s.time[at]) / 1e9
        power = np.abs(np.fft.rfft(x - x.mean(axis=1, keepdims=True))) ** 2 / n**2
        power[:, 1 : (n + 1) // 2] *= 2  # both signs of a frequency, but for 0 and the highest of an even number
        with np.errstate(all="ignore"):
            hz = np.fft.rfftfreq(n) * ((n - 1) / seconds)[:, None]
        out[s.group[at]] = of(power, hz)
    return out


def frequency(s: Ordered, params: tuple[float, ...]) -> Array:
    """Frequency (Hz) of the highest power."""
    return _spectra(s, lambda power, hz: np.take_along_axis(hz, power[:, 1:].argmax(axis=1)[:, None] + 1, axis=1)[:, 0])


def band(s: Ordered, params: tuple[float, ...]) -> Array:
    """Power between two frequencies (Hz): (low, high)."""
    low, high = params
    return _spectra(s, lambda power, hz: np.where((hz >= low) & (hz < high), power, 0.0).sum(axis=1))


COMPUTE: Mapping[str, Compute] = {
    "increase": increase, "rate": rate, "integral": integral, "time_mean": time_mean, "duration": duration, "ewma": ewma,
    "mode": mode, "frequency": frequency, "band": band,
}  # fmt: skip
