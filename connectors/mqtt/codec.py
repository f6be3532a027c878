"""MQTT messages -> columns. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from connectors import columns
from connectors.columns import Faults, Layout, Raw
from connectors.formats import Format, format_of
from connectors.mqtt import MqttSource
from connectors.payloads import PAYLOAD_BYTES_MAX, Parsed
from pipelines.batch import Batch, Times
from pipelines.dead import DeadLetter

TOPICS_CACHED_MAX = 100_000
Told = tuple[str | None, str | None]  # what a topic says: (key, column)


class Codec:
    """Decodes the messages of one source."""

    gaps = unborn = 0  # of Sparkplug

    def __init__(self, source: MqttSource[Any]) -> None:
        self._source = source
        self._layout = Layout.of(source.schema)
        by_column = source.pattern.column_level is not None
        self._formats = (
            {name: self._format(_only(self._layout, name)) for name in self._layout.arrow} if by_column else {}
        )
        self._whole = None if by_column else self._format(self._layout)
        self._topics: dict[bytes, Told | None] = {}

    def _format(self, layout: Layout) -> Format:
        s = self._source
        return format_of(
            s.payload, layout, key=s.key_field, time=s.time, time_unit=s.time_unit, paths=dict(s.fields), rows=s.rows
        )

    def decode(
        self, topics: Sequence[bytes], payloads: Sequence[bytes], arrived: Times, *, latest_ns: int, whole: bool = True
    ) -> tuple[Batch, tuple[DeadLetter, ...]]:
        """The batch of the readings in those messages, and a dead letter for each message with something unusable.

        `arrived`: time of arrival of each, ns; `latest_ns`: the latest acceptable time. `whole=False` looks at each message by
        itself, which is slow and gives the same.
        """
        coded = pa.array(topics, pa.binary()).dictionary_encode()
        told = self._told(coded.dictionary.to_pylist())
        codes = coded.indices.to_numpy()
        if self._whole is not None:
            parsed = self._whole.readings(payloads, whole=whole)
        else:
            parsed = self._by_column([t and t[1] for t in told], codes, payloads, whole=whole)
        faults = parsed.faults
        self._refuse_strange(np.array([t is None for t in told], bool), codes[parsed.of], faults)
        keys = pa.array([t and t[0] for t in told], pa.string()).take(pa.array(codes[parsed.of]))
        if self._source.key_field is not None:
            keys = parsed.values[self._source.key_field]
        since = arrived[parsed.of]
        at = parsed.values.get(self._source.time) if self._source.time else None
        times = columns.times_or(since, at, self._source.time_unit, parsed.faults)
        raw = Raw(keys, times, parsed.values)
        batch = columns.batch(self._layout, raw, faults, latest_ns=latest_ns, keys=self._source.devices)
        batch = columns.fill(batch, self._source.schema, since[~faults.bad])
        wrong: dict[int, tuple[str, str]] = {}
        for row in sorted(faults.found):
            wrong.setdefault(int(parsed.of[row]), faults.found[row])
        return batch, tuple(dead(topics[i], payloads[i], *wrong[i]) for i in wrong)

    def _told(self, distinct: Sequence[bytes]) -> list[Told | None]:
        """What each topic says; None if it is not one of those asked for."""
        if len(self._topics) > TOPICS_CACHED_MAX:
            self._topics.clear()
        for topic in distinct:
            if topic not in self._topics:
                self._topics[topic] = self._look_at(topic)
        return [self._topics[topic] for topic in distinct]

    def _look_at(self, topic: bytes) -> Told | None:
        try:
            text = topic.decode()
        except UnicodeDecodeError:
            return None
        pattern = self._source.pattern
        return (pattern.key(text) or "", pattern.column(text)) if pattern.matches(text) else None

    def _refuse_strange(self, strange: NDArray[np.bool_], codes: NDArray[Any], faults: Faults) -> None:
        if strange.any():
            text = (
                f"the topic does not match {self._source.topic!r}; does the MQTT broker still hold an old subscription?"
            )
            faults.add(strange[codes], "topic", lambda _: text)

    def _by_column(
        self, names: Sequence[str | None], codes: NDArray[Any], payloads: Sequence[bytes], *, whole: bool
    ) -> Parsed:
        """Messages that hold one column each, which their topic names. Columns that the schema lacks are left out."""
        parts: list[tuple[NDArray[np.int64], Parsed]] = []
        for name in dict.fromkeys(names):
            if name is not None and name not in self._formats:
                continue
            at = np.flatnonzero(np.array([n == name for n in names], bool)[codes])
            if name is None:  # a strange topic
                parts.append((at, Parsed({}, np.arange(len(at)), Faults(len(at)))))
            else:
                parts.append((at, self._formats[name].readings([payloads[i] for i in at.tolist()], whole=whole)))
        of = np.concatenate([np.empty(0, np.int64), *(at[parsed.of] for at, parsed in parts)])
        order = np.argsort(of, kind="stable")
        return Parsed(self._joined(parts, order), of[order], _joined_faults(parts, order))

    def _joined(self, parts: Sequence[tuple[Any, Parsed]], order: NDArray[np.int64]) -> dict[str, pa.Array]:
        kinds = {n: a.type for _, parsed in parts for n, a in parsed.values.items()} | self._layout.arrow
        values = {}
        for name, kind in kinds.items():
            columns_ = [parsed.values.get(name, pa.nulls(len(parsed.of), kind)) for _, parsed in parts]
            values[name] = pa.chunked_array(columns_, kind).combine_chunks().take(pa.array(order))
        if self._source.key_field is not None and self._source.key_field not in values:
            values[self._source.key_field] = pa.nulls(len(order), pa.string())
        return values


def _only(layout: Layout, name: str) -> Layout:
    fields = tuple(f for f in layout.row.fields if f.name == name)
    return Layout(replace(layout.row, fields=fields), {n: a for n, a in layout.absent.items() if n == name})


def _joined_faults(parts: Sequence[tuple[Any, Parsed]], order: NDArray[np.int64]) -> Faults:
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    faults, start = Faults(len(order)), 0
    for _, parsed in parts:
        for row, (reason, text) in parsed.faults.found.items():
            faults.one(int(place[start + row]), reason, text)
        start += len(parsed.of)
    return faults


def dead(topic: bytes, payload: bytes, reason: str, text: str) -> DeadLetter:
    """The dead letter of a message."""
    origin = topic.decode(errors="backslashreplace")
    return DeadLetter(payload[:PAYLOAD_BYTES_MAX], reason, f"{origin}: {text}", origin)
