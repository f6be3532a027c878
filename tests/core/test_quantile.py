"""The sketch keeps its promise: within 1 % of the value at the rank."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.aggregates.quantile import ALPHA, Sketches, bins, values

sizes = st.floats(1e-30, 1e30)
numbers = st.one_of(sizes, sizes.map(lambda x: -x), st.just(0.0))


@given(st.lists(numbers, min_size=1, max_size=200), st.floats(0, 1))
@settings(max_examples=200, deadline=None)
def test_a_quantile_is_within_alpha_of_the_value_at_its_rank(xs: list[float], q: float) -> None:
    sketch = Sketches()
    column = np.array(xs)
    half = len(xs) // 2
    sketch.add(np.full(half, 1), np.zeros(half, np.int32), column[:half])
    sketch.add(np.full(len(xs) - half, 2), np.zeros(len(xs) - half, np.int32), column[half:])
    truth = np.sort(column)[int(np.floor(q * (len(xs) - 1)))]
    assert sketch.quantiles([1, 2], [q], 1)[0, 0] == pytest.approx(truth, rel=ALPHA * 1.0001)


def test_bins_ascend_with_their_values() -> None:
    x = np.concatenate([-np.logspace(35, -35, 999), [0.0], np.logspace(-35, 35, 999)])
    assert (np.diff(bins(x)) >= 0).all()
    np.testing.assert_allclose(values(bins(x[1:-1])), x[1:-1], rtol=ALPHA * 1.0001)


def test_what_is_out_of_range_counts_as_the_nearest_bin() -> None:
    assert values(bins(np.array([1e-40])))[0] == 0
    assert values(bins(np.array([1e300])))[0] > 1e35
    assert values(bins(np.array([-np.inf])))[0] < -1e35


def test_memory_is_bounded_however_many_rows_come() -> None:
    sketch, rng = Sketches(), np.random.default_rng(1)
    for _ in range(50):
        sketch.add(np.zeros(20_000, np.int64), np.zeros(20_000, np.int32), rng.lognormal(0, 1, 20_000))
    assert sketch.nbytes < 2 * 2**20


def test_keys_without_values_have_no_quantile() -> None:
    sketch = Sketches()
    sketch.add(np.zeros(1, np.int64), np.array([1], np.int32), np.array([3.0]))
    assert np.isnan(sketch.quantiles([0], [0.5], 2)[0, 0])


def test_released_rows_are_forgotten_and_others_kept() -> None:
    sketch = Sketches()
    sketch.add(np.array([1, 2]), np.zeros(2, np.int32), np.array([1.0, 100.0]))
    sketch.release([1])
    assert np.isnan(sketch.quantiles([1], [0.5], 1)[0, 0])
    assert sketch.quantiles([2], [0.5], 1)[0, 0] == pytest.approx(100, rel=ALPHA)


def test_a_saved_sketch_goes_on_in_other_rows() -> None:
    sketch, again = Sketches(), Sketches()
    sketch.add(np.array([5, 9]), np.array([0, 3], np.int32), np.array([1.0, 100.0]))
    again.load([2, 7], sketch.save([9, 5]))
    assert again.quantiles([2], [0.5], 4)[0, 3] == pytest.approx(100, rel=ALPHA)
    assert again.quantiles([7], [0.5], 4)[0, 0] == pytest.approx(1, rel=ALPHA)
