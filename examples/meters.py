"""Meters that post their readings, a heat pump that is asked, and what both together take in a quarter of an hour.

The environment names the heat pump's URL.
"""

from os import environ

from connectors import http, parquet
from connectors.conditions import deadband
from connectors.secrets import secret
from pipelines import Col, Key, Pipeline, Quality, Schema, agg, tumbling
from pipelines.quality import GOOD

PUMP = environ.get("PUMP", "http://pump.plant.example/api/now")


class Meter(Schema):
    device = Key[str]()
    power = Col[float]("kW")
    quality = Quality()


class Pump(Schema):
    device = Key[str]()
    flow = Col[float]("l/min")
    supply = Col[float]("degC")
    quality = Quality()


class Quarter(Schema):
    power = agg.mean(Meter.power)
    peak = agg.max(Meter.power)
    good = agg.mean(Meter.quality == GOOD)


class Warmth(Schema):
    supply = agg.mean(Pump.supply)


meters = Pipeline("meters")

posted = meters.read(
    http.push(
        Meter,
        path="/meters/{device}",
        tokens=secret("meter_tokens"),
        conditions=[deadband(Meter.power, absolute=0.01, at_least_every="1m")],
        stale="5m",
    )
)
pumps = meters.read(
    http.poll(
        Pump,
        url={"pump-1": PUMP},
        fields={Pump.flow: "water.flow", Pump.supply: "water.supply"},
        time=None,
        every="5s",
        jitter="1s",
    )
)

quarter = posted.window(tumbling("15m", late="1m"), Quarter)
quarter.to(parquet.dataset("meters/quarter", every="15m"))
warmth = pumps.window(tumbling("15m", late="1m"), Warmth)
warmth.to(parquet.dataset("meters/warmth", every="15m"))
