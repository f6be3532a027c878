"""Bearings of a press: a minute of vibration, compared with its usual level; a shock slows the press down."""

from connectors import control, mqtt, parquet
from pipelines import Col, Key, Pipeline, Schema, agg, hopping, tumbling


class Vibration(Schema):
    device = Key[str]()
    rms = Col[float]("mm/s")


class Minute(Schema):
    mean = agg.mean(Vibration.rms)
    p99 = agg.quantile(Vibration.rms, 0.99)
    std = agg.std(Vibration.rms)
    n = agg.count()


class Usual(Schema):
    level = agg.mean(Minute.mean)
    spread = agg.std(Minute.mean)
    n = agg.count()


class Alarm(Schema):
    z = abs(Minute.mean - Usual.level) / Usual.spread


press = Pipeline("press")
vibration = press.read(mqtt.source(Vibration, broker="mqtt://edge", topic="press/{device}/vib"))
vibration.to(parquet.dataset("press/raw"))

minute = vibration.window(tumbling("1m", late="5s"), Minute)
minute.to(parquet.dataset("press/minute", roll="64MiB", every="15m"))
minute.late.to(parquet.dataset("press/late"))

usual = minute.window(hopping("1h", every="1m", late="0s"), Usual)
alarms = minute.join(usual.latest(), how="inner").select(Alarm).where((Usual.n >= 30) & (Alarm.z > 4))
alarms.to(control.command(topic="press/{device}/cmd", verb="set_speed", expires="30s", speed=0.5, why=Alarm.z))
