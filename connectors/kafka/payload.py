"""How messages of a foreign topic are written, if not as JSON: Avro or Protobuf, with a registry or a file. Descriptions only."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import urlsplit

from connectors.secrets import Secret
from pipelines.errors import PlanError

_MESSAGE = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*")


@dataclass(frozen=True, kw_only=True)
class Registry:
    """A schema registry with Confluent's API: Confluent's own, Karapace, Redpanda, Apicurio (`https://host/apis/ccompat/v7`).

    `process` asks it for each schema id once. `token`: a secret for `Authorization: Bearer`; or `username` and `password`. `ca`:
    a secret with the CA's certificates (PEM); else the system's are trusted.
    """

    url: str
    username: str | None = None
    password: Secret | None = None
    token: Secret | None = None
    ca: Secret | None = None

    def __post_init__(self) -> None:
        """`PlanError` says what is wrong."""
        if not _is_url(self.url):
            shown = re.sub(r"//[^@/]*@", "//…@", self.url)
            raise PlanError(
                f"kafka registry url={shown!r}: write 'https://host:8081', and username= and password=, or token=, apart"
            )
        for option, value in (("password", self.password), ("token", self.token), ("ca", self.ca)):
            if value is not None and not isinstance(value, Secret):
                raise PlanError(f'kafka registry {option}: write secret("name of a file in secrets_dir")')
        if (self.username is None) != (self.password is None) or (self.token and self.password):
            raise PlanError('kafka registry: write token=secret("…"), or username="…" and password=secret("…")')
        if self.username is not None and ":" in self.username:
            raise PlanError(f"kafka registry username={self.username!r}: a colon ends it")
        if self.ca is not None and not self.url.startswith("https:"):
            raise PlanError(f"kafka registry ca: {self.url} has no certificate to check: write https://")


@dataclass(frozen=True, kw_only=True)
class _Payload:
    registry: Registry | None = None
    file: str | None = None
    framed: bool = False

    def __post_init__(self) -> None:
        """`PlanError` says what is wrong."""
        kind = f"kafka {type(self).__name__}"
        if (self.registry is None) == (self.file is None):
            raise PlanError(
                f"{kind}: write registry=kafka.Registry(url=…), or file= with the schema's file: one of them"
            )
        if self.file is not None and not _is_beside(self.file):
            raise PlanError(
                f"{kind} file={self.file!r}: write the path of a file that lies beside the pipeline file or below it"
            )
        if self.registry is not None and self.framed:
            raise PlanError(f"{kind} framed: messages of a registry have its framing always: leave it out")

    @property
    def has_frame(self) -> bool:
        """Whether messages begin with byte 0 and the schema's id (Confluent's wire format)."""
        return self.registry is not None or self.framed

    def describe(self) -> dict[str, str]:
        """For graphs, plans and fingerprints."""
        return {type(self).__name__.lower(): self.registry.url if self.registry else str(self.file)}


@dataclass(frozen=True, kw_only=True)
class Avro(_Payload):
    """Messages in Avro's binary encoding, of the schema that the `registry` has for the id they begin with, or of the one in
    `file` (JSON, `.avsc`), which lies beside the pipeline file. With a file messages are bare; `framed=True` if they begin with
    byte 0 and an id all the same, which is not looked at.
    """


@dataclass(frozen=True, kw_only=True)
class Protobuf(_Payload):
    """Messages of Protobuf, of the descriptors that the `registry` has for the id they begin with, or of those in `file`, a set
    as `protoc --include_imports --descriptor_set_out` writes it, which lies beside the pipeline file. `message`: the full name
    of the message, such as 'plant.Meter'; with a registry messages tell it themselves. For `framed` see `Avro`.
    """

    message: str | None = None

    def __post_init__(self) -> None:
        """`PlanError` says what is wrong."""
        super().__post_init__()
        if (self.file is None) != (self.message is None):
            raise PlanError("kafka Protobuf message: it is needed with file=, and not with registry=")
        if self.message is not None and not _MESSAGE.fullmatch(self.message):
            raise PlanError(f"kafka Protobuf message={self.message!r}: write its full name, such as 'plant.Meter'")


def _is_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return False
    apart = parts.username or parts.password or parts.query or parts.fragment
    return parts.scheme in ("http", "https") and bool(parts.hostname) and port != 0 and not apart


def _is_beside(path: str) -> bool:
    parts = PurePosixPath(path)
    return bool(parts.parts) and not parts.is_absolute() and ".." not in parts.parts
