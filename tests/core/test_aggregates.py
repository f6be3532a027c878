"""Every aggregate against a slow and obvious one: any order, any batches, slices merged or absorbed, state restored."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines import Col, Key, Schema, agg
from pipelines.aggregates import Fold
from pipelines.expr import Array, Expr
from pipelines.schema import Agg
from pipelines.state import pack, unpack

SECOND = 10**9
SLICES = 3  # of 10 s


class R(Schema):
    device = Key[str]()
    x = Col[float]("kW")
    y = Col[float]("V")
    k = Col[int]("")
    on = Col[bool]()


@dataclass(frozen=True)
class Row:
    key: int
    time: int  # ns
    x: float
    y: float
    k: int
    on: bool


@dataclass(frozen=True)
class LargestTwo:
    """An aggregate of a user: the sum of the two largest values."""

    dtype: str = "float64"

    @property
    def fields(self) -> dict[str, tuple[str, float]]:
        return {"first": ("float64", -math.inf), "second": ("float64", -math.inf)}

    def update(self, state: Any, rows: Any) -> None:
        for cell, value in zip(rows.at, rows.values[0], strict=True):
            high, low = state["first"][cell], state["second"][cell]
            state["first"][cell], state["second"][cell] = max(high, value), max(low, min(high, value))

    def merge(self, state: Any) -> Any:
        both = np.sort(np.concatenate([state["first"], state["second"]], axis=1), axis=1)
        return {"first": both[:, -1], "second": both[:, -2]}

    def result(self, state: Any) -> Any:
        return state["first"] + np.maximum(state["second"], 0)


AGGS: dict[str, Agg[Any]] = {
    "n": agg.count(),
    "sum": agg.sum(R.x),
    "whole": agg.sum(R.k),
    "trues": agg.sum(R.on),
    "mean": agg.mean(R.x),
    "mean_y": agg.mean(R.y),
    "mean_k": agg.mean(R.k),
    "share": agg.mean(R.on),
    "min": agg.min(R.x),
    "max": agg.max(R.x),
    "all": agg.all(R.on),
    "any": agg.any(R.on),
    "range": agg.range(R.x),
    "std": agg.std(R.x),
    "var": agg.var(R.x),
    "skew": agg.skew(R.x),
    "kurtosis": agg.kurtosis(R.x),
    "first": agg.first(R.x),
    "last": agg.last(R.k),
    "delta": agg.delta(R.x),
    "argmin": agg.argmin(R.k, R.x),
    "argmax": agg.argmax(R.k, R.x),
    "distinct": agg.distinct(R.k),
    "mode": agg.mode(R.k),
    "second": agg.mode(R.k, k=1),
    "bin": agg.histogram(R.x, [-10, 0, 10], bin=2),
    "correlation": agg.correlation(R.x, R.y),
    "covariance": agg.covariance(R.x, R.y),
    "slope": agg.slope(R.x, per="1m"),
    "r2": agg.r2(R.x),
    "increase": agg.increase(R.k),
    "rate": agg.rate(R.k, gap="3s"),
    "energy": agg.integral(R.x, per="1h"),
    "steps": agg.integral(R.x, linear=False, gap="5s"),
    "time_mean": agg.time_mean(R.x),
    "duration": agg.duration(R.on),
    "ewma": agg.ewma(R.x, "4s"),
    "custom": agg.custom(LargestTwo(), R.x),
}
EXACT = (
    "n",
    "whole",
    "trues",
    "min",
    "max",
    "all",
    "any",
    "first",
    "last",
    "argmin",
    "argmax",
    "mode",
    "second",
    "bin",
)


def fold(carry: bool = True) -> Fold:
    class Results(Schema):
        pass

    for name, a in AGGS.items():
        a.__set_name__(Results, name)
    dtypes = {repr(R.x): "float64", repr(R.y): "float64", repr(R.k): "int64", repr(R.on): "bool"}
    made = Fold(AGGS, dtypes, 2**30, carry=carry)
    made.cells.reserve(3)
    return made


def add(to: Fold, state_rows: Sequence[int], rows: Sequence[Row]) -> None:
    values = {
        repr(R.x): np.array([r.x for r in rows], float),
        repr(R.y): np.array([r.y for r in rows], float),
        repr(R.k): np.array([r.k for r in rows], np.int64),
        repr(R.on): np.array([r.on for r in rows], bool),
    }
    at = np.array([state_rows[r.time // (10 * SECOND)] for r in rows], np.int64)
    to.update(at, np.array([r.key for r in rows], np.int32), values, np.array([r.time for r in rows], np.int64))


def segments(
    rows: Sequence[Row], of: Callable[[Row], float], gap: float = math.inf
) -> list[tuple[float, float, float]]:
    """(value before, value, seconds) between neighbours in (time, arrival)."""
    ordered = sorted((r for r in rows if not math.isnan(of(r))), key=lambda r: r.time)
    pairs = [(of(a), of(b), (b.time - a.time) / 1e9) for a, b in pairwise(ordered)]
    return [s for s in pairs if s[2] <= gap]


def moments(xs: Sequence[float]) -> list[float]:
    mean = statistics.fmean(xs)
    return [math.fsum((x - mean) ** p for x in xs) / len(xs) for p in range(5)]


def line(ts: Sequence[float], xs: Sequence[float]) -> tuple[float, float]:
    """Slope and r²."""
    mt, mx = statistics.fmean(ts), statistics.fmean(xs)
    tt = math.fsum((t - mt) ** 2 for t in ts)
    xx = math.fsum((x - mx) ** 2 for x in xs)
    tx = math.fsum((t - mt) * (x - mx) for t, x in zip(ts, xs, strict=True))
    return (tx / tt if tt else math.nan), (tx * tx / tt / xx if tt and xx else math.nan)


def expected(rows: Sequence[Row]) -> dict[str, float]:
    """All of `AGGS` over the rows of one key and window, in order of arrival."""
    nan = math.nan
    usable = [r for r in rows if not math.isnan(r.x)]
    xs, ks = [r.x for r in usable], [r.k for r in rows]
    both = [(r.x, r.y) for r in usable if not math.isnan(r.y)]
    ys = [r.y for r in rows if not math.isnan(r.y)]
    m = moments(xs) if xs else [nan] * 5
    slope, r2 = line([r.time / 1e9 for r in usable], xs) if xs else (nan, nan)
    counted = sorted(Counter(ks).items(), key=lambda p: (-p[1], p[0]))
    by_k, close = segments(rows, lambda r: r.k), segments(rows, lambda r: r.k, 3)
    grown = [b - a if b >= a else b for a, b, _ in by_k]
    lines, stairs = segments(rows, lambda r: r.x), segments(rows, lambda r: r.x, 5)
    area, covered = math.fsum((a + b) / 2 * s for a, b, s in lines), math.fsum(s for *_, s in lines)
    newest = max((r.time for r in usable), default=0)
    weights = [2 ** ((r.time - newest) / 4e9) for r in usable]
    cov = nan
    if both:
        mx, my = (statistics.fmean(c) for c in zip(*both, strict=True))
        cov = math.fsum((x - mx) * (y - my) for x, y in both) / len(both)
    two = sorted(xs)[-2:]
    newest_x = max(enumerate(usable), key=lambda p: (p[1].time, p[0]))[1].x if xs else nan
    oldest_x = min(usable, key=lambda r: r.time).x if xs else nan
    return {
        "n": len(rows), "sum": math.fsum(xs), "whole": sum(ks), "trues": sum(r.on for r in rows),
        "mean": statistics.fmean(xs) if xs else nan, "mean_y": statistics.fmean(ys) if ys else nan,
        "mean_k": statistics.fmean(ks), "share": statistics.fmean([r.on for r in rows]),
        "min": min(xs, default=nan), "max": max(xs, default=nan), "all": all(r.on for r in rows),
        "any": any(r.on for r in rows), "range": max(xs) - min(xs) if xs else nan, "std": math.sqrt(m[2]), "var": m[2],
        "skew": m[3] / m[2] ** 1.5 if m[2] > 0 else nan, "kurtosis": m[4] / m[2] ** 2 if m[2] > 0 else nan,
        "first": oldest_x,
        "last": max(enumerate(rows), key=lambda p: (p[1].time, p[0]))[1].k,
        "delta": newest_x - oldest_x,
        "argmin": min(usable, key=lambda r: (r.x, r.time)).k if xs else 0,
        "argmax": max(usable, key=lambda r: (r.x, -r.time)).k if xs else 0,
        "distinct": len(set(ks)), "mode": counted[0][0], "second": counted[1][0] if len(counted) > 1 else 0,
        "bin": sum(0 <= x < 10 for x in xs), "correlation": nan, "covariance": cov, "slope": slope * 60, "r2": r2,
        "increase": math.fsum(grown),
        "rate": math.fsum(b - a if b >= a else b for a, b, _ in close) / covered_by(close) if covered_by(close) else nan,
        "energy": area / 3600, "steps": math.fsum(a * s for a, _, s in stairs),
        "time_mean": area / covered if covered else statistics.fmean(xs) if xs else nan,
        "duration": math.fsum(s for a, _, s in segments(rows, lambda r: r.on) if a),
        "ewma": math.fsum(w * x for w, x in zip(weights, xs, strict=True)) / math.fsum(weights) if xs else nan,
        "custom": two[-1] + max(two[0] if len(two) > 1 else 0, 0) if xs else nan,
    }  # fmt: skip


def covered_by(found: Sequence[tuple[float, float, float]]) -> float:
    return math.fsum(s for *_, s in found)


numbers = st.one_of(st.integers(-400, 400).map(lambda i: i / 8), st.just(math.nan))
rows_of = st.lists(
    st.builds(
        Row,
        st.integers(0, 2),
        st.integers(0, 10 * SLICES * 4 - 1).map(lambda q: q * SECOND // 4),
        numbers, numbers, st.integers(-5, 5), st.booleans(),
    ),
    min_size=1, max_size=30,
)  # fmt: skip


def split(rows: Sequence[Row], cuts: Sequence[int]) -> list[Sequence[Row]]:
    edges = sorted({0, len(rows), *(c % (len(rows) + 1) for c in cuts)})
    return [rows[a:b] for a, b in pairwise(edges)]


def filled(rows: Sequence[Row], cuts: Sequence[int], *, restart: bool = False) -> tuple[Fold, list[int]]:
    """A fold with the rows, added in batches; with `restart` each finds a fold that was saved and loaded."""
    to = fold()
    state_rows = to.cells.take_rows(SLICES)
    for part in split(rows, cuts):
        add(to, state_rows, part)
        if restart:
            saved, to = unpack(pack(to.save(state_rows, 3))), fold()
            state_rows = to.cells.take_rows(SLICES)
            to.load(state_rows, saved)
    return to, state_rows


def bits(results: dict[str, Array]) -> dict[str, bytes]:
    return {name: np.ascontiguousarray(a).tobytes() for name, a in results.items()}


@given(rows=rows_of, cuts=st.lists(st.integers(0, 30), max_size=4))
@settings(max_examples=60, deadline=None)
def test_aggregates_are_those_of_the_reference(rows: list[Row], cuts: list[int]) -> None:
    to, state_rows = filled(rows, cuts)
    counts, results = to.results(np.array([state_rows]), slice(0, 3))
    for key in {r.key for r in rows}:
        mine = [r for r in rows if r.key == key]
        assert counts[0, key] == len(mine)
        for name, value in expected(mine).items():
            if name == "correlation":
                continue
            if name in ("skew", "kurtosis", "r2") and expected(mine)["var"] < 1e-9:
                continue  # of equal values: undefined
            got = results[name][0, key]
            if name in EXACT:
                assert got == value or (math.isnan(value) and math.isnan(got)), name
            else:
                assert got == pytest.approx(value, rel=1e-9, abs=1e-9, nan_ok=True), (name, mine)


@given(rows=rows_of, cuts=st.lists(st.integers(0, 30), max_size=4))
@settings(max_examples=30, deadline=None)
def test_batches_and_restarts_change_no_bit(rows: list[Row], cuts: list[int]) -> None:
    whole, at = filled(rows, [])
    want = bits(whole.results(np.array([at]), slice(0, 3))[1])
    for restart in (False, True):
        to, state_rows = filled(rows, cuts, restart=restart)
        assert bits(to.results(np.array([state_rows]), slice(0, 3))[1]) == want
        assert bits(to.results(np.array([state_rows]), slice(1, 3))[1]) == {
            n: np.ascontiguousarray(whole.results(np.array([at]), slice(0, 3))[1][n][:, 1:]).tobytes() for n in want
        }


@given(rows=rows_of)
@settings(max_examples=30, deadline=None)
def test_absorbing_slices_gives_the_window(rows: list[Row]) -> None:
    to, (a, b, c) = filled(rows, [])
    whole, at = filled(rows, [])
    want = whole.results(np.array([at]), slice(0, 3))[1]
    to.absorb(a, b, np.array([0, 2]))
    to.absorb(a, c, np.array([0, 2]))
    counts, got = to.results(np.array([[a]]), slice(0, 3))
    for key in (0, 2):
        assert counts[0, key] == sum(r.key == key for r in rows)
        if counts[0, key]:
            for name in AGGS:
                np.testing.assert_allclose(
                    got[name][0, key].astype(float),
                    want[name][0, key].astype(float),
                    rtol=1e-7,
                    atol=1e-7,
                    err_msg=name,
                )
    to.clear(a, np.array([0]))
    assert to.results(np.array([[a]]), slice(0, 1))[0].tolist() == [[0]]
    assert to.results(np.array([[b, c]]), slice(0, 3))[0][0].tolist() == [
        0,
        sum(r.key == 1 and r.time >= 10 * SECOND for r in rows),
        0,
    ]


@given(rows=rows_of)
@settings(max_examples=30, deadline=None)
def test_windows_side_by_side_add_up_to_the_whole(rows: list[Row]) -> None:
    to, state_rows = filled(rows, [])
    sums = {"energy": np.zeros(3), "duration": np.zeros(3), "increase": np.zeros(3)}
    for row in state_rows:
        _, got = to.results(np.array([[row]]), slice(0, 3))
        for name in sums:
            sums[name] += got[name][0]
        to.release([row])
    for key in range(3):
        mine = [r for r in rows if r.key == key]
        want = expected(mine) if mine else dict.fromkeys(sums, 0.0)
        for name, total in sums.items():
            assert total[key] == pytest.approx(want[name], abs=1e-9), name


def alone(a: Agg[Any], values: Any, dtype: str, times: Any = None) -> Any:
    """An aggregate of one column over the values of one key."""
    a.__set_name__(type("Alone", (Schema,), {}), "a")
    column: Expr[Any] = a.columns[0]
    to = Fold({"a": a}, {repr(column): dtype}, 2**30)
    row, n = to.cells.take_row(), len(values)
    when = np.arange(n) * SECOND if times is None else np.asarray(times)
    to.update(np.full(n, row), np.zeros(n, np.int32), {repr(column): np.array(values, dtype)}, when)
    return to.results(np.array([[row]]), slice(0, 1))[1]["a"][0, 0]


def test_sums_of_integers_do_not_turn_over() -> None:
    assert alone(agg.sum(R.k), [2**62, 2**62 - 1, 5, -5], "int64") == 2**63 - 1
    assert alone(agg.sum(R.k), [2**62] * 4, "int64") == 2**63 - 1
    assert alone(agg.sum(R.k), [-(2**62)] * 4, "int64") == -(2**63)
    assert alone(agg.sum(R.k), [2**62, 2**62, 2**62, -(2**62), -(2**62), 7], "int64") == 2**62 + 7
    assert alone(agg.mean(R.k), [2**62] * 4, "int64") == 2.0**62


@pytest.mark.parametrize("offset", [10**9, 2**60, -(2**61)])
def test_spread_of_large_integers(offset: int) -> None:
    values = [offset + i for i in (1, 5, 2, 9)]
    assert alone(agg.std(R.k), values, "int64") == pytest.approx(statistics.pstdev([1, 5, 2, 9]))
    assert alone(agg.skew(R.k), values, "int64") == pytest.approx(alone(agg.skew(R.k), [1, 5, 2, 9], "int64"))


def test_spread_far_from_zero() -> None:
    x = np.random.default_rng(0).normal(0, 1, 1000)
    assert alone(agg.std(R.x), x + 1e9, "float64") == pytest.approx(x.std(), rel=1e-6)
    assert alone(agg.kurtosis(R.x), x + 1e9, "float64") == pytest.approx(
        alone(agg.kurtosis(R.x), x, "float64"), rel=1e-5
    )
    assert alone(agg.slope(R.x), 3 * np.arange(1000) + 1e9, "float64") == pytest.approx(3)


@pytest.mark.parametrize("n", [0, 1, 100, 3_000, 50_000])
def test_distinct_is_within_its_error(n: int) -> None:
    for values, dtype in ((np.arange(n), "int64"), (np.arange(n) / 7, "float64")):
        if n:
            got = alone(agg.distinct(R.x), np.tile(values, 2), dtype)
            assert got == pytest.approx(n, rel=4 * 0.023 if n > 5_000 else 0.05), dtype


def test_text_can_be_counted_and_compared() -> None:
    words = ["run", "idle", "run", "fault"]
    assert alone(agg.distinct(R.x), words, "T") == 3
    assert alone(agg.mode(R.x), words, "T") == "run"
    assert alone(agg.first(R.x), words, "T") == "run"
    assert alone(agg.last(R.x), words, "T") == "fault"
    assert alone(agg.mode(R.x, k=3), words, "T") == ""


def test_vibration() -> None:
    hz, n = 100, 400
    t = np.arange(n) / hz
    x = 5 + 2 * np.sin(2 * np.pi * 12.5 * t) + 0.5 * np.sin(2 * np.pi * 30 * t)
    times = (t * 1e9).astype(np.int64)
    assert alone(agg.frequency(R.x), x, "float64", times) == pytest.approx(12.5)
    assert alone(agg.band_power(R.x, 10, 20), x, "float64", times) == pytest.approx(2.0)
    assert alone(agg.band_power(R.x, 0, 51), x, "float64", times) == pytest.approx(x.var())
    assert math.isnan(alone(agg.frequency(R.x), x[:3], "float64", times[:3]))


def test_quantiles_of_infinite_values() -> None:
    assert alone(agg.quantile(R.x, 1.0), [1.0, math.inf], "float64") == math.inf
    assert alone(agg.quantile(R.x, 0.0), [1.0, -math.inf], "float64") == -math.inf


def test_correlation() -> None:
    rng = np.random.default_rng(3)
    x = rng.normal(size=500) + 1e6
    y = 0.5 * x + rng.normal(size=500)
    a = agg.correlation(R.x, R.y)
    a.__set_name__(type("Alone", (Schema,), {}), "a")
    to = Fold({"a": a}, {repr(R.x): "float64", repr(R.y): "float64"}, 2**30)
    rows = to.cells.take_rows(2)
    at = np.array(rows)[(np.arange(500) >= 200).astype(int)]
    to.update(at, np.zeros(500, np.int32), {repr(R.x): x, repr(R.y): y}, np.arange(500))
    got = to.results(np.array([rows]), slice(0, 1))[1]["a"]
    assert got[0, 0] == pytest.approx(np.corrcoef(x, y)[0, 1], rel=1e-9)
