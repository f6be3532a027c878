"""Secrets that are named, not written down: 'file:PATH' or 'env:NAME' on the operator's machine."""

from __future__ import annotations

import os
from pathlib import Path

from pipelines.errors import ConfigError


def resolve(reference: str, field: str, folder: Path = Path()) -> bytes:
    """What a reference leads to, without a line's end; `ConfigError`, which names the `field` and never shows a value."""
    kind, _, where = reference.partition(":")
    if kind not in ("file", "env") or not where:
        raise ConfigError(f"{field} is not a reference: write 'file:PATH' or 'env:NAME', never the secret itself")
    try:
        content = os.environ[where].encode() if kind == "env" else (folder / where).read_bytes()
    except KeyError as e:
        raise ConfigError(f"{field}: the environment variable {where} is not set: export it first") from e
    except OSError as e:
        raise ConfigError(
            f"{field}: the file {folder / where} cannot be read ({e.strerror}): put the secret there"
        ) from e
    if not content.strip():
        raise ConfigError(f"{field}: {reference} is empty")
    return content.removesuffix(b"\n").removesuffix(b"\r")
