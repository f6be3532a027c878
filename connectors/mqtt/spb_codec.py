"""Sparkplug B messages -> columns. Pure, but it remembers births: aliases have no meaning without."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from connectors import columns
from connectors.base import quality_column
from connectors.columns import Faults, Layout, Raw
from connectors.mqtt.codec import dead
from connectors.mqtt.spb import BIRTH_BYTES_MAX, SparkplugSource
from connectors.mqtt.spb_nodes import BDSEQ, Device, Node, Nodes, quality, value
from connectors.mqtt.spb_proto import parse
from connectors.payloads import typed
from pipelines.batch import TIME_NS_MAX, Batch, Times
from pipelines.dead import DeadLetter
from pipelines.errors import BadData
from pipelines.quality import BAD, GOOD, UNCERTAIN

BIRTHS, DATA, DEATHS = ("NBIRTH", "DBIRTH"), ("NDATA", "DDATA"), ("NDEATH", "DDEATH")
OF_OTHERS = ("NCMD", "DCMD", "STATE")  # what hosts write: not for us
MS = 10**6


@dataclass(slots=True)
class Rows:
    """Readings while they are collected."""

    keys: list[str]
    times: list[int]
    quality: list[int]
    values: dict[str, list[Any]]
    of: list[int]

    def add(self, of: int, key: str, time: int, quality_: int, found: dict[str, Any]) -> None:
        """One reading."""
        self.of.append(of)
        self.keys.append(key)
        self.times.append(time)
        self.quality.append(quality_)
        for name, column in self.values.items():
            column.append(found.get(name))


class SparkplugCodec:
    """Decodes the messages of one source."""

    def __init__(self, source: SparkplugSource[Any]) -> None:
        self._source, self._layout = source, Layout.of(source.schema)
        self._nodes = Nodes()
        self._quality = quality_column(source.schema)
        self._expected = {f.name: columns.EXPECTED[f.dtype] for f in self._layout.row.fields}

    @property
    def gaps(self) -> int:
        """Messages after which one was missing, since the start."""
        return self._nodes.gaps

    @property
    def mute(self) -> Collection[tuple[str, str]]:
        """(group, name) of the nodes that are there and have to be born again."""
        return self._nodes.mute.keys()

    @property
    def unborn(self) -> int:
        """Nodes that have to be born again."""
        return self._nodes.wanted

    def decode(
        self, topics: Sequence[bytes], payloads: Sequence[bytes], arrived: Times, *, latest_ns: int
    ) -> tuple[Batch, tuple[DeadLetter, ...]]:
        """See `connectors.mqtt.codec.Codec.decode`. The batch has a quality column."""
        rows = Rows([], [], [], {name: [] for name in self._layout.arrow}, [])
        wrong: dict[int, tuple[str, str]] = {}
        for i, (topic, payload) in enumerate(zip(topics, payloads, strict=True)):
            try:
                self._take(i, topic, payload, int(arrived[i]), rows)
            except BadData as e:
                wrong[i] = (e.reason, str(e))
        batch, faults = self._batch(rows, arrived, latest_ns)
        for row in sorted(faults.found):
            wrong.setdefault(rows.of[row], faults.found[row])
        return batch, tuple(dead(topics[i], payloads[i], *wrong[i]) for i in sorted(wrong))

    def _batch(self, rows: Rows, arrived: Times, latest_ns: int) -> tuple[Batch, Faults]:
        bad = np.array(rows.quality, np.int8) == BAD
        faults = Faults(len(rows.of))
        values = {}
        for name, kind in self._layout.arrow.items():
            given = pa.array(rows.values[name], kind)
            if bad.any() and given.null_count:  # what is bad may lack values
                blank = {"string": "", "bool": False}.get(str(kind), 0)
                mask = pa.array(bad & given.is_null().to_numpy(zero_copy_only=False))
                given = pc.if_else(mask, pa.scalar(blank, kind), given)
            values[name] = given
        raw = Raw(pa.array(rows.keys, pa.string()), np.array(rows.times, np.int64), values)
        batch = columns.batch(self._layout, raw, faults, latest_ns=latest_ns, keys=self._source.devices)
        kept = ~faults.bad
        found = {
            n: np.where(bad[kept], np.nan, c).astype(c.dtype) if c.dtype.kind == "f" else c
            for n, c in batch.columns.items()
        }
        found[self._quality] = np.array(rows.quality, np.int8)[kept]
        since = arrived[np.array(rows.of, np.int64)][kept]
        return columns.fill(replace(batch, columns=found), self._source.schema, since), faults

    def _take(self, i: int, topic: bytes, data: bytes, arrived: int, rows: Rows) -> None:
        levels = topic.decode(errors="replace").split("/")
        if levels[1:2] == ["STATE"] or (levels[2:3] and levels[2] in OF_OTHERS):
            return
        kind = levels[2] if len(levels) > 2 else ""
        if kind not in BIRTHS + DATA + DEATHS or len(levels) != (4 if kind[0] == "N" else 5) or not all(levels):
            raise BadData(
                "a topic of Sparkplug is spBv1.0/group/NDATA/node or spBv1.0/group/DDATA/node/device", reason="topic"
            )
        group, name, device = levels[1], levels[3], levels[4] if len(levels) == 5 else ""
        if len(data) > BIRTH_BYTES_MAX:
            raise BadData(f"the payload has more than {BIRTH_BYTES_MAX} bytes", reason="too_large")
        key = self._source.key.format(group=group, node=name, device=device).rstrip("/")
        payload, node = parse(data), self._nodes.of(group, name)
        if kind == "NDEATH":
            self._died(i, group, name, node, payload, arrived, rows)
            self._nodes.mind(group, name, node, there=False)
            return
        if kind == "NBIRTH":
            self._nodes.born(node, payload)
        else:
            self._nodes.count(node, payload)
        self._nodes.mind(group, name, node, there=True)
        known = self._nodes.device(node, device)
        if kind in BIRTHS:
            known = self._nodes.introduce(node, device, payload)
        if kind == "DDEATH":
            known.alive = False
            rows.add(i, key, _time(payload, payload, arrived), BAD, known.last)
            return
        self._read(i, key, node, known, payload, arrived, rows)

    def _died(self, i: int, group: str, name: str, node: Node, payload: Any, arrived: int, rows: Rows) -> None:
        bdseq = next((value(m, m.datatype) for m in payload.metrics if m.name == BDSEQ), None)
        if not node.born or bdseq != node.bdseq:
            return  # of an older session, whose end the broker noticed late
        for device, known in node.devices.items():
            if known.alive and known.last:
                key = self._source.key.format(group=group, node=name, device=device).rstrip("/")
                rows.add(i, key, arrived, BAD, known.last)
        node.born, node.devices = False, {}

    def _read(self, i: int, key: str, node: Node, known: Device, payload: Any, arrived: int, rows: Rows) -> None:
        """One reading for each time that the metrics have, the newest values of the device brought up to date."""
        current: dict[int, dict[str, tuple[Any, int]]] = {}
        past: dict[int, dict[str, tuple[Any, int]]] = {}
        problem: BadData | None = None
        for metric in payload.metrics:
            try:
                name, datatype = self._metric(metric, node, known)
                column = self._source.metrics.get(name)
                if column is None:
                    continue
                got = self._value(column, name, metric, datatype)
            except BadData as e:  # the others go on
                problem = problem or e
                continue
            at = (past if metric.is_historical else current).setdefault(_time(metric, payload, arrived), {})
            at[column] = (got, quality(metric))
        doubt = UNCERTAIN if node.lost or not node.born else GOOD
        for time, found in past.items():
            worst = max(q for _, q in found.values())
            rows.add(i, key, time, max(worst, doubt), {c: v for c, (v, _) in found.items()})
        for time in sorted(current):
            for column, (got, how) in current[time].items():
                known.last[column], known.quality[column] = got, how
            rows.add(i, key, time, max(doubt, *known.quality.values()), known.last)
        if problem is not None:
            raise problem

    def _metric(self, metric: Any, node: Node, known: Device) -> tuple[str, int]:
        """(name, datatype) of a metric, by its alias if need be."""
        if metric.HasField("name"):
            return metric.name, metric.datatype or known.types.get(metric.name, 0)
        if not metric.HasField("alias") or metric.alias not in node.aliases:
            reason = "unknown_alias" if node.born else "no_birth"
            why = "its birth does not have it" if node.born else "the node's birth was not seen"
            raise BadData(
                f"alias {metric.alias} has no name: {why}; let the node be born again (Node Control/Rebirth)",
                reason=reason,
            )
        return node.aliases[metric.alias]

    def _value(self, column: str, name: str, metric: Any, datatype: int) -> Any:
        try:
            return typed(name, value(metric, datatype), self._layout.arrow[column], self._expected[column])
        except BadData as e:
            raise BadData(f"metric {name!r}: {e}", reason=e.reason) from e


def _time(metric: Any, payload: Any, arrived: int) -> int:
    """ns; times that cannot be are left to be refused with all others."""
    ms = (
        metric.timestamp
        if metric.HasField("timestamp")
        else payload.timestamp
        if payload.HasField("timestamp")
        else None
    )
    return arrived if ms is None else min(int(ms) * MS, TIME_NS_MAX)
