"""What goes wrong with simulated devices, and how their columns move."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from connectors import simulator
from connectors.base import QUALITY, Context
from connectors.simulator import faults, signal
from connectors.simulator.reader import SignalReader
from pipelines import Col, Key, Quality, Schema
from pipelines.batch import Batch
from pipelines.clock import ManualClock
from pipelines.errors import PlanError
from pipelines.quality import BAD, GOOD
from tests.connectors.schemas import Motor, Vibration

T0, S = 10**18, 10**9
TICKS, DEVICES = 600, 20
WAVE = np.tile(np.arange(TICKS), (DEVICES, 1))


class Tank(Schema):
    device = Key[str]()
    level = Col[float]("m")
    quality = Quality()


async def read(schema: type[Any] = Vibration, step: int = TICKS, **options: Any) -> Batch:
    """All readings of an hour and more, `step` ticks at a time."""
    options = dict[str, Any](devices=DEVICES, every="1s", ticks=TICKS) | options
    clock = ManualClock(T0)
    reader = SignalReader(simulator.source(schema, **options), Context("s", "1", Path(), clock))
    clock.advance(TICKS)
    await reader.connect()
    parts = [(await reader.read(rows_max=step * DEVICES, linger_s=0)).batch for _ in range(-(-TICKS // step))]
    joined = {n: np.concatenate([p.columns[n] for p in parts]) for n in parts[0].columns}
    codes, time = (np.concatenate([getattr(p, name) for p in parts]) for name in ("codes", "time"))
    return Batch(parts[0].names, codes, time, joined)


def table(batch: Batch, column: str = "Vibration.rms") -> Any:
    """Values by (device, tick); not a number where no reading came."""
    values = np.full((DEVICES, TICKS), np.nan)
    values[batch.codes, (batch.time - T0) // S] = batch.columns[column]
    return values


async def difference(**options: Any) -> Any:
    return table(await read(**options)) - table(await read())


async def test_without_faults_nothing_is_wrong() -> None:
    assert (await difference() == 0).all()
    assert not np.isnan(table(await read())).any()


async def test_spikes() -> None:
    off = await difference(faults=[faults.spike(Vibration.rms, size=50, chance=0.01)])
    assert set(np.unique(off.round(9))) == {-50.0, 0.0, 50.0}
    assert 0.005 < (off != 0).mean() < 0.015


async def test_a_value_that_is_stuck() -> None:
    values = table(await read(faults=[faults.stuck(Vibration.rms, chance=0.2, lasts="20s")]))
    stretches = values.reshape(DEVICES, -1, 20)
    same = np.ptp(stretches, axis=2) == 0
    assert 0.1 < same.mean() < 0.3
    assert (stretches[..., 0] == table(await read()).reshape(stretches.shape)[..., 0]).all()


async def test_a_value_that_drifts() -> None:
    off = (await difference(faults=[faults.drift(Vibration.rms, size=10, chance=0.3, lasts="100s")])).reshape(-1, 100)
    hit = off[:, -1] != 0
    assert 0.15 < hit.mean() < 0.45
    assert np.allclose(off[hit], np.arange(100) / 10)
    assert (off[~hit] == 0).all()


async def test_a_sensor_that_gives_nothing() -> None:
    batch = await read(Tank, faults=[faults.dropout(chance=0.2, lasts="10s")])
    quality = batch.columns["Tank.quality"].reshape(-1, 10, DEVICES)
    assert set(np.unique(quality)) == {GOOD, BAD}
    assert (np.ptp(quality, axis=1) == 0).all()
    assert 0.1 < (quality == BAD).mean() < 0.3
    assert QUALITY in (await read(faults=[faults.dropout()])).columns


async def test_a_device_that_is_away() -> None:
    values = table(await read(faults=[faults.gap(chance=0.2, lasts="30s")]))
    missing = np.isnan(values).reshape(DEVICES, -1, 30)
    assert 0.1 < missing.mean() < 0.3
    assert (missing.all(axis=2) == missing.any(axis=2)).all()


async def test_a_device_that_has_kept_its_readings_sends_them_when_it_is_back() -> None:
    batch = await read(faults=[faults.gap(chance=0.3, lasts="30s", backfill=True)])
    values, clean = table(batch), table(await read())
    there = ~np.isnan(values)
    assert (values[there] == clean[there]).all()
    assert there[:, :-30].all()  # what is kept in the last stretch has not come yet
    assert 0.1 < 1 - there[:, -30:].mean() < 0.6
    assert len(batch) == there.sum()  # each once
    newest = np.maximum.accumulate(batch.time)
    assert (newest - batch.time).max() == 30 * S  # they come late
    for device in range(DEVICES):
        assert (np.diff(batch.time[batch.codes == device]) > 0).all()  # and in order


async def test_clocks_that_are_off() -> None:
    batch = await read(faults=[faults.skew(seconds=-90, share=0.3)])
    first = {k: int(t) for k, t in reversed(list(zip(batch.keys, batch.time.tolist(), strict=True)))}
    assert set(first.values()) == {T0, T0 - 90 * S}
    assert 2 <= sum(t < T0 for t in first.values()) <= 10


ALL = [
    faults.spike(Vibration.rms, size=50), faults.stuck(Vibration.rms), faults.drift(Vibration.rms, size=5),
    faults.dropout(), faults.gap(), faults.gap(chance=0.1, backfill=True), faults.skew(seconds=3),
]  # fmt: skip


async def test_the_same_seed_gives_the_same_however_it_is_read() -> None:
    one, other = await read(faults=ALL), await read(faults=ALL, step=7)
    assert one.codes.tolist() == other.codes.tolist()
    assert one.time.tolist() == other.time.tolist()
    assert {n: c.tolist() for n, c in one.columns.items()} == {n: c.tolist() for n, c in other.columns.items()}
    third = await read(faults=ALL, seed=1)
    assert third.time.tolist() != one.time.tolist()


@pytest.mark.parametrize("make", [signal.sine, signal.wander, signal.cycle])
async def test_how_columns_move(make: Callable[..., signal.Signal]) -> None:
    moves = {Vibration.rms: make(level=100, swing=10, period="60s", noise=1)}
    values = table(await read(signals=moves))
    assert (np.abs(values - 100) <= 11).all()
    assert abs(values.mean() - 100) < 5
    assert np.ptp(values, axis=1).min() > 5  # it moves
    assert len(np.unique(values[:, 0].round(9))) > 15  # each device in its own way
    assert (values == table(await read(signals=moves, step=11))).all()


async def test_what_wanders_does_so_without_jumps() -> None:
    values = table(await read(signals={Vibration.rms: signal.wander(level=0, swing=10, period="10m")}))
    assert np.abs(np.diff(values, axis=1)).max() < 1


async def test_other_types_move_about_their_level() -> None:
    batch = await read(Motor, signals={Motor.starts: signal.sine(level=50), Motor.running: signal.cycle(level=1000)})
    assert set(np.unique(batch.columns["Motor.starts"])) <= set(range(45, 56))
    assert 0.2 < batch.columns["Motor.running"].mean() < 0.8


@pytest.mark.parametrize(
    ("write", "says"),
    [
        (lambda: faults.spike(Vibration.rms, size=1, chance=2), "spike: 2 is no probability"),
        (lambda: faults.drift(Vibration.rms, size=float("nan")), "drift: nan is given, a finite number"),
        (lambda: faults.gap(lasts="0s"), "gap lasts: '0s' is no time at all"),
        (lambda: simulator.source(Vibration, faults=[faults.spike(Motor.speed, size=1)]), "spike of Motor.speed: Vib"),
        (lambda: simulator.source(Motor, faults=[faults.stuck(Motor.running)]), "Motor has no such number"),
        (lambda: simulator.source(Motor, faults=[faults.gap(), faults.gap()]), "two of gap: one is enough"),
        (lambda: simulator.source(Motor, faults=["gap"]), "'gap' is none"),  # type: ignore[list-item]
        (lambda: simulator.source(Motor, signals={Vibration.rms: signal.sine()}), "devices of Motor send Motor.speed"),
        (lambda: signal.sine(period="often"), "sine period: 'often' is not a duration"),
    ],
)
def test_mistakes(write: Callable[[], Any], says: str) -> None:
    with pytest.raises(PlanError, match=says):
        write()
