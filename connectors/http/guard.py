"""Who may post: bearer tokens and Basic accounts, compared in a time that tells nothing. Pure."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass

from connectors.secrets import digest, lines_of, place_of
from pipelines.errors import ConfigError

TOKEN_CHARS_MIN = 16  # a shorter one can be guessed
LINES_MAX = 1_000


@dataclass(frozen=True)
class Guard:
    """SHA-256 of each token, and of each 'name:password'."""

    tokens: tuple[bytes, ...] = ()
    users: tuple[bytes, ...] = ()

    @classmethod
    def of(cls, tokens: str | None, users: str | None) -> Guard:
        """From the text of the secrets; `ConfigError` if one holds nothing that could be used."""
        return cls(
            _digests(_lines("tokens", tokens, "a token of at least 16 characters on each line")),
            _digests(_lines("users", users, "'name:password' on each line, the password of at least 16 characters")),
        )

    @property
    def challenge(self) -> str:
        """What is asked of those who are not let in (RFC 9110, 11.6.1)."""
        return ", ".join([*(["Bearer"] if self.tokens else []), *(['Basic realm="sitestream"'] if self.users else [])])

    def who(self, authorization: str) -> str | None:
        """Whose the header Authorization is, such as 'token 1', by the number of its line; None if nobody's."""
        scheme, _, given = authorization.partition(" ")
        if scheme.lower() == "bearer":
            return _numbered("token", place_of(given.strip().encode(errors="surrogateescape"), self.tokens))
        if scheme.lower() == "basic":
            try:
                return _numbered("account", place_of(base64.b64decode(given.strip(), validate=True), self.users))
            except (binascii.Error, ValueError):
                return None
        return None


def _numbered(what: str, place: int | None) -> str | None:
    return None if place is None else f"{what} {place + 1}"


def _lines(name: str, text: str | None, what: str) -> list[str]:
    lines = lines_of(text or "")
    if text is not None and not 1 <= len(lines) <= LINES_MAX:
        raise ConfigError(f"http push {name}: the secret has {len(lines)} lines: write {what}, 1 to {LINES_MAX}")
    for number, line in enumerate(lines, 1):
        secret = line if name == "tokens" else line.partition(":")[2]
        if len(secret) < TOKEN_CHARS_MIN or (name == "tokens" and " " in secret):
            raise ConfigError(f"http push {name}: line {number} of the secret cannot be used: write {what}")
    return lines


def _digests(lines: Sequence[str]) -> tuple[bytes, ...]:
    return tuple(digest(line.encode()) for line in lines)
