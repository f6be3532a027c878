"""Bodies -> columns, and for each body how many of its readings can be used and what is wrong with the others. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from connectors import columns, formats
from connectors.columns import Layout, Raw
from connectors.formats import Format
from connectors.http.readings import WHOLE, Readings
from connectors.payloads import Parsed, Payloads, decode_json
from connectors.shape import ROWS
from pipelines.batch import Batch, Times
from pipelines.dead import DeadLetter
from pipelines.errors import BadData

BODY_BYTES_MAX = 512 * 2**10  # of a post, and of what a dead letter keeps: Kafka takes 1 MiB
WRAPPED_BYTES = 64  # what a list needs around it


@dataclass(frozen=True, slots=True)
class Body:
    """What came at once, from one side."""

    content: bytes
    origin: str
    arrived: int  # ns
    key: str | None = None  # of all readings in it; None: each has its own


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with a reading; its number in the body, from 0, or None if it is the whole body."""

    reading: int | None
    reason: str
    text: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a body."""

    accepted: int
    faults: tuple[Fault, ...] = ()


@dataclass(frozen=True, slots=True)
class Decoded:
    """The usable readings of some bodies in their order; `ends` has the number of them up to and with each body."""

    batch: Batch
    ends: np.ndarray[Any, np.dtype[np.int64]]
    verdicts: tuple[Verdict, ...]
    letters: tuple[DeadLetter, ...]


class Codec:
    """Decodes the bodies of one source."""

    def __init__(self, source: Readings[Any], *, bytes_max: int = BODY_BYTES_MAX) -> None:
        """`bytes_max`: of a body; more is refused."""
        self._source, self._bytes_max = source, bytes_max
        self._layout = Layout.of(source.schema)
        self._format = self._format_of(bytes_max + WRAPPED_BYTES)

    def _format_of(self, bytes_max: int) -> Format:
        s = self._source
        given: dict[str, Any] = {"key": s.key_field, "time": s.time, "time_unit": s.time_unit, "paths": s.places}
        if not s.nested:
            return formats.format_of(s.payload, self._layout, rows=None, bytes_max=bytes_max, **given)
        decode = {"json": decode_json, "cbor": self._cbor, "msgpack": self._msgpack}[s.payload]
        return Payloads(self._layout, rows=s.listed, decode=decode, bytes_max=bytes_max, **given)

    def decode(self, bodies: Sequence[Body], *, latest_ns: int, whole: bool = True) -> Decoded:
        """All readings of the bodies. `latest_ns`: the latest acceptable time. `whole=False` looks at each body by itself, which
        is slow and gives the same.
        """
        contents, refused = self._prepared(bodies)
        at = np.array([i for i in range(len(bodies)) if i not in refused], np.int64)
        parsed = self._format.readings([contents[i] for i in at.tolist()], whole=whole)
        of = at[parsed.of]
        batch, kept = self._judged(bodies, parsed, of, latest_ns)
        starts = np.searchsorted(of, np.arange(len(bodies)))
        faults: dict[int, list[Fault]] = {i: [fault] for i, fault in refused.items()}
        for row, (reason, text) in sorted(parsed.faults.found.items()):
            faults.setdefault(int(of[row]), []).append(self._fault(int(row - starts[of[row]]), reason, text))
        counts = np.bincount(kept, minlength=len(bodies))
        verdicts = tuple(Verdict(int(n), tuple(faults.get(i, ()))) for i, n in enumerate(counts.tolist()))
        letters = tuple(_dead(bodies[i], faults[i]) for i in sorted(faults))
        return Decoded(batch, np.cumsum(counts), verdicts, letters)

    def _fault(self, reading: int, reason: str, text: str) -> Fault:
        if text.startswith(f"{WHOLE}{ROWS} "):
            return Fault(None, reason, "the payload is neither an object nor a list of objects")
        whole = text.startswith(("the payload ", f"{self._source.listed} "))
        return Fault(None if whole else reading, reason, text.removeprefix(f"reading {reading}: "))

    def _judged(self, bodies: Sequence[Body], parsed: Parsed, of: Any, latest_ns: int) -> tuple[Batch, Any]:
        """The usable rows, and the body of each."""
        arrived: Times = np.array([b.arrived for b in bodies], np.int64)[of]
        field = self._source.key_field
        keys = (
            pa.array([b.key for b in bodies], pa.string()).take(pa.array(of)) if field is None else parsed.values[field]
        )
        at = parsed.values.get(self._source.time) if self._source.time else None
        times = columns.times_or(arrived, at, self._source.time_unit, parsed.faults)
        raw = Raw(keys, times, parsed.values)
        faults = parsed.faults
        batch = columns.batch(self._layout, raw, faults, latest_ns=latest_ns, keys=self._source.devices)
        return columns.fill(batch, self._source.schema, arrived[~faults.bad]), of[~faults.bad]

    def _prepared(self, bodies: Sequence[Body]) -> tuple[list[bytes], dict[int, Fault]]:
        """What is parsed of each body, and bodies that are refused as a whole."""
        contents, refused = [], {}
        for i, body in enumerate(bodies):
            try:
                contents.append(self._prepare(body.content))
            except BadData as e:
                contents.append(b"")
                refused[i] = Fault(None, e.reason, str(e))
        return contents, refused

    def _prepare(self, content: bytes) -> bytes:
        if len(content) > self._bytes_max:
            raise BadData(f"the payload has more than {self._bytes_max} bytes", reason="too_large")
        if self._source.payload != "json":
            return content
        content = _one_line(content)
        if self._source.rows is not None:
            return content
        listed = content.startswith(b"[")
        return b'{"%b":%b}' % (WHOLE.encode(), content if listed else b"[%b]" % content)

    def _cbor(self, content: bytes) -> Any:
        return self._wrapped(formats.cbor(content))

    def _msgpack(self, content: bytes) -> Any:
        return self._wrapped(formats.msgpack(content))

    def _wrapped(self, found: Any) -> Any:
        if self._source.rows is not None:
            return found
        return {WHOLE: found if isinstance(found, list) else [found]}


def _one_line(content: bytes) -> bytes:
    """JSON without line ends, as Arrow's reader wants it; `BadData` unless it is one JSON value."""
    try:
        return msgspec.json.format(content, indent=-1)
    except (msgspec.DecodeError, ValueError, RecursionError) as e:
        decode_json(content)  # says in words what is wrong
        raise BadData(f"the payload is not JSON: {e}", reason="not_json") from None  # such as NaN


