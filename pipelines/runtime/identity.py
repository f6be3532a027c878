"""Who this process is to the brokers: nobody in particular (plaintext), or the service that its certificate names (mTLS).

Three files in the folder of secrets. They are read anew for each client, and shown to ourselves first as a broker would see them:
of a certificate that has expired aiokafka would say only that no broker answers.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.errors import ConfigError
from pipelines.settings import Settings

CA_FILE, CERT_FILE, KEY_FILE = "kafka-ca.pem", "kafka-cert.pem", "kafka-key.pem"
PROBE_S_MAX = 5.0  # for a handshake
ALERT_S_MAX = 1.0  # a broker's refusal of a certificate comes just after the handshake (TLS 1.3)
_CURE = "run  pipeline deploy , which renews certificates"


@dataclass(frozen=True)
class Identity:
    """A service with its certificate, private key and the authority that signed both sides' certificates."""

    service: str
    folder: Path

    def context(self) -> ssl.SSLContext:
        """For connections to brokers; `ConfigError` if a file is missing or a broker would have to refuse us."""
        for name in (CA_FILE, CERT_FILE, KEY_FILE):
            if not (self.folder / name).is_file():
                raise ConfigError(
                    f"{self.service}: {self.folder / name} is missing: {_CURE.replace('renews', 'issues')}"
                )
        try:
            mine = ssl.create_default_context(cafile=self.folder / CA_FILE)
            mine.load_cert_chain(self.folder / CERT_FILE, self.folder / KEY_FILE)
        except (ssl.SSLError, OSError) as e:
            raise ConfigError(f"{self.service}: {self._mismatch(e)}: {_CURE}") from e
        self._show_to_ourselves(mine)
        return mine

    def _mismatch(self, error: OSError) -> str:
        if isinstance(error, ssl.SSLError) and error.reason == "KEY_VALUES_MISMATCH":
            return f"{self.folder / KEY_FILE} is not the key of {self.folder / CERT_FILE}"
        return f"the certificates in {self.folder} cannot be read ({error})"

    def _show_to_ourselves(self, mine: ssl.SSLContext) -> None:
        broker, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        client.check_hostname, client.verify_mode, broker.verify_mode = False, ssl.CERT_NONE, ssl.CERT_REQUIRED
        broker.load_verify_locations(self.folder / CA_FILE)
        for side in (broker, client):
            side.load_cert_chain(self.folder / CERT_FILE, self.folder / KEY_FILE)
        try:
            _shake_hands(broker, client)
        except ssl.SSLCertVerificationError as e:
            raise ConfigError(
                f"{self.service}: brokers will refuse {self.folder / CERT_FILE}: {e.verify_message}: {_CURE}"
            ) from e


def _shake_hands(server: ssl.SSLContext, client: ssl.SSLContext) -> None:
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = client.wrap_bio(down, up), server.wrap_bio(up, down, server_side=True)
    for _ in range(2):  # hello and its answer, then the client's certificate
        for side in sides:
            with contextlib.suppress(ssl.SSLWantReadError):
                side.do_handshake()


_identity: ContextVar[Identity | None] = ContextVar("identity", default=None)


def become(service: str, settings: Settings) -> None:
    """All Kafka clients made from here on, in this task and those it starts, are this service's."""
    _identity.set(Identity(service, Path(settings.secrets_dir)) if settings.kafka_security == "mtls" else None)


def current() -> Identity | None:
    """Who we are; None if nobody in particular."""
    return _identity.get()


def security() -> dict[str, Any]:
    """What any aiokafka client needs to know; `ConfigError` as `Identity.context`."""
    who = current()
    return {"security_protocol": "SSL", "ssl_context": who.context()} if who else {}


async def why_not(brokers: str) -> ConfigError | None:
    """What is wrong between us and the first broker that can be reached at all; None if it is not about certificates."""
    who = current()
    for broker in brokers.split(",") if who else ():
        host, _, port = broker.strip().rpartition(":")
        try:
            async with asyncio.timeout(PROBE_S_MAX):
                reader, writer = await asyncio.open_connection(host.strip("[]"), int(port), ssl=who and who.context())
        except (ssl.SSLError, ConnectionResetError) as e:
            return ConfigError(f"{who and who.service}: {_no_handshake(broker, e)}")
        except (OSError, TimeoutError):
            continue
        try:
            async with asyncio.timeout(ALERT_S_MAX):
                await reader.read(1)
        except ssl.SSLError as e:
            return ConfigError(
                f"{who and who.service}: the broker at {broker} refuses our certificate ({e.reason}): {_CURE}"
            )
        except (OSError, TimeoutError):
            pass
        finally:
            writer.transport.abort()
        break
    return None


def _no_handshake(broker: str, error: OSError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"the broker at {broker} shows a certificate that cannot be trusted ({error.verify_message}): it must be issued by "
            f"this fleet's authority ({CA_FILE}) for the name in `brokers`:  pipeline certs broker"
        )
    return f"the broker at {broker} does not speak TLS ({str(error) or type(error).__name__}): name its TLS port in `brokers`"
