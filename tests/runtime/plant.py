"""The pipelines that these tests run; a worker process loads this very file. Sums are of whole numbers, hence exact."""

from __future__ import annotations

from connectors import kafka
from pipelines import Col, Key, Pipeline, Schema, agg, if_else, tumbling
from tests.core.programs import Feed, Shelf


class Reading(Schema):
    device = Key[str]()
    x = Col[float]("mm")


class Setting(Schema):
    device = Key[str]()
    base = Col[float]("mm")


class Tens(Schema):
    """Ten seconds of readings."""

    n = agg.count()
    total = agg.sum(Reading.x)
    low = agg.min(Reading.x)
    high = agg.max(Reading.x)


class Excess(Schema):
    over = Reading.x - Setting.base


plant = Pipeline("plant")
plant.read(Feed(Reading, "readings")).window(tumbling("10s", late="0s"), Tens).to(Shelf())

plant_changed = Pipeline("plant")
plant_changed.read(Feed(Reading, "readings")).window(tumbling("20s", late="0s"), Tens).to(Shelf())


class Minutes(Schema):
    """What a later version of the plant adds."""

    highest = agg.max(Tens.high)


plant_grown = Pipeline("plant")
_tens = plant_grown.read(Feed(Reading, "readings")).window(tumbling("10s", late="0s"), Tens)
_tens.to(Shelf())
_tens.window(tumbling("1m", late="0s"), Minutes).to(Shelf())


class Parity(Schema):
    parity = if_else(Reading.x % 2 == 0, "even", "odd")
    x = Reading.x


class ByParity(Schema):
    """Ten seconds of readings of all devices of all partitions."""

    n = agg.count()
    total = agg.sum(Parity.x)
    low = agg.min(Parity.x)
    high = agg.max(Parity.x)


plant_keyed = Pipeline("plant")
_parity = plant_keyed.read(Feed(Reading, "readings")).select(Parity).key_by(Parity.parity)
_parity.window(tumbling("10s", late="0s"), ByParity).to(Shelf())

plant_foreign = Pipeline("plant")
plant_foreign.read(kafka.source(Reading, topic="others.readings", stream="readings", time="ms", time_unit="ms")).window(
    tumbling("10s", late="0s"), Tens
).to(Shelf())

compared = Pipeline("compared")
compared.read(Feed(Reading, "readings")).join(compared.table(Feed(Setting, "settings")), how="inner").select(Excess).to(
    Shelf()
)
