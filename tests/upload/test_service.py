"""The service in this process, with a real broker: when segments close, what is bad, what goes away and comes back."""

from __future__ import annotations

import asyncio
import logging
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import obstore
import pytest

from connectors.parquet import manifest
from connectors.parquet.segment import NO_DATE
from containers.embedded import EmbeddedKafka
from pipelines import Col, Key, Schema, topics
from pipelines.errors import ConfigError
from pipelines.wire import FrameInfo, encode
from tests.bed import until
from tests.bed.parts import http_get
from tests.bed.s3 import S3
from tests.bed.topics import consume_all
from tests.upload.plant import TABLE, Site, killed
from tests.upload.world import DAY, NOON, ROW, batch


@pytest.fixture
async def site(kafka: EmbeddedKafka, tmp_path: Path, unique: str) -> Site:
    return await Site(unique, kafka.bootstrap, tmp_path).create()


async def made(kafka: EmbeddedKafka, folder: Path, name: str, sink: str, **options: str) -> Site:
    return await Site(name, kafka.bootstrap, folder, sink, options=options).create()


async def test_the_timer_closes_without_new_records_and_gaps_between_records_are_covered(site: Site) -> None:
    async with site.running():
        await site.send([batch(range(10)), batch(range(0))])
        await site.send([batch(range(500, 600))], abort=True)
        await site.uploaded(10)
        await site.send([batch(range(10, 20))])
        assert await site.uploaded(20) == list(range(20))
        first, second = site.manifests()
        assert (first.start, second.start) == (0, first.end)
        await until(lambda: not list(site.spool.glob("*.sealed")), 5)
        assert site.metric("segments_sealed_total", table=TABLE, reason="timer") == 2
        assert site.metric("upload_rows_total", table=TABLE) == 20
        assert site.metric("spool_bytes") == site.metric("spool_oldest_unsent_timestamp_seconds") == 0
        assert site.metric("uplink_up") == 1
        assert site.metric("consumed_records_total", service="upload", kind="heartbeat") == 1
    assert await site.committed() == second.end
    assert manifest.verify(site.store, TABLE) == []


@pytest.mark.parametrize(
    ("sink", "reason"),
    [('every="1h", rows_max=100', "rows"), ('every="1h", roll="4kB"', "bytes"), ('every="1h"', "memory")],
)
async def test_segments_roll_by_size_and_the_rest_at_shutdown(
    kafka: EmbeddedKafka, tmp_path: Path, unique: str, sink: str, reason: str
) -> None:
    site = await made(kafka, tmp_path, unique, sink, **({"memory_bytes_max": "30kB"} if reason == "memory" else {}))
    async with site.running():
        await site.send([batch(range(n, n + 60)) for n in range(0, 1200, 60)])
        await until(lambda: site.metric("segments_sealed_total", table=TABLE, reason=reason) >= 1, 10)
        await site.send([batch(range(1200, 1210))])
        await until(lambda: site.metric("consumer_lag_records", topic=site.topic, partition="0") < 2, 10)
        await asyncio.sleep(0.3)
    assert site.numbers() == list(range(1210))
    assert site.metric("segments_sealed_total", table=TABLE, reason="shutdown") == 1
    assert manifest.verify(site.store, TABLE) == []


