"""Quix Streams as its documentation writes it."""

from __future__ import annotations

import os
from typing import Any

from quixstreams import Application
from quixstreams.dataframe.windows import Count, Max, Mean, Min

app = Application(
    broker_address=os.environ["BROKERS"], consumer_group=os.environ["NAME"], auto_offset_reset="earliest",
    state_dir=os.environ["FOLDER"], loglevel="ERROR",
    processing_guarantee=os.environ.get("GUARANTEE", "at-least-once"),
    commit_interval=float(os.environ.get("COMMIT_S", "5")),
)  # fmt: skip
first = True


def event_time(value: Any, headers: Any, timestamp: float, timestamp_type: Any) -> int:
    """Of the payload."""
    global first
    if first:
        print("first", flush=True)
        first = False
    return int(value["ts"])


readings = app.topic(os.environ["TOPIC"], value_deserializer="json", timestamp_extractor=event_time)
out = app.topic(os.environ["OUT"], value_serializer="json")
frame = app.dataframe(readings)
windows = (
    frame.tumbling_window(int(os.environ.get("WINDOW_MS", "10000")))
    .agg(count=Count(), mean=Mean("value"), min=Min("value"), max=Max("value"))
    .final(closing_strategy=os.environ.get("CLOSING", "key"))
)
windows.apply(
    lambda value, key, timestamp, headers: {**value, "sensor": key.decode() if isinstance(key, bytes) else key},
    metadata=True,
).to_topic(out)

if __name__ == "__main__":
    app.run()
