"""A broker with mTLS and ACLs, and the authority that it believes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from containers.acls import bearer
from containers.certs import Authority
from containers.embedded import EmbeddedKafka, Tls
from pipelines.clock import SystemClock
from pipelines.runtime import identity
from pipelines.settings import Settings
from tests.bed.engine import HOST_IN_CONTAINERS


@dataclass
class Fleet:
    """The broker of a fleet whose sites' admins are those named when it was started."""

    authority: Authority
    kafka: EmbeddedKafka

    def secrets(self, name: str, folder: Path, authority: Authority | None = None) -> Path:
        """The folder, with the three files of a principal."""
        authority = authority or self.authority
        issued = authority.issue(name)
        folder.mkdir(exist_ok=True)
        (folder / identity.CA_FILE).write_bytes(authority.certificate)
        (folder / identity.CERT_FILE).write_bytes(issued.certificate)
        (folder / identity.KEY_FILE).write_bytes(issued.key)
        return folder

    def become(self, name: str, folder: Path, authority: Authority | None = None) -> Path:
        """This test is `name` from here on."""
        self.secrets(name, folder, authority)
        of = Settings(site="s", brokers="-", pipeline="-", kafka_security="mtls", secrets_dir=str(folder))
        identity.become(name, of)
        return folder


@contextmanager
def running(folder: Path) -> Iterator[Fleet]:
    """A fleet, whose broker is reached at `.kafka.tls_bootstrap`, and from containers at `.kafka.advertised_bootstrap`."""
    authority = Authority(folder, SystemClock())
    authority.init()
    authority.issue("broker", ["127.0.0.1", HOST_IN_CONTAINERS])
    tls = Tls(folder / "ca.pem", folder / "broker.pem", tuple(ADMINS))
    with EmbeddedKafka(folder / "kafka", tls=tls, advertise=HOST_IN_CONTAINERS) as broker:
        yield Fleet(authority, broker)


def site_toml(fleet: Fleet, site: str) -> str:
    """What a site file says of this broker."""
    return f"""
site = "{site}"
pipeline = "tiny.py"
brokers = "{fleet.kafka.tls_bootstrap}"
partitions = 1
store = "file:///srv/parquet"
[kafka]
security = "mtls"
certs = "{fleet.authority.folder}"
"""


ADMINS = [bearer(site, "admin") for site in ("s", "hall1", "hall2", "whole", "bused", "least")]
