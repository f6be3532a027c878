"""The collect service selects, watches a folder, and is killed: between real brokers, nothing that was promised is lost."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np

from connectors.simulator.fleet import Device, Fleet, readings
from containers.embedded import EmbeddedKafka
from pipelines.clock import SystemClock
from tests.bed import until
from tests.bed.mosquitto import Mosquitto
from tests.connectors.test_collect import Collect, mqtt_read

DEVIATION = 0.5


async def test_kill_9_bends_no_line_of_a_swinging_door(
    kafka: EmbeddedKafka, mosquitto: Mosquitto, unique: str, tmp_path: Path, collects: list[Collect]
) -> None:
    read = mqtt_read(mosquitto.url, unique)[:-1]
    door = f"{read}, conditions=[swinging_door(Vibration.rms, deviation={DEVIATION}, hold='5s')])"
    collect = Collect(tmp_path, unique, kafka.bootstrap, door)
    collects.append(collect.start())
    start_ns = SystemClock().now_ns()
    time = start_ns // 10**6 * 10**6 + np.arange(400) * 10 * 10**6  # a device writes milliseconds
    waves = [np.abs((np.arange(400) + 7 * d) % 60 - 30.0) + 0.2 * (np.arange(400) % 2) for d in range(3)]
    fleet = [Device(f"d{d}", f"{unique}/d{d}/vib", readings(time, {"rms": w})) for d, w in enumerate(waves)]
    async with Fleet(mosquitto.url, fleet) as publishing:
        for _ in range(2):
            await asyncio.sleep(1)
            collect.child.kill9()
            await asyncio.to_thread(collect.start)
        await publishing.done()
    before = -1.0
    while (now := collect.metric("source_records_total")) != before or not now:  # until nothing more comes
        before = now
        await asyncio.sleep(1.5)
    process = collect.child._process
    assert process is not None
    process.terminate()  # what is held is reported
    assert await asyncio.to_thread(process.wait, 20) == 0
    frames = await collect.frames()
    rows = {
        (k, t, v)
        for _, _, b in frames
        for k, t, v in zip(b.keys, b.time.tolist(), b.columns["Vibration.rms"].tolist(), strict=True)
    }
    assert 3 * 13 < len(rows) < 3 * 200  # corners, and what the kills have cost
    for d, wave in enumerate(waves):
        kept = sorted((t, v) for k, t, v in rows if k == f"d{d}")
        line = np.interp(time - start_ns, [t - start_ns for t, _ in kept], [v for _, v in kept])
        assert np.abs(line - wave).max() <= DEVIATION + 1e-6


async def test_kill_9_loses_no_file_of_a_folder(
    kafka: EmbeddedKafka, unique: str, tmp_path: Path, collects: list[Collect]
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    read = f"replay.folder(Vibration, {str(folder)!r}, settle='0s', every='10ms', pattern='*.csv')"
    collect = Collect(tmp_path, unique, kafka.bootstrap, read, rows_max="50")
    collects.append(collect.start())
    for n in range(20):
        lines = [f"2026-01-01T00:00:00Z,d{i % 3},{n * 100 + i}" for i in range(100)]
        (folder / ".next").write_text("\n".join(["time,device,rms", *lines]) + "\n")
        (folder / ".next").rename(folder / f"{n:02}.csv")
        if n in (6, 13):
            collect.child.kill9()
            await asyncio.to_thread(collect.start)
    (folder / "bad.csv").write_text("no readings\n")
    done, failed = folder / "done", folder / "failed"
    await until(
        lambda: len(list(done.iterdir())) == 20 and (failed / "bad.csv.reason").exists(), 30, "all files to be done"
    )
    assert sorted(set(await collect.values())) == list(range(2000))
    assert not list(folder.glob("*.csv"))
