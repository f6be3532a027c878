"""The job that all systems do: readings as JSON, 10 s tumbling windows of event time for each sensor; count, mean, min, max.

Each system writes JSON `{"sensor", "start", "count", "mean", "min", "max"}` to its own topic (Sitestream: frames). At the end a
reading of every sensor, far later, closes all windows.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pipelines.expr import Array

PARTITIONS, SENSORS, EVERY_MS, WINDOW_MS = 4, 1_000, 100, 10_000
BEGIN_MS = 1_700_000_000_000  # a whole window
LATER_MS = 3_600_000
HERE = SENSORS // PARTITIONS


def times(readings: int) -> int:
    """How often each sensor reads: whole windows."""
    return max(1, readings // SENSORS * EVERY_MS // WINDOW_MS) * WINDOW_MS // EVERY_MS


def values(partition: int, readings: int) -> Array:
    """Shape `(times, sensors of the partition)`, in thousandths, so that the text is exact."""
    return np.random.default_rng(partition).integers(0, 50_000, (times(readings), HERE)) / 1000


def sensor(partition: int, number: int) -> str:
    """The name of a sensor; it lies in the partition it names."""
    return f"s-{partition}-{number}"


def messages(partition: int, readings: int) -> Iterator[tuple[bytes, bytes]]:
    """(key, JSON) of each reading of a partition, in order."""
    names = [sensor(partition, n) for n in range(HERE)]
    for i, row in enumerate(values(partition, readings).tolist()):
        for name, value in zip(names, row, strict=True):
            yield (
                name.encode(),
                b'{"sensor": "%b", "ts": %d, "value": %.3f}'
                % (
                    name.encode(),
                    BEGIN_MS + i * EVERY_MS,
                    value,
                ),
            )
    for name in names:
        yield name.encode(), b'{"sensor": "%b", "ts": %d, "value": 0.0}' % (name.encode(), BEGIN_MS + LATER_MS + i)


def truth(readings: int) -> dict[tuple[str, int], tuple[int, float, float, float]]:
    """Every result, by sensor and start in ms."""
    found = {}
    for p in range(PARTITIONS):
        x = values(p, readings).reshape(-1, WINDOW_MS // EVERY_MS, HERE)
        count, mean, low, high = x.shape[1], x.mean(1), x.min(1), x.max(1)
        for w in range(len(x)):
            for n in range(HERE):
                key = sensor(p, n), BEGIN_MS + w * WINDOW_MS
                found[key] = (count, float(mean[w, n]), float(low[w, n]), float(high[w, n]))
    return found
