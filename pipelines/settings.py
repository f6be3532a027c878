"""What a service is told when it starts: one JSON file, written by deploy, the same form for every service."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Literal, TypeVar

import msgspec

from pipelines.errors import ConfigError


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Settings of one service on one site."""

    site: str
    brokers: str  # host:port[,host:port]
    pipeline: str  # path of the pipeline file, optionally ':variable'
    partitions: int = 4  # of every topic of the site
    data_dir: str = "/data"  # spool and other local state of this service
    store: str = ""  # URL where upload puts files: file:///… or s3://bucket/prefix
    secrets_dir: str = "/run/secrets"  # one file for each secret
    kafka_security: Literal["plaintext", "mtls"] = (
        "plaintext"  # mtls: with the files that pipelines.runtime.identity names
    )
    metrics_port: int = 9400
    log_level: str = "INFO"
    devices: str = ""  # what devices may be told, and by whom: the text of devices.toml
    options: dict[str, str] = {}  # further settings by name, such as s3_endpoint


T = TypeVar("T", bound=msgspec.Struct)


def load(path: str | Path) -> Settings:
    """Read a settings file; `ConfigError` says which file, which field and what is allowed."""
    try:
        raw = Path(path).read_bytes()
    except OSError as e:
        raise ConfigError(f"{path}: cannot be read: {e.strerror}") from e
    return decode_strict(raw, Settings, str(path), fmt="json")


def decode_strict(raw: bytes, into: type[T], where: str, *, fmt: str) -> T:
    """Decode JSON or TOML into a struct; every error names the place and, for a misspelt field, the nearest right one."""
    try:
        return msgspec.toml.decode(raw, type=into) if fmt == "toml" else msgspec.json.decode(raw, type=into)
    except msgspec.ValidationError as e:
        raise ConfigError(f"{where}: {explain(str(e), into)}") from e
    except (msgspec.DecodeError, ValueError) as e:
        raise ConfigError(f"{where}: is not {fmt.upper()}: {e}") from e


def explain(message: str, into: type[msgspec.Struct]) -> str:
    """msgspec's message, with a suggestion where a field is misspelt."""
    unknown = re.search(r"unknown field `([^`]+)`", message)
    if unknown is None:
        return message
    near = difflib.get_close_matches(unknown[1], sorted(_fields(into)), 1, 0.6)
    return message + (f": did you mean `{near[0]}`?" if near else "")


def _fields(of: object) -> set[str]:
    """Names of all fields of a struct and of the structs within it."""
    names: set[str] = set()
    if isinstance(of, type) and issubclass(of, msgspec.Struct):
        for f in msgspec.structs.fields(of):
            names |= {f.encode_name} | _fields(f.type)
    for arg in getattr(of, "__args__", ()):
        names |= _fields(arg)
    return names
