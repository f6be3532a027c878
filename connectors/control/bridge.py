"""Alarm frames -> commands. Reads committed frames only: a row whose transaction was aborted never becomes a command.

At least once: the offset is committed after Kafka has the commands. What is done again after a crash bears the same ids.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass

from nacl.signing import SigningKey

from connectors.control import CommandSink
from connectors.control.audit import RETENTION_BYTES
from connectors.control.commands import Command, derived_id
from connectors.control.signing import signed
from pipelines import metrics, topics
from pipelines.batch import Batch
from pipelines.dead import DeadLetter
from pipelines.errors import BadData, Unavailable
from pipelines.expr import Expr
from pipelines.plan import Plan, Step
from pipelines.runtime import kafka
from pipelines.runtime.serve import Health
from pipelines.settings import Settings
from pipelines.wire import FrameInfo, decode

log = logging.getLogger("control.alarms")
POLL_MS = 200
PROBE_S = 2.0


@dataclass(frozen=True)
class Origin:
    """A sink with all that identifies its commands."""

    site: str
    pipeline: str
    step: Step
    index: int  # among the step's control sinks
    sink: CommandSink
    wall_clock: bool  # rows bear real time, not that of a recording

    def commands(self, batch: Batch, written_at_ns: int) -> Iterator[Command]:
        """One command for each row; the same ids and times for the same frame."""
        args = {
            n: batch.columns[v.qualified].tolist() if isinstance(v, Expr) else [v] * len(batch)
            for n, v in self.sink.args
        }
        for i, (device, time_ns) in enumerate(zip(batch.keys, batch.time.tolist(), strict=True)):
            issued = min(time_ns, written_at_ns) if self.wall_clock else written_at_ns
            yield Command(
                id=derived_id(self.site, self.pipeline, self.step.name, str(self.index), device, str(time_ns)),
                device=device,
                verb=self.sink.verb,
                args={name: values[i] for name, values in args.items()},
                issuer=f"{self.pipeline}/{self.step.name}",
                issued_at_ns=issued,
                expires_at_ns=issued + self.sink.expires_ns,
                idempotent=self.sink.idempotent,
                attempts_max=self.sink.attempts_max,
                topic=self.sink.topic.at(device),
            )


def origins(plan: Plan, site: str) -> dict[str, list[Origin]]:
    """The sinks that feed on each topic."""
    wall_clock = not any(
        getattr(s, "recorded", False) or getattr(s, "speed", 1.0) != 1.0 for s in plan.sources.values()
    )
    found: dict[str, list[Origin]] = {}
    for step, sink in plan.sinks_of("control"):
        of_topic = found.setdefault(plan.topic(site, step.name), [])
        of_topic.append(Origin(site, plan.pipeline, step, len(of_topic), sink, wall_clock))
    return found


def topics_of(plan: Plan, site: str, partitions: int) -> list[topics.Topic]:
    """Every topic that control needs on a site."""
    return [
        *(topics.data(name, partitions) for name in origins(plan, site)),
        topics.data(topics.commands(site), partitions, retention_bytes=64 * 2**20),
        topics.compacted(topics.acks(site), partitions),
        topics.compacted(topics.twin_desired(site), 1),
        topics.compacted(topics.twin_reported(site), 1),
        topics.data(topics.audit(site), 1, retention_bytes=RETENTION_BYTES),
        topics.data(topics.dead(site), 1),
        *([topics.compacted(topics.rebirths(site), 1)] if plan.needs_births else []),
    ]


class Bridge:
    """Carries alarms over to the command topic."""

    def __init__(
        self,
        settings: Settings,
        sources: dict[str, list[Origin]],
        producer: kafka.Client,
        bury: Callable[[DeadLetter], Awaitable[None]],
        health: Health,
        own: SigningKey,
    ) -> None:
        self._own = own
        self._settings, self._sources, self._producer = settings, sources, producer
        self._bury, self._health = bury, health

    async def run(self, stop: asyncio.Event) -> None:
        """Until told to stop. `Unavailable` if Kafka is lost."""
        site = self._settings.site
        consumer = await kafka.consumer(self._settings.brokers, *self._sources, group=f"{site}.control.alarms")
        probe = asyncio.create_task(self._probe(consumer))
        try:
            if not self._sources:  # people alone command: a consumer of nothing would wait for ever, and not for `stop`
                await stop.wait()
            while not stop.is_set():
                for place, records in (await consumer.getmany(timeout_ms=POLL_MS)).items():
                    await self._carry(records)
                    metrics.consumed.labels(site, "control", "data").inc(len(records))
                    await _commit(consumer, place, records[-1].offset + 1)
        except kafka.KafkaError as e:
            kafka.raise_refusal(e)
            raise Unavailable(f"alarms could not be carried over to {topics.commands(site)}: {e!r}") from e
        finally:
            probe.cancel()
            await kafka.stopped(consumer)

    async def _probe(self, consumer: kafka.Client) -> None:
        """Ask Kafka now and then, for the health check and the lag: its client says nothing of a broker that is away."""
        while True:
            try:
                async with asyncio.timeout(PROBE_S):
                    ends = await consumer.end_offsets(consumer.assignment())
                    for place, end in ends.items():
                        lag = end - await consumer.position(place)
                        metrics.lag.labels(self._settings.site, place.topic, place.partition).set(lag)
                self._health.set(connected=True)
            except (TimeoutError, kafka.KafkaError):
                self._health.set(connected=False)
            await asyncio.sleep(PROBE_S)

    async def _carry(self, records: Sequence[kafka.Record]) -> None:
        sent = []
        for record in records:
            try:
                for command in self._commands(record):
                    key = command.device.encode()
                    sent.append(
                        await self._producer.send(topics.commands(self._settings.site), command.encode(), key=key)
                    )
            except BadData as e:
                where = f"{record.topic}[{record.partition}]@{record.offset}"
                await self._bury(DeadLetter(record.value or b"", e.reason, str(e), where))
        for acknowledged in sent:
            await acknowledged

    def _commands(self, record: kafka.Record) -> list[Command]:
        if FrameInfo.of(record.headers).rows == 0:
            return []
        sinks = self._sources[record.topic]
        batch = decode(record.value, sinks[0].step.row)
        made = (c for origin in sinks for c in origin.commands(batch, record.timestamp * 10**6))
        return [signed(c, self._settings.site, self._own) for c in made]


async def _commit(consumer: kafka.Client, place: kafka.Place, offset: int) -> None:
    try:
        await consumer.commit({place: offset})
    except kafka.KafkaError as e:  # then these alarms are read again some time, and their commands known by their ids
        log.warning("%s[%d]@%d is not committed: %s", place.topic, place.partition, offset, type(e).__name__)
