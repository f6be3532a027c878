"""Who may speak to control's HTTP API, and how often. Pure: times are given.

A token lets somebody hand in commands and see what became of them. It gives no right to command anything: a signature does.
"""

from __future__ import annotations

from connectors.bucket import Bucket
from connectors.secrets import digest, lines_of, place_of
from pipelines.errors import ConfigError

TOKEN_CHARS_MIN = 16  # a shorter one can be guessed
TOKENS_MAX = 100
RATE_PER_S_MAX = 10.0  # requests of one token, in the long run
BURST_MAX = 50  # at once
STRANGERS_PER_S_MAX = 2.0  # requests of all who have no token that is known


class Tokens:
    """The tokens that are known, as SHA-256, each with its bucket."""

    def __init__(self, text: str) -> None:
        """From a secret with a token on each line; `ConfigError` if it holds none, or one that can be guessed."""
        given = list(dict.fromkeys(lines_of(text)))
        if not 1 <= len(given) <= TOKENS_MAX:
            raise ConfigError(f"secret api_tokens has {len(given)} tokens: write 1 to {TOKENS_MAX}, each on a line")
        for number, token in enumerate(given, 1):
            if len(token) < TOKEN_CHARS_MIN or " " in token:
                raise ConfigError(
                    f"secret api_tokens: token {number} cannot be used: write at least {TOKEN_CHARS_MIN} characters without "
                    "spaces, such as  openssl rand -hex 32  makes"
                )
        self._known = [digest(token.encode()) for token in given]
        self._buckets = [Bucket(RATE_PER_S_MAX, BURST_MAX) for _ in given]
        self._strangers = Bucket(STRANGERS_PER_S_MAX, BURST_MAX)

    def admit(self, authorization: str, now_s: float) -> tuple[int, int]:
        """(status, seconds) for a request with this header Authorization: 0 if it may be made, or 401, or 429 and when it may.

        The time that it takes does not say which was nearly right.
        """
        scheme, _, given = authorization.partition(" ")
        found = place_of(given.strip().encode(errors="surrogateescape"), self._known)
        known = None if found is None or scheme.lower() != "bearer" else self._buckets[found]
        bucket = known or self._strangers
        wait_s = bucket.wait_s(now_s)
        if wait_s:
            return 429, wait_s
        bucket.take()
        return (0 if known else 401), 0
