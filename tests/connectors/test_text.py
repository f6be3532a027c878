"""Columns of text, from the payload of a device to a file that others read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest

from connectors import mqtt
from connectors.columns import TEXT_CHARS_MAX
from connectors.mqtt.codec import Codec
from connectors.parquet.writer import Rows
from pipelines import Col, Key, Pipeline, Schema, agg, tumbling
from pipelines.batch import Batch
from pipelines.runtime import frames
from pipelines.task import Emitted
from pipelines.wire import decode, encode
from tests.core.programs import Feed, Shelf

NOW = 1_800_000_000 * 10**9


class Machine(Schema):
    device = Key[str]()
    state = Col[str]()
    note = Col[str](absent="none")


def read(*payloads: dict[str, Any]) -> tuple[Batch, tuple[Any, ...]]:
    codec = Codec(mqtt.source(Machine, broker="mqtt://edge", topic="m/{device}"))
    texts = [json.dumps(p).encode() for p in payloads]
    return codec.decode([b"m/a"] * len(texts), texts, np.full(len(texts), NOW), latest_ns=NOW, whole=True)


def test_text_goes_from_a_payload_through_a_frame_to_a_file(tmp_path: Path) -> None:
    batch, dead = read({"state": "run"}, {"state": "", "note": "büro"}, {"state": "run", "note": "x"})
    assert dead == ()
    row = Machine.measured()
    again = decode(encode(batch, row), row)
    for b in (batch, again):
        assert b.columns["Machine.state"].tolist() == ["run", "", "run"]
        assert b.columns["Machine.note"].tolist() == ["none", "büro", "x"]
        assert b.columns["Machine.state"].dtype == np.dtype("T")
    rows, path = Rows(row, [again]), tmp_path / "text.parquet"
    (part,) = rows.parts()
    with path.open("wb") as file:
        rows.write(part, file, "compact", {})
    found = duckdb.connect().execute(f"SELECT state, note FROM '{path}'").fetchall()
    assert found == [("run", "none"), ("", "büro"), ("run", "x")]


@pytest.mark.parametrize(
    ("payload", "text"),
    [
        ({"state": 3}, "state is 3: text is needed"),
        ({"note": "x"}, "state is missing or null: text is needed"),
        ({"state": "x" * (TEXT_CHARS_MAX + 1)}, f"state has more than {TEXT_CHARS_MAX} characters"),
    ],
)
def test_what_is_no_text_is_refused(payload: dict[str, Any], text: str) -> None:
    for others in ([], [{"state": "good"}]):
        _, (letter,) = read(payload, *others)
        assert text in letter.message


class Last(Schema):
    state = agg.last(Machine.state)


def test_frames_of_long_texts_stay_below_what_kafka_takes() -> None:
    program = Pipeline("p")
    program.read(Feed(Machine, "machines")).window(tumbling("1s", late="0s"), Last).to(Shelf())
    n = 40_000
    texts = np.array([f"{i:05}" + "x" * 900 for i in range(n)], "T")
    names = Batch.of_keys([f"d{i}" for i in range(n)], np.zeros(n, np.int64), {}).names
    columns = {"Last.state": texts, "window_start": np.zeros(n, np.int64)}
    batch = Batch(names, np.arange(n, dtype=np.int32), np.zeros(n, np.int64), columns)
    outs = frames.write(Emitted("last", batch, 5), program.plan(), "s", 0, 1)
    assert len(outs) > 10
    assert max(len(o.value) for o in outs) <= 2 * frames.FRAME_BYTES_MAX
    row = program.plan().by_name["last"].row
    assert [t for o in outs for t in decode(o.value, row).columns["Last.state"].tolist()] == texts.tolist()
    marks = [dict(o.headers)["watermark"] for o in outs]
    assert marks[-1] == b"5"
    assert b"5" not in marks[:-1]
