"""State as columns: arrays over (slice, key), the index of keys, and their bytes in a snapshot."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from pipelines.batch import Codes
from pipelines.errors import LimitExceeded, StateError
from pipelines.expr import Array

FORMAT = 3  # of snapshots
KEY_BYTES = 160  # of index for each key, besides its text
DICTIONARIES_MAX = 64  # of different sources, remembered by one task
State = dict[str, Any]  # numbers, text, arrays and lists and dicts of these


class KeyIndex:
    """Numbers keys in order of appearance. The number, a slot, indexes every array of a task's state."""

    def __init__(self) -> None:
        self._slots: dict[str, int] = {}
        self._names: list[str] = []
        self._array = pa.array([], pa.string())
        self._texts = np.empty(0, "T")
        self._bytes = 0
        self._recent: dict[str, tuple[pa.StringArray, Codes | None]] = {}

    def __len__(self) -> int:
        return len(self._names)

    def slots(self, codes: Codes, names: pa.StringArray, source: str) -> Codes:
        """Slot of each row. The newest dictionary of each source is remembered: most frames repeat it."""
        known = self._recent.get(source)
        if known is None or not known[0].equals(names):
            slots = np.fromiter(map(self._slot, names.to_pylist()), np.int32, len(names))
            same = bool((slots == np.arange(len(slots))).all())  # as from the first collector: nothing to look up
            self._recent.pop(source, None)
            known = self._recent[source] = (names, None if same else slots)
            if len(self._recent) > DICTIONARIES_MAX:
                del self._recent[next(iter(self._recent))]
        return codes if known[1] is None else known[1][codes]

    def _slot(self, name: str) -> int:
        slot = self._slots.get(name)
        if slot is None:
            slot = self._slots[name] = len(self._names)
            self._names.append(name)
            self._bytes += KEY_BYTES + len(name)
        return slot

    @property
    def names(self) -> pa.StringArray:
        """Every name, by slot."""
        if len(self._array) != len(self._names):
            self._array = pa.array(self._names, pa.string())
        return self._array

    @property
    def texts(self) -> Array:
        """Every name, by slot, as numpy text."""
        if len(self._texts) != len(self._names):
            self._texts = np.array(self._names, "T")
        return self._texts

    @property
    def nbytes(self) -> int:
        """Memory, roughly."""
        return self._bytes

    def save(self) -> State:
        """As plain values."""
        return {"names": self._names}

    def load(self, state: State) -> None:
        """Inverse of `save`."""
        self.__init__()  # type: ignore[misc]  # back to empty, then refill
        for name in state["names"]:
            self._slot(name)


class Cells:
    """Named arrays of shape (rows, slots[, width]), each filled with its identity; row 0 is never written: it means 'nothing'."""

    def __init__(self, fields: Mapping[str, Any], bytes_max: int = 2**62, slots: int = 16, rows: int = 3) -> None:
        """`fields`: (dtype, identity) or (dtype, identity, width) by name. Growing beyond `bytes_max` is a `LimitExceeded`.

        Most windows have two slices open, the newest and one that waits for late rows: 3 `rows`.
        """
        self.fields, self._bytes_max = dict(fields), bytes_max
        self.rows, self.slots = rows, slots
        self._free = list(range(rows - 1, 0, -1))
        self.arrays = {n: self._full(n, self.rows, self.slots) for n in self.fields}

    def _full(self, name: str, rows: int, slots: int) -> Array:
        dtype, identity, *width = self.fields[name]
        return np.full((rows, slots, *width), identity, dtype)

    def __getitem__(self, name: str) -> Array:
        """All cells of a field, shape (rows, slots[, width])."""
        return self.arrays[name]

    def flat(self, name: str) -> Array:
        """A flat view, shape (cells[, width]): cell = row · slots + slot."""
        a = self.arrays[name]
        return a.reshape(-1, *a.shape[2:])

    def reserve(self, slots: int) -> None:
        """Make room for this many slots, by a quarter more at least."""
        if slots > self.slots:
            self._resize(self.rows, max(slots, self.slots * 5 // 4))

    def take_row(self) -> int:
        """A row that holds identities only."""
        return self.take_rows(1)[0]

    def take_rows(self, count: int) -> list[int]:
        """Rows that hold identities only."""
        if count > len(self._free):
            rows = max(self.rows * 9 // 8, self.rows + count)
            self._free = [*range(rows - 1, self.rows - 1, -1), *self._free]
            self._resize(rows, self.slots)
        taken = self._free[: -count - 1 : -1]
        del self._free[len(self._free) - count :]
        return taken

    def release(self, rows: list[int]) -> None:
        """Give rows back."""
        for name, (_, identity, *_) in self.fields.items():
            self.arrays[name][rows] = identity
        self._free.extend(sorted(rows, reverse=True))

    def _resize(self, rows: int, slots: int) -> None:
        size = sum(np.dtype(d).itemsize * (width[0] if width else 1) for d, _, *width in self.fields.values())
        if (wanted := rows * slots * size) > self._bytes_max:
            raise LimitExceeded(
                f"open windows and keys need {wanted:,} bytes of state ({rows:,} slices of {slots:,} keys)"
            )
        for name in self.fields:
            grown = self._full(name, rows, slots)
            grown[: self.rows, : self.slots] = self.arrays[name]
            self.arrays[name] = grown
        self.rows, self.slots = rows, slots

    @property
    def nbytes(self) -> int:
        """Memory of the arrays."""
        return sum(a.nbytes for a in self.arrays.values())

    def save(self, rows: list[int], slots: int) -> State:
        """The given rows and the first `slots` slots as plain values."""
        return {name: np.ascontiguousarray(a[rows, :slots]) for name, a in self.arrays.items()}

    def load(self, rows: list[int], state: State) -> None:
        """Inverse of `save`, into rows taken before."""
        for name, a in state.items():
            self.reserve(a.shape[1])
            self.arrays[name][rows, : a.shape[1]] = a


def _encode(value: Any) -> Any:
    if isinstance(value, np.ndarray) and value.dtype.kind == "T":
        return {"~text": value.ravel().tolist(), "shape": value.shape}
    if isinstance(value, np.ndarray):
        return {"~dtype": value.dtype.str, "shape": value.shape, "data": np.ascontiguousarray(value).tobytes()}
    return value.item()  # a numpy number


def _decode(value: Any) -> Any:
    if isinstance(value, dict):
        if "~dtype" in value:
            return np.frombuffer(value["data"], value["~dtype"]).reshape(value["shape"]).copy()
        if "~text" in value:
            return np.array(value["~text"], "T").reshape(value["shape"])
        return {k: _decode(v) for k, v in value.items()}
    return [_decode(v) for v in value] if isinstance(value, list) else value


def pack(state: State) -> bytes:
    """Bytes of a state."""
    return msgspec.msgpack.encode({"format": FORMAT, **state}, enc_hook=_encode)


def unpack(data: bytes) -> State:
    """Inverse of `pack`; `StateError` if the bytes are not a snapshot of this format."""
    try:
        state: State = _decode(msgspec.msgpack.decode(data))
        found = state.pop("format")
    except (msgspec.DecodeError, KeyError, ValueError, TypeError, AttributeError) as e:
        raise StateError(
            f"the snapshot is damaged ({e}): reset the pipeline's state to compute it anew from the source topics"
        ) from e
    if found != FORMAT:
        raise StateError(
            f"the snapshot has format {found}, this version reads {FORMAT}: deploy the version that wrote it, or reset"
        )
    return state
