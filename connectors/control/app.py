"""The Faust app: an agent on the command topic.

Faust as it is would not do, and each setting below answers something seen, or read in its source (faust-streaming 0.15): it
reads uncommitted records, lets a fetch wait 1.5 s on idle partitions, acknowledges an event whose agent failed or was cancelled,
and leaves the group waiting 60 s for a dead worker. Its tables write their changelog without fencing, so that a frozen worker
that wakes up overwrites what its successor wrote (seen: a command that had SUCCEEDED was QUEUED again), and they never finish
a recovery whose last record is the marker of a transaction: so the ledger is not one of them (`connectors.control.account`).
"""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import faust
from faust.transport.drivers import aiokafka as driver
from mode.threads import WorkerThread

from connectors.control.desk import Desk
from pipelines import topics
from pipelines.errors import ConfigError
from pipelines.runtime import identity, kafka
from pipelines.runtime.serve import Health
from pipelines.settings import Settings

SESSION_TIMEOUT_S, HEARTBEAT_S, REQUEST_TIMEOUT_S = 10.0, 3.0, 11.0
STOP_S_MAX = 5.0


class _Thread(WorkerThread):
    """Cannot keep the process from ending. mode's own blocks the event loop until its thread is done, however long."""

    def __init__(self, service: Any) -> None:
        super().__init__(service)
        self.daemon = True

    def run(self) -> None:
        with contextlib.suppress(asyncio.CancelledError, kafka.KafkaError):  # so it ends when Kafka is away
            super().run()

    def stop(self) -> None:
        self.is_stopped.wait(STOP_S_MAX)


class _ConsumerThread(driver.AIOKafkaConsumerThread):
    """Reads only what is committed, and without long waits. Faust has no settings for either."""

    Worker = _Thread

    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)
        for name, value in {"_isolation_level": "read_committed", "_fetch_max_wait_ms": kafka.FETCH_WAIT_MS}.items():
            getattr(consumer, name)  # an aiokafka that calls it otherwise must fail here, not read aborted commands
            setattr(consumer, name, value)
        return consumer


class _Consumer(driver.Consumer):
    def _new_consumer_thread(self) -> _ConsumerThread:
        return _ConsumerThread(self, loop=self.loop, beacon=self.beacon)


class _Transport(driver.Transport):
    Consumer = _Consumer


def app_of(settings: Settings, desk: Desk, health: Health) -> faust.App:
    """The app, not started; `ConfigError` if `data_dir` cannot be written to."""
    app = faust.App(
        f"{settings.site}.control",
        broker_credentials=identity.security().get("ssl_context"),  # an SSLContext, or None
        broker=";".join(f"kafka://{b.strip()}" for b in settings.brokers.split(",")),
        datadir=str(_folder(settings)),
        store="memory://",
        broker_session_timeout=SESSION_TIMEOUT_S,
        broker_heartbeat_interval=HEARTBEAT_S,
        broker_request_timeout=REQUEST_TIMEOUT_S,
        broker_commit_interval=1.0,
        topic_allow_declare=False,
        topic_disable_leader=True,
        stream_recovery_delay=0,
        web_enabled=False,
        autodiscover=False,
    )
    app.transport = _Transport(app.conf.broker_consumer, app)
    raw: dict[str, Any] = {"key_type": bytes, "value_type": bytes, "key_serializer": "raw", "value_serializer": "raw"}

    async def assigned(*_: Any, **__: Any) -> None:
        health.set(commands=True)

    async def revoked(*_: Any, **__: Any) -> None:
        health.set(commands=False)

    async def commands(stream: Any) -> None:
        manual = stream.noack()
        async for event in manual.events():
            at = event.message
            try:
                origin = f"{at.topic}[{at.partition}]@{at.offset}"
                await desk.receive(at.value, at.key, at.partition, origin, int(at.timestamp * 10**9))
            except Exception as e:
                await app.crash(e)  # which ends the service; this command is not acknowledged, so it is read again
                return
            await manual.ack(event)

    app.on_rebalance_complete.connect(assigned, weak=False)
    app.on_partitions_revoked.connect(revoked, weak=False)
    topic = app.topic(topics.commands(settings.site), allow_empty=True, **raw)
    app.agent(topic, name="commands", concurrency=1)(commands)
    return app


def _folder(settings: Settings) -> Path:
    folder = Path(settings.data_dir) / "faust"  # Faust wants one, and keeps nothing in it
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise ConfigError(f"data_dir {settings.data_dir} cannot be written to: {e.strerror}") from e
    return folder
