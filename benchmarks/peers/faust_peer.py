"""Plain Faust, at least once: a table of what each sensor's newest window holds; the result goes out when the next one begins."""

from __future__ import annotations

import os
import sys

import faust

BROKERS, NAME = os.environ["BROKERS"], os.environ["NAME"]
app = faust.App(NAME, broker=f"kafka://{BROKERS}", value_serializer="json", topic_partitions=4, web_enabled=False,
                stream_wait_empty=False, datadir=os.environ["FOLDER"], broker_max_poll_records=4096)  # fmt: skip
readings = app.topic(os.environ["TOPIC"], key_type=str, key_serializer="raw")
results = app.topic(os.environ["OUT"])
windows = app.Table("windows", default=lambda: None)
first = True


@app.agent(readings)
async def work(stream):  # type: ignore[no-untyped-def]
    global first
    async for r in stream:
        if first:
            os.write(1, b"first\n")  # its worker turns print into log lines
            first = False
        sensor, value, start = r["sensor"], r["value"], r["ts"] // 10_000 * 10_000
        was = windows[sensor]
        if was is None or was[0] != start:
            if was is not None:
                _, n, total, low, high = was
                await results.send(value={
                    "sensor": sensor, "start": was[0], "count": n, "mean": total / n, "min": low, "max": high
                })  # fmt: skip
            windows[sensor] = [start, 1, value, value, value]
        else:
            windows[sensor] = [start, was[1] + 1, was[2] + value, min(was[3], value), max(was[4], value)]


if __name__ == "__main__":
    sys.argv[1:] = ["worker", "-l", "error"]
    app.main()
