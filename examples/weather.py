"""Two weather stations: what each day was like, how it compares with the fortnight before, and cold snaps.

The environment names the MQTT broker and how fast the stations' clocks run (recordings are played faster than time).
"""

from os import environ

from connectors import mqtt, parquet
from pipelines import Col, Key, Pipeline, Schema, agg, hopping, tumbling

BROKER = environ.get("MQTT", "mqtt://localhost")
SPEED = float(environ.get("SPEED", "1"))
EVERY = environ.get("UPLOAD_EVERY", "15m")


class Weather(Schema):
    station = Key[str]()
    ghi = Col[float]("W/m2")
    temperature = Col[float]("degC")
    wind = Col[float]("m/s")
    pressure = Col[float]("hPa")


class Day(Schema):
    readings = agg.count()
    coldest = agg.min(Weather.temperature)
    warmest = agg.max(Weather.temperature)
    mean = agg.mean(Weather.temperature)
    gusts = agg.quantile(Weather.wind, 0.95)
    sun = agg.sum(Weather.ghi) / 1000  # hourly means in W/m2 add up to Wh/m2


class Fortnight(Schema):
    usual = agg.mean(Day.mean)
    spread = agg.std(Day.mean)
    days = agg.count()


class ColdSnap(Schema):
    mean = Day.mean
    usual = Fortnight.usual
    z = (Fortnight.usual - Day.mean) / Fortnight.spread


weather = Pipeline("weather")

readings = weather.read(
    mqtt.source(Weather, broker=BROKER, topic="weather/{station}/reading", speed=SPEED, silence="5s")
)
readings.to(parquet.dataset("weather/reading", every=EVERY))

day = readings.window(tumbling("1d", late="14d"), Day)
day.to(parquet.dataset("weather/day", every=EVERY))
day.late.to(parquet.dataset("weather/late", every=EVERY))

fortnight = day.window(hopping("14d", every="1d", late="0s"), Fortnight)
cold = day.join(fortnight.latest(), how="inner").select(ColdSnap).where((Fortnight.days >= 10) & (ColdSnap.z > 3.5))
cold.to(parquet.dataset("weather/cold-snap", every=EVERY))
