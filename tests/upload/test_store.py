"""Both stores give the same answers: an object is put once, and never overwritten."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest

from connectors.upload.options import limits_of, tables_of
from connectors.upload.store import Folder, Store, open_store, put_once
from pipelines import Pipeline
from pipelines.errors import ConfigError, StateError, Unavailable
from pipelines.settings import Settings
from tests.bed import free_port
from tests.bed.s3 import S3

SETTINGS = Settings(site="hall", brokers="kafka:9092", pipeline="p.py")


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path, unique: str) -> Store:
    if request.param == "folder":
        return open_store(msgspec.structs.replace(SETTINGS, store=f"file://{tmp_path}/store"))
    s3: S3 = request.getfixturevalue("s3")
    return bucket(s3, tmp_path, f"s3://{s3.bucket}/{unique}", s3.endpoint)


def bucket(s3: S3, folder: Path, url: str, endpoint: str) -> Store:
    (folder / "s3_access_key").write_text(s3.access_key)
    (folder / "s3_secret_key").write_text(s3.secret_key)
    return open_store(
        msgspec.structs.replace(SETTINGS, store=url, secrets_dir=str(folder), options={"s3_endpoint": endpoint})
    )


async def test_an_object_is_put_once(store: Store) -> None:
    path = "a/date=2024-01-01/x.parquet"
    assert await store.get(path) is None
    assert await put_once(store, path, b"one")
    assert not await put_once(store, path, b"one")
    with pytest.raises(
        StateError, match=rf"{path} is in the store with other content \(sha256 .*\) and is not overwritten"
    ):
        await put_once(store, path, b"two")
    assert await store.get(path) == b"one"


async def test_of_many_at_once_one_wins(store: Store) -> None:
    won = await asyncio.gather(*(store.create("a/x", bytes([i]) * 100_000) for i in range(8)))
    assert sum(won) == 1
    assert await store.get("a/x") == bytes([won.index(True)]) * 100_000


async def test_a_folder_shows_nothing_but_whole_files(tmp_path: Path) -> None:
    store = Folder(tmp_path)
    await store.create("t/x", b"one")
    await store.create("t/x", b"two")
    assert [p.name for p in (tmp_path / "t").iterdir()] == ["x"]


async def test_a_store_that_is_not_there_is_unavailable(s3: S3, tmp_path: Path) -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(Unavailable, match="store s3://b/p does not take or give x: Generic S3 error"):
        await bucket(s3, tmp_path, "s3://b/p", nobody).create("x", b"1")
    with pytest.raises(Unavailable, match="store s3://no-such-bucket does not take or give x"):
        await bucket(s3, tmp_path, "s3://no-such-bucket", s3.endpoint).create("x", b"1")
    (tmp_path / "file").write_text("")
    with pytest.raises(Unavailable, match=r"store folder .*/file does not take or give x"):
        await Folder(tmp_path / "file").create("x", b"1")


@pytest.mark.parametrize("url", ["", "/data", "file://data", "s3://", "s3://[", "gs://bucket"])
def test_a_wrong_store_is_refused(url: str) -> None:
    with pytest.raises(
        ConfigError, match=r"cannot be used: write file:///folder or s3://bucket/prefix in the site file"
    ):
        open_store(msgspec.structs.replace(SETTINGS, store=url))


def test_a_bucket_without_keys_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="secret 's3_access_key' is missing: put it into the file"):
        open_store(msgspec.structs.replace(SETTINGS, store="s3://b", secrets_dir=str(tmp_path)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"spool_bytes_max": "much"}, "option spool_bytes_max: 'much' is not a size"),
        (
            {"spool_bytes_max": "1MiB"},
            "option spool_bytes_max = 1048576 bytes is less than memory_bytes_max = 268435456 bytes",
        ),
    ],
)
def test_wrong_options_are_refused(options: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        limits_of(options)


def test_a_pipeline_must_have_one_table_for_a_step() -> None:
    from connectors import parquet, simulator
    from tests.upload.world import Reading

    press = Pipeline("press")
    stream = press.read(simulator.source(Reading, stream="readings"))
    with pytest.raises(ConfigError, match="pipeline press: nothing to upload: no step has a"):
        tables_of(press.plan(), "hall")
    stream.to(parquet.dataset("a"))
    stream.to(parquet.dataset("b"))
    with pytest.raises(ConfigError, match="step readings has two Parquet sinks, 'a' and 'b': leave one of them"):
        tables_of(press.plan(), "hall")
