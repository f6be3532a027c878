"""Inbox: records of one partition number that were fetched and wait to be processed. Pure."""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence

from pipelines.ports import Received

CALL_BYTES_MAX = 16 * 2**20  # of frames that a task is given at once; about a million rows


class Inbox:
    """One queue for each input topic, without holes: what does not begin at the next offset is not taken in."""

    def __init__(self, offsets: Mapping[str, int], apart: Collection[str] = ()) -> None:
        """`offsets`: of the next record of each input topic.

        `apart`: topics that the pipeline writes itself. Their records are new even if they tell of a backlog, so they do not wait
        for those of other inputs.
        """
        self.next = dict(offsets)
        self._bytes = dict.fromkeys(offsets, 0)
        self._queues: dict[str, deque[Received]] = {topic: deque() for topic in offsets}
        groups = [t for t in offsets if t not in apart], [t for t in offsets if t in apart]
        self._groups = [{topic: self._queues[topic] for topic in group} for group in groups]
        self._hole: dict[str, int] = {}

    @property
    def bytes(self) -> int:
        """Of all records that wait."""
        return sum(self._bytes.values())

    def __bool__(self) -> bool:
        return any(self._queues.values())

    def accept(self, topic: str, records: Sequence[Received]) -> int | None:
        """Queue records of a topic and give None; or the offset to seek to, if they do not begin at the next one.

        Records that begin later again after the seek are what the log has (markers of transactions, retention) and are taken.
        """
        first = records[0].offset
        if first != self.next[topic] and not (first > self.next[topic] and self._hole.get(topic) == first):
            self._hole[topic] = first
            return self.next[topic]
        self._hole.pop(topic, None)
        self._queues[topic].extend(records)
        self._bytes[topic] += sum(map(_size, records))
        self.next[topic] = records[-1].offset + 1
        return None

    def take(self, ended: Collection[str] = (), bytes_max: int = CALL_BYTES_MAX) -> dict[str, list[Received]]:
        """Records for one call, by topic, in order of offset; empty if there are none or if it is better to wait for more.

        Several inputs are taken in the order in which the broker got them, so that one of them does not run ahead when there
        is a backlog: nothing newer than what is known of each input, but for those that have `ended` for the time being.
        """
        taken = {}
        for queues in self._groups:
            upto = _known_upto(queues, ended, bytes_max)
            for topic, queue in queues.items():
                records = list(queue) if upto == math.inf and self._bytes[topic] <= bytes_max else None
                if records is None:
                    records = list(_taken(queue, upto, bytes_max))
                else:
                    queue.clear()
                if records:
                    taken[topic] = records
                    self._bytes[topic] -= sum(map(_size, records)) if queue else self._bytes[topic]
        return taken


def _taken(queue: deque[Received], upto: float, bytes_max: int) -> Iterator[Received]:
    size = 0
    while queue and size < bytes_max and queue[0].timestamp <= upto:
        record = queue.popleft()
        size += _size(record)
        yield record


def _known_upto(queues: Mapping[str, deque[Received]], ended: Collection[str], bytes_max: int) -> float:
    """When the broker got the newest records that one call may have, of inputs that are to be kept in step."""
    if len(queues) == 1:
        return math.inf
    newest = [q[-1].timestamp if q else -1 for topic, q in queues.items() if topic not in ended]
    for queue in queues.values():
        fits = itertools.takewhile(lambda upto: upto < bytes_max, itertools.accumulate(map(_size, queue)))
        if (count := sum(1 for _ in fits) + 1) < len(queue):
            newest.append(queue[count].timestamp)
    return min(newest, default=math.inf)


def _size(record: Received) -> int:
    return len(record.value or b"")
