"""A program that must type-check, strictly."""

import numpy as np

from pipelines import (
    Col,
    Joined,
    Key,
    Pipeline,
    Schema,
    Stream,
    Windowed,
    agg,
    calendar,
    hopping,
    session,
    sqrt,
    tumbling,
)
from pipelines.testing import run
from tests.core.programs import Feed, Shelf


class Vibration(Schema):
    device = Key[str]()
    rms = Col[float]("mm/s")
    cycles = Col[int]("")
    small = Col[np.float32]("")
    on = Col[bool]("", absent=False)
    line = Col[str]("", absent="")


class Minute(Schema):
    mean = agg.mean(Vibration.rms)
    cycles = agg.sum(Vibration.cycles)
    mean_cycles = agg.mean(Vibration.cycles)
    p99 = agg.quantile(Vibration.rms, 0.99)
    spread = agg.max(Vibration.rms) - agg.min(Vibration.rms)
    n = agg.count()


class Alarm(Schema):
    z = abs(Minute.mean - 1) / sqrt(Minute.spread)


press = Pipeline("press")
vibration = press.read(Feed(Vibration, "vibration"))
running: Stream[Vibration] = vibration.where(Vibration.on & (Vibration.rms > 0) & (Vibration.cycles == 3))
minute: Windowed[Minute, Vibration] = running.window(tumbling("1m", late="5s"), Minute)
late: Stream[Vibration] = minute.late
alarm = minute.join(minute.latest(), how="left").select(Alarm).where(Alarm.z > 4).to(Shelf())
hop = running.window(hopping("1h", every="1m", late="0s"), Minute)
z = run(press, {vibration: []})[alarm][Alarm.z]

by_line: Stream[Vibration] = vibration.where(Vibration.device != "spare").key_by(Vibration.line)
runs: Windowed[Minute, Vibration] = by_line.window(session(gap="5m", late="0s"), Minute)
days = vibration.window(calendar("day", tz="Europe/Berlin", late="1h"), Minute)
once: Windowed[Vibration, Vibration] = vibration.dedupe(by=Vibration.cycles, within="1m")
calm, shaken = vibration.split(Vibration.rms < 3)
both: Stream[Vibration] = calm.union(shaken)
grid: Windowed[Vibration, Vibration] = vibration.changes(Vibration.rms, deadband="2%").resample(
    "1s", fill="previous", late="1s", max_gap="1m"
)
near: Joined[Vibration, Minute] = vibration.join_within(
    minute, before="1m", after="0s", how="inner", late="0s", wait="10s"
)
too_late: Stream[Minute] = near.late_right
