"""How messages of a foreign topic are written, if not as JSON: Avro or Protobuf, with a registry or a file. Descriptions only."""

from __future__ import annotations

import re
from dataclasses import dataclass

from connectors.options import http_login, secrets
from connectors.secrets import Secret
from pipelines.errors import PlanError
from pipelines.ports import lies_beside
from pipelines.urls import masked, parts_of

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
        url = parts_of(self.url, "http", "https")
        if url is None or url.query or url.fragment:
            raise PlanError(
                f"kafka registry url={masked(self.url)!r}: "
                "write 'https://host:8081', and username= and password=, or token=, apart"
            )
        http_login("kafka registry", self.token, self.username, self.password)
        secrets("kafka registry", ca=self.ca)
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
        if self.file is not None and not lies_beside(self.file):
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
