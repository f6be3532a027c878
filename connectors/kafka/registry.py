"""What a schema registry says of an id, over Confluent's API: GET and nothing else, on one host. urllib3 speaks HTTP."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar
from urllib.parse import quote

import msgspec
import urllib3

from connectors.columns import shown
from connectors.kafka.payload import Registry
from connectors.secrets import authorization, trusted
from pipelines.errors import BadData, ConfigError, Unavailable

A = TypeVar("A", bound=msgspec.Struct)
Kind = Literal["AVRO", "PROTOBUF"]
TIMEOUT_S = 10.0  # of one answer
ANSWER_BYTES_MAX = 4 * 2**20
REFERENCES_MAX = 100  # of a schema, and of those that it refers to
_FILE = "write file= with the output of protoc, and framed=True"
_ACCEPT = "application/vnd.schemaregistry.v1+json, application/json"


@dataclass(frozen=True, slots=True)
class Registered:
    """A schema as the registry gave it: its text, and those that it refers to, by name, each before who refers to it."""

    text: str
    references: tuple[tuple[str, str], ...]


class _Reference(msgspec.Struct):
    name: str
    subject: str
    version: int


class _Answer(msgspec.Struct):
    schema: str
    schemaType: str = "AVRO"  # which registries leave out
    references: list[_Reference] | None = None


class _Refusal(msgspec.Struct):
    error_code: int
    message: str = ""


class Client:
    """Asks one registry. Blocks, so it is called in a thread; of one at a time."""

    def __init__(self, registry: Registry, kind: Kind, secrets_dir: Path) -> None:
        """`kind`: what the topic's schemas must be. `ConfigError` if a secret is missing or cannot be used."""
        self._url, self._kind = registry.url.rstrip("/"), kind
        account = authorization(registry.token, registry.username, registry.password, secrets_dir)
        headers = {"Accept": _ACCEPT, **account}
        if not all(value.isascii() and value.isprintable() for value in headers.values()):
            raise ConfigError("kafka registry: the secret token= has characters that no header can have")
        tls = trusted(registry.ca, secrets_dir) if self._url.startswith("https:") else None
        self._http = urllib3.PoolManager(
            headers=headers, timeout=TIMEOUT_S, retries=False, ssl_context=tls
        )  # follows nobody elsewhere

    def schema(self, number: int) -> Registered:
        """The schema with that id.

        `BadData` if there is none (reason `unknown_schema`) or it is of another kind; `Unavailable` if the registry does not
        answer, or not as a registry does, or lets nobody in with this account.
        """
        answer = self._get(f"/schemas/ids/{number}", f"the schema {number}")
        if answer.schemaType != self._kind:
            raise BadData(
                f"schema {number} is of the kind {answer.schemaType}, and payload= says {self._kind}",
                reason="schema_kind",
            )
        found: dict[str, str] = {}
        self._follow(answer, found, number)
        return Registered(answer.schema, tuple(found.items()))

    def _follow(self, answer: _Answer, found: dict[str, str], number: int) -> None:
        for r in answer.references or ():
            if r.name in found:
                continue
            if len(found) >= REFERENCES_MAX:
                raise BadData(f"schema {number} refers to more than {REFERENCES_MAX} others", reason="schema_unusable")
            place = f"/subjects/{quote(r.subject, safe='')}/versions/{r.version}"
            found[r.name] = ""  # schemas cannot refer to each other in a circle, but an answer could
            referred = self._get(place, f"{r.subject}, version {r.version}, to which schema {number} refers")
            self._follow(referred, found, number)
            del found[r.name]  # behind those that it refers to
            found[r.name] = referred.schema

    def _get(self, path: str, what: str) -> _Answer:
        url = self._url + path
        query = {"format": "serialized"} if self._kind == "PROTOBUF" else {}
        try:
            with self._http.request("GET", url, fields=query, preload_content=False) as response:
                status, content = response.status, response.read(ANSWER_BYTES_MAX + 1)
        except (urllib3.exceptions.HTTPError, OSError) as e:
            raise Unavailable(f"the schema registry does not answer: {url}: {_short(e)}") from e
        if status == 200 and len(content) <= ANSWER_BYTES_MAX:
            answer = _parsed(content, _Answer, url)
            if answer.schemaType == "PROTOBUF" == self._kind and not _is_base64(answer.schema):
                raise Unavailable(
                    f"the schema registry does not give descriptors: {url} answers {shown(content)}; {_FILE}"
                )
            return answer
        if status in (401, 403):
            raise Unavailable(
                f"the schema registry lets nobody in with this account ({status}): {url}: mend its secret"
            )
        if status == 404 and 40401 <= _parsed(content, _Refusal, url).error_code <= 40499:
            raise BadData(f"the schema registry {self._url} does not know {what}", reason="unknown_schema")
        cure = f"; if it has no descriptors to give, {_FILE}" if self._kind == "PROTOBUF" else ""
        raise Unavailable(f"the schema registry does not give {what}: {url} answers {status} {shown(content)}{cure}")


def _parsed(content: bytes, kind: type[A], url: str) -> A:
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as e:
        raise Unavailable(
            f"{url} does not answer as a schema registry does ({shown(content)}): correct the url= of kafka.Registry"
        ) from e


def _is_base64(text: str) -> bool:
    try:
        base64.b64decode(text, validate=True)
    except ValueError:
        return False
    return True


def _short(error: Exception) -> str:
    """urllib3's text begins with the place of an object in memory."""
    return str(error).rpartition(">: ")[2] or type(error).__name__
