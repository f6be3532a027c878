"""How Kafka runs as the broker of one site: its properties and Java's words, from the settings of the service. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipelines.errors import ConfigError
from pipelines.runtime import sizing
from pipelines.settings import Settings
from pipelines.units import duration_s, size_bytes

MESSAGE_BYTES_MAX = 8 * 2**20
CONTROLLER_PORT = 9093  # on the container's own loopback only
OF_CONTROLLER = "User:ANONYMOUS"  # who comes there; on the other listener nobody gets in without a certificate
RETENTION_EVERY_MS = 10_000  # Kafka's 5 minutes would let a partition grow by gigabytes between two looks
DELETE_DELAY_MS = 1_000
CHECKPOINT_EVERY_MS = 5_000  # of how far logs are on the disk: after a crash they are read again from there
TASK_DELAY_MS_MAX = 1_000
INDEX_BYTES_MAX = 2**20
FLUSH_S_MIN, FLUSH_S_MAX = 0.05, 3600.0
JVM_WORDS = (
    "-XX:+UseSerialGC",
    "-XX:+ExitOnOutOfMemoryError",  # and the engine starts it again
    "-XX:-CreateCoredumpOnCrash",
    "-XX:-UsePerfData",
    "-XX:MaxMetaspaceSize=96m",
    "-XX:ReservedCodeCacheSize=48m",
    "-Djdk.nio.maxCachedBufferSize=262144",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd HH:mm:ss,SSS",
)


@dataclass(frozen=True)
class BrokerSettings:
    """What the options of the service say."""

    site: str
    host: str  # under which the services of the site reach it
    port: int
    heap_bytes: int
    disk_bytes: int
    flush_ms: int
    jars: str

    @classmethod
    def of(cls, settings: Settings) -> BrokerSettings:
        """From a service's settings; `ConfigError` if an option is missing or wrong."""
        try:
            memory, disk, flush, jars = (settings.options[name] for name in ("memory", "disk", "flush", "jars"))
        except KeyError as e:
            raise ConfigError(f"the broker's settings have no option {e}: run  pipeline deploy") from e
        host, _, port = settings.brokers.rpartition(":")
        heap = sizing.heap_bytes(size_bytes(memory))
        return cls(settings.site, host, int(port), heap, size_bytes(disk), flush_ms(flush), jars)

    @property
    def principal(self) -> str:
        """Whom the broker lets do everything: itself. Its key is in its own container and nowhere else on the site."""
        return f"User:CN={self.site}-broker"

    def java(self, java: str, *main: str) -> list[str]:
        """The words that start one of Kafka's programs."""
        return [java, f"-Xmx{self.heap_bytes // 2**20}m", *JVM_WORDS, "-cp", f"{self.jars}/*", *main]

    def properties(self, data: Path, truststore: Path, keystore: Path) -> dict[str, str]:
        """server.properties: one node, both roles; certificates on the listener that others reach, and ACLs."""
        return {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@localhost:{CONTROLLER_PORT}",
            "listeners": f"BUS://0.0.0.0:{self.port},CONTROLLER://127.0.0.1:{CONTROLLER_PORT}",
            "advertised.listeners": f"BUS://{self.host}:{self.port}",
            "listener.security.protocol.map": "BUS:SSL,CONTROLLER:PLAINTEXT",
            "controller.listener.names": "CONTROLLER",
            "inter.broker.listener.name": "BUS",
            **_identity(truststore, keystore, self.principal),
            **_log(data, self.flush_ms, sizing.dedupe_bytes(self.heap_bytes)),
            **_own_topics(),
            "group.initial.rebalance.delay.ms": "0",
            "broker.session.timeout.ms": "6000",  # after a kill -9 the controller waits this long for the dead broker
            "broker.heartbeat.interval.ms": "1000",
            "num.network.threads": "2",
            "num.io.threads": "4",
        }


def flush_ms(text: str) -> int:
    """After how many milliseconds at most what was written is on the disk."""
    seconds = duration_s(text)
    if not FLUSH_S_MIN <= seconds <= FLUSH_S_MAX:
        raise ConfigError(f"kafka.flush = {text!r}: write a time from 50ms to 1h, such as '1s'")
    return round(seconds * 1000)


def _identity(truststore: Path, keystore: Path, principal: str) -> dict[str, str]:
    return {
        "ssl.client.auth": "required",
        "ssl.enabled.protocols": "TLSv1.3",
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(keystore),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(truststore),
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "allow.everyone.if.no.acl.found": "false",
        "super.users": f"{principal};{OF_CONTROLLER}",
    }


def _log(data: Path, flush: int, dedupe_bytes: int) -> dict[str, str]:
    return {
        "log.dirs": str(data),
        "auto.create.topics.enable": "false",
        "default.replication.factor": "1",
        "log.message.timestamp.type": "LogAppendTime",
        "message.max.bytes": str(MESSAGE_BYTES_MAX),
        "replica.fetch.max.bytes": str(MESSAGE_BYTES_MAX),
        # One broker has no replica to hold what a power cut takes. The first says how old what is not on the disk may get, the
        # second how often Kafka looks (by default never), the third when it begins to (by default after half a minute).
        "log.flush.interval.ms": str(flush),
        "log.flush.scheduler.interval.ms": str(flush),
        "log.initial.task.delay.ms": str(min(flush, TASK_DELAY_MS_MAX)),
        "log.flush.offset.checkpoint.interval.ms": str(max(CHECKPOINT_EVERY_MS, flush)),
        "log.retention.ms": "-1",
        "log.retention.check.interval.ms": str(RETENTION_EVERY_MS),
        "log.segment.delete.delay.ms": str(DELETE_DELAY_MS),
        "log.index.size.max.bytes": str(INDEX_BYTES_MAX),
        "log.cleaner.dedupe.buffer.size": str(dedupe_bytes),
    }


def _own_topics() -> dict[str, str]:
    segment = str(sizing.SEGMENT_BYTES_MIN)
    return {
        "offsets.topic.replication.factor": "1",
        "offsets.topic.num.partitions": "4",
        "offsets.topic.segment.bytes": segment,
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
        "transaction.state.log.num.partitions": "4",
        "transaction.state.log.segment.bytes": segment,
        "share.coordinator.state.topic.replication.factor": "1",
        "share.coordinator.state.topic.min.isr": "1",
        "metadata.log.segment.bytes": segment,
        "metadata.max.retention.bytes": str(4 * sizing.SEGMENT_BYTES_MIN),
    }
