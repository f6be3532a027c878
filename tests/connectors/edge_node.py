"""A Sparkplug B edge node for tests: births, sequence numbers, bdSeq and the will, as in Sparkplug 3.0, chapters 5 and 6."""

from __future__ import annotations

from typing import Any

from connectors.mqtt.spb_proto import Payload

INT8, INT16, INT32, INT64, FLOAT, DOUBLE, BOOLEAN, STRING = 1, 2, 3, 4, 9, 10, 11, 12
UINT64 = 8
FIELDS = {
    INT8: "int_value", INT16: "int_value", INT32: "int_value", INT64: "long_value", UINT64: "long_value", FLOAT: "float_value",
    DOUBLE: "double_value", BOOLEAN: "boolean_value", STRING: "string_value",
}  # fmt: skip
BITS = {INT8: 32, INT16: 32, INT32: 32, INT64: 64}
NS = 10**9
Message = tuple[bytes, bytes]


class EdgeNode:
    """One edge node with devices; each call gives (topic, payload) to publish. Times are seconds since 1970."""

    def __init__(self, group: str = "G", name: str = "n1", bdseq: int = 0) -> None:
        self.group, self.name, self.bdseq, self.seq = group, name, bdseq, 0
        self.aliases: dict[tuple[str, str], tuple[int, int]] = {}

    def will(self) -> Message:
        """NDEATH: what the broker says when the node is gone."""
        payload = Payload()
        _fill(payload.metrics.add(name="bdSeq", datatype=UINT64), UINT64, self.bdseq)
        return self._topic("NDEATH"), payload.SerializeToString()

    def birth(self, at: float, metrics: dict[str, tuple[int, Any]] | None = None) -> Message:
        """NBIRTH, with the metrics of the node itself."""
        self.seq = 0
        payload = self._payload(at, {"bdSeq": (UINT64, self.bdseq)} | (metrics or {}), "")
        return self._topic("NBIRTH"), payload

    def device_birth(self, device: str, at: float, metrics: dict[str, tuple[int, Any]]) -> Message:
        """DBIRTH: names, aliases, datatypes and values of all metrics."""
        return self._topic("DBIRTH", device), self._payload(at, metrics, device)

    def data(self, device: str, at: float | None, *, historical: Any = False, **values: Any) -> Message:
        """DDATA of metrics by alias."""
        payload = self._next(at)
        for name, given in values.items():
            alias, kind = self.aliases[device, name]
            metric = payload.metrics.add(alias=alias)
            if at is not None:
                metric.timestamp = int(at * 1000)
            if historical:
                metric.is_historical = True
            _fill(metric, kind, given)
        return self._topic("DDATA", device), payload.SerializeToString()

    def device_death(self, device: str, at: float) -> Message:
        """DDEATH."""
        return self._topic("DDEATH", device), self._next(at).SerializeToString()

    def _payload(self, at: float, metrics: dict[str, tuple[int, Any]], device: str) -> bytes:
        payload = self._next(at)
        for name, (kind, given) in metrics.items():
            alias, _ = self.aliases.setdefault((device, name), (len(self.aliases) + 1, kind))
            metric = payload.metrics.add(name=name, alias=alias, datatype=kind, timestamp=int(at * 1000))
            _fill(metric, kind, given)
        return bytes(payload.SerializeToString())

    def _next(self, at: float | None) -> Any:
        payload = Payload(seq=self.seq)
        if at is not None:
            payload.timestamp = int(at * 1000)
        self.seq = (self.seq + 1) % 256
        return payload

    def _topic(self, kind: str, device: str = "") -> bytes:
        return "/".join(("spBv1.0", self.group, kind, self.name, *([device] if device else []))).encode()


def _fill(metric: Any, kind: int, given: Any) -> None:
    if given is None:
        metric.is_null = True
    else:
        setattr(metric, FIELDS[kind], given % 2 ** BITS[kind] if kind in BITS else given)
