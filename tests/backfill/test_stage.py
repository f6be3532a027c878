"""CSV files of a backfill: read as the pipeline reads files, with the columns that a source would have filled."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from connectors import replay, topic
from connectors.backfill.dataset import Found
from connectors.backfill.footer import Wanted, check
from connectors.backfill.stage import Staging
from pipelines import Arrival, Col, Key, Pipeline, Quality, Schema, agg, tumbling
from pipelines.errors import ConfigError
from pipelines.quality import GOOD

T0 = 1_767_225_600 * 10**9  # 2026


class Tank(Schema):
    device = Key[str]()
    level = Col[float]("m")
    quality = Quality()
    at = Arrival()


class Minute(Schema):
    mean = agg.mean(Tank.level)
    good = agg.mean(Tank.quality == GOOD)


@pytest.mark.parametrize(
    ("source", "header"),
    [
        (topic.append(Tank, "tank"), "time,device,level"),
        (replay.folder(Tank, "/in", time="ts", columns={Tank.level: "L"}), "ts,device,L"),
        (replay.source(Tank, "/in/*.csv", time="ts", columns={Tank.level: "L"}), "ts,device,L"),
    ],
)
def test_what_a_source_fills_is_filled(tmp_path: Path, source: replay.ReplaySource[Tank], header: str) -> None:
    p = Pipeline("p")
    p.read(source).to(topic.results())
    path = tmp_path / "t.csv"
    path.write_text(f"{header}\n2026-01-01T00:00:00Z,a,1.5\n2026-01-01T00:00:01Z,b,2.5\n")
    (made,) = Staging(tmp_path / "stage", p.plan()).ready("tank", [Found(str(path), path.stat().st_size)])
    table = pq.read_table(made.path)
    assert table["level"].to_pylist() == [1.5, 2.5]
    assert table["quality"].to_pylist() == [0, 0]
    assert table["at"].to_pylist() == [T0, T0 + 10**9]  # when they came is not known


def test_older_files_have_good_readings() -> None:
    p = Pipeline("p")
    read = p.read(topic.append(Tank, "tank"))
    read.window(tumbling("1m", late="0s"), Minute).to(topic.results())
    plan = p.plan()
    wanted = Wanted.of(plan.by_name["tank"], plan, 0, 2**62)
    assert [header for _, header, _ in wanted.columns] == ["level", "quality"]
    assert wanted.absent == {"quality": GOOD, "at": 0}
    stored = [("device", pa.string()), ("time", pa.timestamp("us", "UTC")), ("level", pa.float64())]
    check("old.parquet", pa.schema(stored), wanted)
    with pytest.raises(ConfigError, match=r"old.parquet has no column 'level'"):
        check("old.parquet", pa.schema(stored[:2]), wanted)