def _dead(body: Body, faults: Sequence[Fault]) -> DeadLetter:
    """One dead letter for a body, whatever is wrong with how many of its readings."""
    first = faults[0]
    which = "" if first.reading is None else f"reading {first.reading}: "
    more = f" ({len(faults) - 1} more of its readings are wrong)" if len(faults) > 1 else ""
    return DeadLetter(
        body.content[:BODY_BYTES_MAX], first.reason, f"{body.origin}: {which}{first.text}{more}", body.origin
    )


class Pieces:
    """Gives what was decoded in reads of at most so many rows, and says which bodies are complete with each."""

    def __init__(self, decoded: Decoded) -> None:
        self._decoded, self._row, self._body = decoded, 0, 0

    @property
    def left(self) -> bool:
        """Whether there is more."""
        return self._body < len(self._decoded.verdicts)

    def next(self, rows_max: int) -> tuple[Batch, tuple[DeadLetter, ...], range]:
        """Rows, dead letters (with the first piece), and the numbers of the bodies of which this is the end."""
        d, start, first = self._decoded, self._row, self._body
        self._row = min(start + rows_max, len(d.batch))
        self._body = int(np.searchsorted(d.ends, self._row, side="right"))
        letters = d.letters if first == 0 and start == 0 else ()
        return d.batch.take(slice(start, self._row)), letters, range(first, self._body)


def told(verdict: Verdict, errors_max: int) -> bytes:
    """What the one who posted is answered."""
    about: dict[str, Any] = {"accepted": verdict.accepted}
    if verdict.faults:
        about["refused"] = len(verdict.faults)
        about["errors"] = [
            {"reading": f.reading, "reason": f.reason, "message": f.text} for f in verdict.faults[:errors_max]
        ]
    return json.dumps(about).encode()
