"""MQTT messages -> columns. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from connectors import columns
from connectors.columns import Faults, Layout, Raw
from connectors.mqtt import MqttSource
from connectors.payloads import PAYLOAD_BYTES_MAX, Payloads
from pipelines.batch import Batch, Times
from pipelines.dead import DeadLetter

TOPICS_CACHED_MAX = 100_000


class Codec:
    """Decodes the messages of one source."""

    def __init__(self, source: MqttSource[Any]) -> None:
        self._source = source
        self._layout = Layout.of(source.schema)
        self._payloads = Payloads(self._layout, key=source.key_field, time=source.time, time_unit=source.time_unit)
        self._keys: dict[bytes, str | None] = {}

    def decode(
        self, topics: Sequence[bytes], payloads: Sequence[bytes], arrived: Times, *, latest_ns: int, whole: bool = True
    ) -> tuple[Batch, tuple[DeadLetter, ...]]:
        """The batch of those messages that are readings, and dead letters for the others.

        `arrived`: time of arrival of each, ns; `latest_ns`: the latest acceptable time. `whole=False` looks at each message by
        itself, which is slow and gives the same.
        """
        faults = Faults(len(payloads))
        parsed = self._payloads.parse(payloads, faults, whole=whole)
        raw = Raw(self._keys_of(topics, parsed, faults), self._payloads.times(parsed, arrived, faults), parsed)
        batch = columns.batch(self._layout, raw, faults, latest_ns=latest_ns, keys=self._source.devices)
        return batch, tuple(_dead(topics[i], payloads[i], *faults.found[i]) for i in sorted(faults.found))

    def _keys_of(self, topics: Sequence[bytes], parsed: Mapping[str, pa.Array], faults: Faults) -> pa.Array:
        coded = pa.array(topics, pa.binary()).dictionary_encode()
        if len(self._keys) > TOPICS_CACHED_MAX:
            self._keys.clear()
        distinct = coded.dictionary.to_pylist()
        for topic in distinct:
            if topic not in self._keys:
                self._keys[topic] = self._key(topic)
        strange = [self._keys[topic] is None for topic in distinct]
        if any(strange):
            text = (
                f"the topic does not match {self._source.topic!r}; does the MQTT broker still hold an old subscription?"
            )
            faults.add(np.array(strange)[coded.indices.to_numpy()], "topic", lambda _: text)
        if self._source.key_field is not None:
            return parsed[self._source.key_field]
        return pa.array([self._keys[topic] for topic in distinct], pa.string()).take(coded.indices)

    def _key(self, topic: bytes) -> str | None:
        """The key in a topic ('' if keys stand in payloads); None if the topic is not one of those asked for."""
        try:
            text = topic.decode()
        except UnicodeDecodeError:
            return None
        pattern = self._source.pattern
        return (pattern.key(text) or "") if pattern.matches(text) else None


def _dead(topic: bytes, payload: bytes, reason: str, text: str) -> DeadLetter:
    origin = topic.decode(errors="backslashreplace")
    return DeadLetter(payload[:PAYLOAD_BYTES_MAX], reason, f"{origin}: {text}", origin)
