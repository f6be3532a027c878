"""On a Dask cluster of two workers in processes of their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dask import distributed

from connectors.backfill.run import run
from pipelines.errors import Unavailable
from tests.backfill import kit
from tests.backfill.kit import ONE, Store


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    dask: Any = distributed
    with dask.LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as running:
        yield running


def test_a_cluster_gives_the_same_files(tmp_path: Path, cluster: Any) -> None:
    file = kit.program(tmp_path / "p", ONE)
    dataset = Store(file, tmp_path / "store").plain("readings", kit.readings(20_000, 12), by="key")
    told: list[int] = []
    alone = kit.backfill(file, {"readings": dataset}, tmp_path / "alone")
    job = kit.job(file, {"readings": dataset}, tmp_path / "out")
    assert run(job, jobs=1, cluster=cluster.scheduler_address, told=told.append) == alone
    for name in ("tens", "hop", "over"):
        assert kit.stored(tmp_path / "out", f"t/{name}") == kit.stored(tmp_path / "alone", f"t/{name}")
    assert sum(told) == 20_000


def test_a_scheduler_that_is_not_there(tmp_path: Path) -> None:
    file = kit.program(tmp_path / "p", ONE)
    dataset = Store(file, tmp_path / "store").plain("readings", kit.readings(100, 2), by="key")
    job = kit.job(file, {"readings": dataset}, tmp_path / "out")
    with pytest.raises(Unavailable, match=r"the Dask scheduler tcp://127.0.0.1:9 does not answer"):
        run(job, cluster="tcp://127.0.0.1:9")
