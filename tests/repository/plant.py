"""A fleet's keys, a site that trusts them, and statements good and bad."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, Root

from containers.repository.statement import CREATED, TIME_FORMAT, Verified, sign, signed
from containers.repository.trust import TrustStore, verify
from pipelines.clock import ManualClock

START = datetime(2026, 6, 1, tzinfo=UTC)
PATH, DOCUMENT = "site/hall1", b'{"run":"release 7"}'


def at(moment: datetime) -> int:
    return int(moment.timestamp()) * 10**9


def signers(count: int) -> list[CryptoSigner]:
    return [CryptoSigner.generate_ed25519() for _ in range(count)]


ROOT_KEYS, RELEASE_KEYS, THIEVES = signers(3), signers(2), signers(3)


def make_root(
    version: int = 1, *, roots: list[CryptoSigner] = ROOT_KEYS, release: list[CryptoSigner] = RELEASE_KEYS, threshold: int = 2,
    release_threshold: int = 1, by: list[CryptoSigner] | None = None, days: int = 365, created: datetime = START,
) -> bytes:  # fmt: skip
    """A root, signed by `by`, else by all keys that it names."""
    root = Root(version, expires=created + timedelta(days=days))
    for key in roots:
        root.add_key(key.public_key, "root")
    for key in release:
        root.add_key(key.public_key, "targets")
    root.roles["root"].threshold, root.roles["targets"].threshold = threshold, release_threshold
    root.unrecognized_fields[CREATED] = f"{created:{TIME_FORMAT}}"
    return signed(Metadata(root), roots if by is None else by)


@dataclass
class Site:
    """A site's trust store and its clock, which stands a day after the root was made."""

    folder: Path
    root: bytes = field(default_factory=make_root)
    clock: ManualClock = field(default_factory=lambda: ManualClock(at(START + timedelta(days=1))))

    def __post_init__(self) -> None:
        self.trusted = TrustStore(self.folder)
        self.trusted.init(self.root)

    def verify(self, statement: bytes, *, path: str = PATH, document: bytes = DOCUMENT) -> Verified:
        return verify(TrustStore(self.folder), statement, path, document, self.clock)


def say(
    version: int = 1,
    *,
    document: bytes = DOCUMENT,
    path: str = PATH,
    days: float = 30,
    by: list[CryptoSigner] | None = None,
) -> bytes:
    """A statement, by default a good one."""
    return sign(document, path, version, START + timedelta(days=days), RELEASE_KEYS[:1] if by is None else by)
