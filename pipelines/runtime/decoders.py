"""What reads the records of foreign topics: code that a source names, loaded where it is needed only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from pipelines.dead import DeadLetter
from pipelines.ports import Received, Surroundings
from pipelines.runtime.entries import made
from pipelines.wire import Frame


class Decoder(Protocol):
    """Reads the records of a topic that is not ours."""

    def frames(self, records: Sequence[Received]) -> tuple[list[Frame], list[DeadLetter]]:
        """Frames of consecutive records of one partition, and dead letters for those that cannot be used.

        What follows from them must not depend on how records were grouped into calls. `Lacking` if something must be fetched
        first.
        """
        ...


def decoder_of(source: Any, around: Surroundings) -> Decoder:
    """The decoder that a foreign source names; `ConfigError` if its code is not installed, or its files are not well."""
    decoder: Decoder = made(source.decoder, f"stream {source.stream}: its decoder {source.decoder}", source, around)
    return decoder
