"""The pipeline that the benchmark of backfills runs."""

from __future__ import annotations

from connectors import parquet, topic
from pipelines import Col, Key, Pipeline, Schema, agg, tumbling


class Reading(Schema):
    device = Key[str]()
    x = Col[float]("mm/s")


class Tens(Schema):
    n = agg.count()
    mean = agg.mean(Reading.x)
    low = agg.min(Reading.x)
    high = agg.max(Reading.x)


bench = Pipeline("bench")
bench.read(topic.append(Reading, "readings")).window(tumbling("10s", late="0s"), Tens).to(parquet.dataset("bench/tens"))
