"""Bytewax, one worker, as its documentation writes it; windows wait a second, for with less it dropped readings."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from typing import Any

import bytewax.operators as op
from bytewax.connectors.kafka import KafkaSink, KafkaSinkMessage, KafkaSource
from bytewax.dataflow import Dataflow
from bytewax.operators import windowing as w
from bytewax.run import cli_main

first = True


def parse(message: Any) -> tuple[str, Any]:
    """(sensor, reading)."""
    global first
    if first:
        print("first", flush=True)
        first = False
    reading = json.loads(message.value)
    return reading["sensor"], reading


def fold(acc: Any, reading: Any) -> Any:
    """One more reading."""
    value = reading["value"]
    return [acc[0] + 1, acc[1] + value, min(acc[2], value), max(acc[3], value)]


def merge(a: Any, b: Any) -> Any:
    """Of two parts."""
    return [a[0] + b[0], a[1] + b[1], min(a[2], b[2]), max(a[3], b[3])]


def result(item: Any) -> Any:
    """As a message."""
    sensor, (window, (n, total, low, high)) = item
    start = BEGIN_MS + window * 10_000
    value = {"sensor": sensor, "start": start, "count": n, "mean": total / n, "min": low, "max": high}
    return KafkaSinkMessage(sensor.encode(), json.dumps(value).encode())


BEGIN_MS = 1_700_000_000_000
BEGIN = datetime.fromtimestamp(BEGIN_MS / 1000, UTC)
clock = w.EventClock(
    lambda r: datetime.fromtimestamp(r["ts"] / 1000, UTC), wait_for_system_duration=timedelta(seconds=1)
)
windower = w.TumblingWindower(length=timedelta(seconds=10), align_to=BEGIN)
flow = Dataflow("peer")
brokers = [os.environ["BROKERS"]]
stream = op.input("in", flow, KafkaSource(brokers, [os.environ["TOPIC"]], batch_size=2_000))
keyed = op.map("parse", stream, parse)
folded = w.fold_window("fold", keyed, clock, windower, lambda: [0, 0.0, float("inf"), float("-inf")], fold, merge)
op.output("out", op.map("result", folded.down, result), KafkaSink(brokers, os.environ["OUT"]))

if __name__ == "__main__":
    cli_main(flow)
