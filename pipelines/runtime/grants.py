"""Makes the topics of a site and gives its services their rights, as somebody who may.

For a broker that is a container of the site, `python -m pipelines.runtime.grants --config FILE REQUEST` does so inside it: its
identity is the only one that may, and never leaves it. The answer is a line of JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import sys
import zlib
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from pipelines.errors import ConfigError, SitestreamError, Unavailable
from pipelines.runtime import identity, kafka, sizing
from pipelines.runtime.kafka import Acl
from pipelines.runtime.service import set_up_logging
from pipelines.settings import load
from pipelines.topics import Topic, compacted, data

READY_S_MAX, RETRY_S = 60.0, 1.0  # for a broker that is just starting
WORD_BYTES_MAX = 128 * 1024  # Linux takes no longer word


class Request(msgspec.Struct, frozen=True):
    """What there must be. Nobody of `principals` may have more than `acls` say; what they have too much goes with `revoke`."""

    topics: tuple[Topic, ...]
    acls: tuple[Acl, ...]
    principals: tuple[str, ...]
    revoke: bool
    disk_bytes: int = 0  # what all topics together may take; 0: as each says

    def word(self) -> str:
        """As one word of a command; `ConfigError` if it would be too long."""
        word = base64.b64encode(zlib.compress(msgspec.json.encode(self))).decode()
        if len(word) >= WORD_BYTES_MAX:
            raise ConfigError(
                f"the pipeline has too many topics for one broker ({len(self.topics):,}): split it in two"
            )
        return word

    @classmethod
    def of(cls, word: str) -> Request:
        """What `word` made."""
        return msgspec.json.decode(zlib.decompress(base64.b64decode(word)), type=cls)


class Answer(NamedTuple):
    """How many rights were missing, and how many were too many."""

    added: int
    removed: int


async def carry_out(brokers: str, request: Request) -> Answer:
    """Do it. `ConfigError` if the topics do not fit on the disk, or if the broker refuses us."""
    topics = request.topics
    if request.disk_bytes:
        topics = await _fitted(brokers, topics, request.disk_bytes)
    await kafka.ensure(brokers, topics)
    added, removed = await kafka.set_acls(brokers, request.acls, request.principals, revoke=request.revoke)
    return Answer(len(added), len(removed))


async def _fitted(brokers: str, wanted: Sequence[Topic], disk_bytes: int) -> tuple[Topic, ...]:
    """The topics with retentions that leave room for those which an earlier pipeline has left; all that are there get theirs."""
    there = {t.name: t for t in await kafka.topics_there(brokers)}
    left = [_plain(t) for name, t in there.items() if name not in {w.name for w in wanted}]
    fitted = sizing.fitted([*wanted, *left], disk_bytes)
    changed = [t for f in fitted if f.name in there and (t := _with(there[f.name], f)) != there[f.name]]
    if changed:
        await kafka.configure(brokers, changed)
    return fitted[: len(wanted)]


def _plain(left: Topic) -> Topic:
    """A topic that nobody uses any more, as it would be made anew: what it has now is its share, not what it asks for."""
    return (compacted if sizing.is_compacted(left) else data)(left.name, left.partitions)


def _with(there: Topic, fitted: Topic) -> Topic:
    """A topic with its new limits."""
    limits = {k: v for k, v in fitted.settings if k in ("retention.bytes", "segment.bytes")}
    return Topic(there.name, there.partitions, tuple({**dict(there.settings), **limits}.items()))


async def _once_it_answers(brokers: str, request: Request) -> Answer:
    until_s = asyncio.get_running_loop().time() + READY_S_MAX
    while True:
        try:
            return await carry_out(brokers, request)
        except (Unavailable, kafka.KafkaError) as e:
            kafka.raise_refusal(e)
            if asyncio.get_running_loop().time() > until_s:
                raise Unavailable(f"the broker does not do as it is asked: {e or type(e).__name__}") from e
            await asyncio.sleep(RETRY_S)


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code: 1 after an error, which is a line on stderr."""
    parser = argparse.ArgumentParser(prog="grants", description="Make topics and give rights, inside the broker.")
    parser.add_argument("--config", required=True, metavar="FILE", help="JSON of pipelines.settings.Settings")
    parser.add_argument("request", metavar="REQUEST")
    given = parser.parse_args(argv)
    try:
        settings = load(given.config)
        set_up_logging("ERROR")
        identity.become("broker", settings)
        answer = asyncio.run(_once_it_answers(settings.brokers, Request.of(given.request)))
    except SitestreamError as e:
        print(e, file=sys.stderr)
        return 1
    print(msgspec.json.encode(answer).decode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