async def test_a_segment_over_midnight_has_a_file_for_each_date(site: Site) -> None:
    async with site.running():
        await site.send([batch(range(20), start=NOON, step=DAY // 10)])
        await site.uploaded(20)
    (found,) = site.manifests()
    assert [(f.date, f.rows) for f in found.files] == [("2024-10-04", 5), ("2024-10-05", 10), ("2024-10-06", 5)]
    assert found.files[0].path.startswith(f"{TABLE}/site={site.name}/date=2024-10-04/{site.topic}-0-")
    assert NO_DATE not in str(found.files)


async def test_bad_frames_become_dead_letters_and_the_stream_goes_on(site: Site) -> None:
    class Other(Schema):
        device = Key[str]()
        y = Col[float]()

    other, row = Other.batch(time=[NOON], device=["d"], y=[1.0]), Other.measured()
    async with site.running():
        await site.send([batch(range(5))])
        await site.raw(b"nonsense", FrameInfo("test", rows=1, schema=ROW.fingerprint).headers())
        await site.raw(b"no headers", [])
        await site.raw(encode(other, row), FrameInfo("test", rows=1, schema=row.fingerprint).headers())
        await site.send([batch(range(5, 10))])
        assert await site.uploaded(10) == list(range(10))
    assert len(await consume_all(site.brokers, topics.dead(site.name))) == 3
    reasons = {
        r: site.metric("dead_letter_records_total", service="upload", reason=r)
        for r in ("not_arrow", "headers", "schema")
    }
    assert reasons == {"not_arrow": 1, "headers": 1, "schema": 1}
    assert site.metric("consumed_records_total", service="upload", kind="data") == 5


async def test_frames_of_an_earlier_schema_keep_their_columns(site: Site) -> None:
    class Reading(Schema):
        device = Key[str]()
        n = Col[int]()

    old, row = Reading.batch(time=[NOON], device=["d"], n=[0]), Reading.measured()
    async with site.running():
        await site.raw(encode(old, row), FrameInfo("test", rows=1, schema=row.fingerprint).headers())
        await site.send([batch(range(1, 5))])
        assert await site.uploaded(5) == list(range(5))
    layouts = [m.layouts[f.layout] for m in site.manifests() for f in m.files]
    assert [[c.name for c in columns] for columns in layouts] == [["device", "time", "n"], ["device", "time", "x", "n"]]


async def test_the_store_goes_away_and_comes_back_and_the_quota_stops_consuming(
    kafka: EmbeddedKafka, s3: S3, tmp_path: Path, unique: str
) -> None:
    options = {"spool_bytes_max": "150kB", "memory_bytes_max": "30kB"}
    site = await Site(unique, kafka.bootstrap, tmp_path, 'every="50ms", rows_max=300', s3, options=options).create()
    async with site.running() as health:
        await site.send([batch(range(10))])
        await site.uploaded(10)
        s3.stop()
        try:
            for n in range(10, 12_010, 600):
                await site.send([batch(range(n + i, n + i + 60)) for i in range(0, 600, 60)])
            await until(lambda: site.metric("spool_bytes") > 5_000, 15, "segments in the spool")
            await asyncio.sleep(1)  # what one poll gave is in memory or in the spool by now, which have no more room
            await site.send([batch(range(n, n + 60)) for n in range(12_010, 15_010, 60)])
            lag = partial(site.metric, "consumer_lag_records", topic=site.topic, partition="0")
            await until(lambda: lag() >= 50, 10, "frames that nobody fetches")
            await asyncio.sleep(1)
            assert lag() >= 50, "it goes on consuming"
            assert site.metric("spool_bytes") <= 150_000
            assert site.metric("uplink_up") == 0
            assert site.metric("spool_oldest_unsent_timestamp_seconds") > 0
            assert health.ok
        finally:
            s3.start()
        assert await site.uploaded(15_010, 40) == list(range(15_010))
        assert site.metric("uplink_up") == 1
    assert manifest.verify(site.store, TABLE) == []


async def test_a_conflict_stops_its_partition_and_no_other(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    async with site.running():
        await site.send([batch(range(5))])
        await site.uploaded(5)
        await until(lambda: not list(site.spool.glob("*.sealed")), 5)
    (first,) = site.manifests()
    foreign = first.path.replace(f"{first.start:020d}", f"{first.end:020d}")
    obstore.put(site.store, foreign, first.encode())
    with caplog.at_level(logging.ERROR, "upload"):
        async with site.running() as health:
            await site.send([batch(range(5, 10))])
            await until(lambda: site.metric("errors_total", service="upload", reason="conflict") == 1, 10)
            await site.send([batch(range(10, 15))], partition=1)
            await until(lambda: any(m.partition == 1 for m in site.manifests()), 10)
            assert health.ok
    assert bytes(obstore.get(site.store, foreign).bytes()) == first.encode(), "overwritten"
    assert (
        f"{site.topic}[0] stands still, the others go on: {foreign} is in the store with other content" in caplog.text
    )
    assert len(list(site.spool.glob("*.sealed"))) == 1


async def test_a_disk_that_is_lost_and_a_group_that_was_forgotten(
    site: Site, kafka: EmbeddedKafka, tmp_path: Path
) -> None:
    async with site.running():
        for n in range(3):
            await site.send([batch(range(n * 10, n * 10 + 10))])
            await site.uploaded(n * 10 + 10)
    shutil.rmtree(site.spool)
    site.folder.joinpath("press.py").write_text(
        site.folder.joinpath("press.py").read_text().replace('"press")', '"renamed")')
    )
    async with site.running():  # another pipeline's name, another group: without offsets
        await site.send([batch(range(30, 40))])
        assert await site.uploaded(40) == list(range(40))
    assert len(site.manifests()) == 4


@contextmanager
def mounted(disk: Path, options: str) -> Iterator[Path]:
    """A disk of its own: permissions do not stop root, a full or read-only disk does."""
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", str(disk)], check=True)
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


async def test_a_spool_that_fills_while_running_is_unhealthy_and_loses_nothing(
    kafka: EmbeddedKafka, tmp_path: Path, unique: str, caplog: pytest.LogCaptureFixture
) -> None:
    with mounted(tmp_path / "small", "size=1m") as disk:
        site = await Site(unique, kafka.bootstrap, tmp_path, data_dir=disk).create()
        async with site.running() as health:
            ballast = disk / "ballast"
            ballast.write_bytes(b"x" * (1020 * 1024))
            await site.send([batch(range(5000))])
            await until(lambda: not health.conditions["spool"], 10, "an unhealthy spool")
            assert f"spool folder {site.spool} cannot be written (No space left on device): free space" in caplog.text
            assert site.metric("errors_total", service="upload", reason="spool") >= 1
            ballast.unlink()
            assert await site.uploaded(5000) == list(range(5000))
            assert health.ok


def refused(folder: Path, disk: Path) -> tuple[Path, str]:
    """Start the service with a disk that it cannot use; its spool and what it says."""
    site = Site("hall", "127.0.0.1:1", folder, data_dir=disk)
    assert site.process().wait(20) == 1
    return site.spool, site.log.read_text()


def test_a_read_only_spool_ends_the_service_with_one_line(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "ro") as disk:
        spool, said = refused(tmp_path, disk)
    assert said.startswith(
        f"upload: spool folder {spool} cannot be written (Read-only file system): free space on its disk"
    )
    assert said.count("\n") == 1


def test_a_file_in_place_of_the_spool_ends_the_service_with_one_line(tmp_path: Path) -> None:
    (tmp_path / "disk").write_text("")
    spool, said = refused(tmp_path, tmp_path / "disk")
    assert said.startswith(f"upload: spool folder {spool} cannot be written (Not a directory): free space on its disk")
    assert said.count("\n") == 1


async def test_two_services_cannot_have_one_spool(site: Site) -> None:
    async with site.running():
        with pytest.raises(ConfigError, match="is in use by another upload service: stop it or set another data_dir"):
            async with site.running():
                pass


async def test_sigterm_seals_and_sends_what_is_open(kafka: EmbeddedKafka, tmp_path: Path, unique: str) -> None:
    site = await made(kafka, tmp_path, unique, 'every="1h"')
    await site.send([batch(range(100))])
    process = site.process()
    try:
        consumed = f'sitestream_consumer_lag_records{{partition="0",site="{unique}",topic="{site.topic}"}}'
        await until(lambda: "sealed" not in site.log.read_text() and consumed in scrape(site), 20)
        await asyncio.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    finally:
        killed(process)
    assert site.numbers() == list(range(100))
    assert "Traceback" not in site.log.read_text()


def scrape(site: Site) -> str:
    return http_get(site.settings.metrics_port, "/metrics")[1].decode()
