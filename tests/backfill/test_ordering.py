"""Readings become frames in the order of time, whichever way they are put together."""

from __future__ import annotations

import numpy as np
import pytest

from connectors.backfill import ordering
from pipelines.batch import Batch
from tests.backfill import kit


def by_key(batch: Batch) -> Batch:
    return batch.take(np.lexsort((batch.time, batch.codes)))


def segments(batch: Batch) -> Batch:
    """Two files that overlap in time, each by key."""
    odd = batch.time // 10**6 % 2 == 1
    parts = [by_key(batch.take(odd)), by_key(batch.take(~odd))]
    return Batch(
        batch.names,
        np.concatenate([p.codes for p in parts]),
        np.concatenate([p.time for p in parts]),
        {n: np.concatenate([p.columns[n] for p in parts]) for n in batch.columns},
    )


@pytest.mark.parametrize("arrange", [lambda b: b, by_key, segments], ids=["in time", "by key", "segments"])
@pytest.mark.parametrize(("rows", "keys"), [(1, 1), (3_000, 7), (3_000, 900), (20_000, 20)])
@pytest.mark.parametrize("streams", [1, 2])
def test_frames(monkeypatch: pytest.MonkeyPatch, arrange: object, rows: int, keys: int, streams: int) -> None:
    monkeypatch.setattr(ordering, "FRAME_ROWS", 250)
    assert callable(arrange)
    given = {f"s{i}": arrange(kit.readings(rows, keys, seed=i)) for i in range(streams)}
    calls = list(ordering.calls(given))
    for stream, batch in given.items():
        frames = [f for call in calls for f in call[stream]]
        before = -(2**63)
        for f in frames:
            assert not len(f.batch) or before <= f.batch.time.min() <= f.batch.time.max() <= f.info.watermark
            assert f.info.rows == len(f.batch) <= 2 * 250
            before = f.info.watermark
        got = [np.concatenate([getattr(f.batch, n) for f in frames]) for n in ("codes", "time")]
        x = np.concatenate([f.batch.columns["Reading.x"] for f in frames])
        here, want = np.lexsort((got[1], got[0])), np.lexsort((batch.time, batch.codes))
        assert (got[0][here] == batch.codes[want]).all()
        assert (got[1][here] == batch.time[want]).all()
        assert (x[here] == batch.columns["Reading.x"][want]).all()
        for key in range(keys):
            assert (np.diff(got[1][got[0] == key]) >= 0).all()


def test_readings_by_key_are_not_sorted(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        pytest.fail("sorted")

    batch = kit.readings(20_000, 20)
    monkeypatch.setattr(np, "argsort", refused)
    for arranged in (batch, by_key(batch)):
        assert sum(len(f.batch) for call in ordering.calls({"s": arranged}) for f in call["s"]) == len(batch)
