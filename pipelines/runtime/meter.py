"""What the worker tells Prometheus of one partition number; its gauges vanish when the partition goes elsewhere."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping

from pipelines import metrics
from pipelines.batch import TIME_MAX, TIME_MIN
from pipelines.dead import DeadLetter
from pipelines.runtime.frames import SERVICE
from pipelines.runtime.job import Job
from pipelines.task import Emitted, Task
from pipelines.wire import Frame


class Meter:
    """Counts what a task takes and gives, and shows its state."""

    def __init__(self, job: Job, partition: int) -> None:
        self._site, self._pipeline, self._partition = job.site, job.plan.pipeline, str(partition)
        self._streams = job.streams
        labels = (self._site, self._pipeline)
        self._busy = metrics.worker_seconds.labels(*labels, "busy")
        self._rows, self._compute = metrics.batch_rows.labels(*labels), metrics.batch_duration.labels(*labels)
        self._commit, self._latency = metrics.checkpoint_duration.labels(*labels), metrics.emit_latency.labels(*labels)

    def taken(self, records: int, heartbeats: int) -> None:
        """Records of the inputs were computed and committed, so many of them without rows."""
        metrics.consumed.labels(self._site, SERVICE, "data").inc(records - heartbeats)
        metrics.consumed.labels(self._site, SERVICE, "heartbeat").inc(heartbeats)

    def computed(self, inputs: Mapping[str, list[Frame]], seconds: float) -> None:
        """A call of the task is done."""
        rows = {stream: sum(max(f.info.rows, len(f.batch)) for f in frames) for stream, frames in inputs.items()}
        for stream, n in rows.items():
            metrics.records_in.labels(self._site, self._pipeline, stream).inc(n)
        self._rows.observe(sum(rows.values()))
        self._compute.observe(seconds)
        self._busy.inc(seconds)

    def committed(self, task: Task, emitted: Iterable[Emitted], dead: Iterable[DeadLetter], seconds: float) -> None:
        """A transaction is committed."""
        for e in emitted:
            metrics.records_out.labels(self._site, self._pipeline, e.step).inc(len(e.batch))
        for letter in dead:
            metrics.dead_letters.labels(self._site, SERVICE, letter.reason).inc()
        for step, late in task.take_late_rows().items():
            metrics.late_records.labels(self._site, self._pipeline, step).inc(late)
        self._commit.observe(seconds)
        metrics.checkpoint_last.labels(*self._labels).set_to_current_time()
        metrics.state_bytes.labels(*self._labels).set(task.state_bytes)
        metrics.windows_open.labels(*self._labels).set(task.windows_open)
        for stream, watermark in task.watermarks.items():
            if TIME_MIN < watermark < TIME_MAX:
                metrics.watermark.labels(self._site, self._pipeline, stream, self._partition).set(watermark / 1e9)

    def emitted_after(self, seconds: float) -> None:
        """Results are committed so long after the broker took in the newest reading that they needed."""
        self._latency.observe(seconds)

    def lag(self, topic: str, records: int) -> None:
        """Records of an input that wait."""
        metrics.lag.labels(self._site, topic, self._partition).set(records)

    def recovered(self, seconds: float) -> None:
        """The task is ready, so long after the assignment."""
        metrics.recovery_duration.labels(self._site, self._pipeline).observe(seconds)

    def failed(self, reason: str) -> None:
        """The partition has to be opened again."""
        metrics.errors.labels(self._site, SERVICE, reason).inc()

    def forget(self) -> None:
        """Remove the series of this partition."""
        for gauge in (metrics.checkpoint_last, metrics.state_bytes, metrics.windows_open):
            with contextlib.suppress(KeyError):
                gauge.remove(*self._labels)
        for topic, stream in self._streams.items():
            with contextlib.suppress(KeyError):
                metrics.watermark.remove(self._site, self._pipeline, stream, self._partition)
            with contextlib.suppress(KeyError):
                metrics.lag.remove(self._site, topic, self._partition)

    @property
    def _labels(self) -> tuple[str, str, str]:
        return self._site, self._pipeline, self._partition
