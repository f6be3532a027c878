"""What `collect` says to control of edge nodes whose births it lacks: a record of `{site}.control.rebirth`. Bytes <-> values."""

from __future__ import annotations

import msgspec

from pipelines.errors import BadData

WISH_BYTES_MAX = 2**20


class Wish(msgspec.Struct, frozen=True):
    """`nodes`, as 'group/node', have to be born again, since `stream` cannot be read else, or not be trusted."""

    stream: str
    nodes: tuple[str, ...]

    def encode(self) -> bytes:
        """As JSON."""
        return msgspec.json.encode(self)


def decode(raw: bytes | None) -> Wish:
    """The wish of a Kafka record; `BadData` if it is none."""
    if not raw or len(raw) > WISH_BYTES_MAX:
        raise BadData(f"a wish has 1 to {WISH_BYTES_MAX} bytes, this one {len(raw or b'')}", reason="size")
    try:
        return msgspec.json.decode(raw, type=Wish)
    except (msgspec.DecodeError, ValueError) as e:
        raise BadData(f"not a wish for births: {e}", reason="wish") from e
