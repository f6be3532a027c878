"""A pipeline that an existing Faust app hosts, beside an agent of its own."""

from __future__ import annotations

from pathlib import Path

import faust
import pytest

from containers.embedded import EmbeddedKafka
from pipelines.runtime.faust import mount
from tests.bed.topics import create_topic, produce
from tests.bed.waiting import until
from tests.runtime.plant import plant
from tests.runtime.site import Site, closed, story


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Faust and what it uses
async def test_a_faust_app_hosts_a_pipeline(kafka: EmbeddedKafka, unique: str, tmp_path: Path) -> None:
    site = await Site(unique, kafka.bootstrap).create()
    orders = await create_topic(kafka.bootstrap, f"{unique}.orders", 1)
    app = faust.App(
        unique, broker=f"kafka://{kafka.bootstrap}", web_enabled=False, datadir=str(tmp_path), topic_disable_leader=True
    )
    seen: list[bytes] = []

    @app.agent(app.topic(orders, value_type=bytes, value_serializer="raw"))
    async def orderly(stream: faust.StreamT[bytes]) -> None:
        async for order in stream:
            seen.append(order)

    health = mount(app, plant, site=site.name, partitions=site.partitions)
    frames = story(45)
    await app.start()
    try:
        await until(lambda: health.ok, timeout_s=20, what="the hosted pipeline to be healthy")
        await site.send(frames)
        await produce(kafka.bootstrap, orders, b"order")
        await until(lambda: seen == [b"order"])
        await site.wait_for_windows(closed(frames, 40))
    finally:
        await app.stop()
    restored = await site.recover()
    assert (sum(restored.offsets.values()), restored.replay_cost) == (45, 0)
