"""When `collect` says which edge nodes have to be born again: at once, and again while they are not. Pure."""

from __future__ import annotations

from collections.abc import Collection

EVERY_S, GAP_S_MIN = 15.0, 1.0
NODES_MAX = 500  # in one wish; others have their turn in the next
NAME_CHARS_MAX = 256  # of group and node, as control can call a device


class Wishes:
    """Of one source; times are those of a clock that never goes back."""

    def __init__(self) -> None:
        self._said_s, self._said, self._next = float("-inf"), frozenset[tuple[str, str]](), 0

    def due(self, mute: Collection[tuple[str, str]], now_s: float) -> tuple[str, ...]:
        """The nodes, as 'group/node', to be named now, of all that lack a birth."""
        if not mute or now_s < self._said_s + GAP_S_MIN:
            return ()
        if now_s < self._said_s + EVERY_S and self._said.issuperset(mute):
            return ()
        self._said_s, self._said = now_s, frozenset(mute)
        names = [name for name in map("/".join, mute) if len(name) <= NAME_CHARS_MAX]
        first = self._next % len(names) if len(names) > NODES_MAX else 0
        self._next = first + NODES_MAX
        return tuple([*names[first:], *names[:first]][:NODES_MAX])
