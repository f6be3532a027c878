"""Dimensions: what a file may hold, what its rows do to a stream, and what is said of a file that is wrong."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines import Col, Key, Pipeline, Schema, Stream, Table, agg, dimensions, tumbling
from pipelines.batch import Batch
from pipelines.dimensions import folder_of, load
from pipelines.errors import ConfigError, PlanError
from pipelines.runtime.worker import job_of
from pipelines.settings import Settings
from pipelines.testing import run
from tests.core import sides
from tests.core.programs import Feed, Shelf
from tests.core.sides import SECOND, Given, Temp

How = Literal["inner", "left"]


class Machine(Schema):
    device = Key[str]()
    limit = Col[float]("degC")
    bay = Col[int](absent=-1)
    line = Col[str](absent="unknown")
    spare = Col[bool](absent=False)


class Over(Schema):
    excess = Temp.t - Machine.limit
    bay = Machine.bay
    line = Machine.line
    spare = Machine.spare


class Hot(Schema):
    n = agg.count()


def joined(
    how: How = "left", path: str = "machines.csv", **options: Any
) -> tuple[Pipeline, Any, Table[Machine], Stream[Over]]:
    program = Pipeline("hall")
    temp = program.read(Feed(Temp, "temp"))
    machines = program.dimension(Machine, path, **options)
    return program, temp, machines, temp.join(machines, how=how).select(Over)


def facts(**values: Any) -> Batch:
    usual = {"device": ["a", "b"], "limit": [50.0, 60.0], "bay": [1, 2], "line": ["x", "y"], "spare": [False, True]}
    return Machine.facts(**usual | values)


@given(
    rows=st.lists(sides.rows, max_size=20), known=st.sets(st.sampled_from("abc")), how=st.sampled_from(["inner", "left"]),
    restart=st.integers(0, 2),
)  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_each_row_gets_the_facts_of_its_key(rows: list[Given], known: set[str], how: How, restart: int) -> None:
    program, temp, machines, over = joined(how)
    names = sorted(known, reverse=True)
    limits, bays = [10.0 * ord(k) for k in names], [ord(k) for k in names]
    content = Machine.facts(
        device=names, limit=limits, bay=bays, line=[k * 2 for k in names], spare=[True for _ in names]
    )  # fmt: skip
    batches = [sides.batch(rows[i : i + 3]) for i in range(0, len(rows), 3)]
    out = run(program, {temp: batches, machines: content}, restart_every=restart)[over]
    want: list[tuple[Any, ...]] = []
    for r in rows:
        if r.device in known:
            want.append((r.device, r.time, r.value - 10.0 * ord(r.device), ord(r.device), r.device * 2, True))
        elif how == "left":
            want.append((r.device, r.time, None, -1, "unknown", False))
    excess = [None if np.isnan(v) else v for v in out[Over.excess].tolist()]
    columns = (out[Over.bay].tolist(), out[Over.line].tolist(), out[Over.spare].tolist())
    assert list(zip(out.keys, out.time.tolist(), excess, *columns, strict=True)) == want


def test_a_row_waits_for_nothing_and_keeps_its_lateness() -> None:
    program, temp, machines, over = joined()
    hot = over.window(tumbling("10s", late="0s"), Hot)
    late = hot.late
    rows = [sides.batch([Given("a", s * SECOND, 55)]) for s in (1, 30, 2)]
    out = run(program, {temp: rows, machines: facts()}, end=False)
    assert len(out[over]) == 3
    assert out[late].time.tolist() == [2 * SECOND]


def test_a_filter_may_use_facts_before_a_window() -> None:
    program, temp, machines, _ = joined()
    hot = temp.join(machines, how="inner").where(Temp.t > Machine.limit).window(tumbling("1m", late="0s"), Hot)
    hot.to(Shelf())
    out = run(program, {temp: sides.batch([Given("a", 0, 55), Given("b", 0, 55)]), machines: facts()})
    assert out[hot].keys == ["a"]


def test_the_path_is_no_part_of_the_version_of_the_state() -> None:
    def fingerprint(path: str) -> str:
        program, _, _, over = joined(path=path)
        over.window(tumbling("1m", late="0s"), Hot).to(Shelf())
        return program.plan().fingerprint

    assert fingerprint("a.csv") == fingerprint("b.parquet")


CSV = "device,limit,bay,line,spare\na,50,1,x,false\nb,60.5,,,true\n"


def content(folder: Path, text: str | bytes = CSV, **options: Any) -> Batch:
    (folder / "machines.csv").write_bytes(text.encode() if isinstance(text, str) else text)
    return load(joined(**options)[0].plan(), folder)["machine"]


def shown(batch: Batch) -> list[tuple[Any, ...]]:
    return list(zip(batch.keys, *(batch.columns[f"Machine.{n}"].tolist() for n in Machine.columns()), strict=True))


def test_a_csv_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        found = content(tmp_path)
    assert shown(found) == [("a", 50.0, 1, "x", False), ("b", 60.5, -1, "unknown", True)]
    assert "dimension machine: 2 rows of" in caplog.text
    assert "sha256 " in caplog.text
    windows = "\ufeffname;".replace(";", ",") + 'Limit [A],bay,line,spare\r\n"a",1e3,7,"x, y",1\r\n'
    options = {"key": "name", "columns": {Machine.limit: "Limit [A]"}}
    assert shown(content(tmp_path, windows, **options)) == [("a", 1000.0, 7, "x, y", True)]
    assert shown(content(tmp_path, "device,limit,bay,line,spare,more\n")) == []


def test_a_parquet_file(tmp_path: Path) -> None:
    table = pa.table({
        "device": pa.array(["a", "b"]).dictionary_encode(), "limit": pa.array([50, 60], pa.int32()), "bay": [None, 3],
        "line": ["x", None], "spare": [True, None], "more": [1, 2],
    })  # fmt: skip
    pq.write_table(table, tmp_path / "machines.parquet")
    found = load(joined(path="machines.parquet")[0].plan(), tmp_path)["machine"]
    assert shown(found) == [("a", 50.0, -1, "x", True), ("b", 60.0, 3, "unknown", False)]


def test_a_worker_loads_what_lies_beside_its_pipeline_file(tmp_path: Path) -> None:
    (tmp_path / "facts").mkdir()
    (tmp_path / "facts/machines.csv").write_text("device,limit\na,50\n")
    (tmp_path / "hall.py").write_text(
        "from connectors import topic\nfrom pipelines import Col, Key, Pipeline, Schema\n"
        "class Temp(Schema):\n    device = Key[str]()\n    t = Col[float]()\n"
        "class Machine(Schema):\n    device = Key[str]()\n    limit = Col[float]()\n"
        "class Over(Schema):\n    excess = Temp.t - Machine.limit\n"
        "hall = Pipeline('hall')\nmachines = hall.dimension(Machine, 'facts/machines.csv')\n"
        "hall.read(topic.append(Temp, 'temp')).join(machines, how='inner').select(Over).to(topic.results())\n"
    )
    job = job_of(Settings(site="s", brokers="b", pipeline=f"{tmp_path}/hall.py:hall"))
    assert job.dimensions["machine"].keys == ["a"]
    assert job.task().state_bytes == 0
    assert folder_of("hall/press.py:press") == Path("hall")


HEAD = "device,limit,bay,line,spare\n"
WRONG = [
    (HEAD + "a,hot,1,x,true", r"machines.csv:2: 'limit' is 'hot': a number is needed"),
    (HEAD + "a,1,1,x,true\nb,,1,x,true", r"machines.csv:3: 'limit' is empty: fill it in, or say what stands for it: Col"),
    (HEAD + "a,inf,1,x,true", r"machines.csv:2: 'limit' is inf: a finite number is needed"),
    (HEAD + "a,1,1.5,x,true", r"machines.csv:2: 'bay' is '1.5': a whole number is needed"),
    (HEAD + "a,1,1,x,perhaps", r"machines.csv:2: 'spare' is 'perhaps': true or false is needed"),
    (HEAD + ",1,1,x,true", r"machines.csv:2: 'device' is empty: each row needs a key"),
    (HEAD + "a,1,1,x,true\nb,1,1,x,true\na,2,1,x,true", r"machines.csv:4: 'device' is 'a', as in machines.csv:2: keep"),
    ("device,bay\na,1\n", r"has no column 'limit', 'line', 'spare'; it has 'device', 'bay': give dimension\(…, key="),
    ("", r"machines.csv has no column .* it has none"),
    (HEAD + "a,1\n", r"machines.csv cannot be read: .*Expected 5 columns, got 2"),
    (HEAD.encode() + b"\xff,1,1,x,true\n", r"machines.csv cannot be read: .*invalid UTF8"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), WRONG)
def test_what_is_wrong_with_a_csv_file_is_told_with_its_line(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        content(tmp_path, text)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"limit": pa.array([1, 2**60 + 1])},
            r"machines.parquet:2: 'limit' is 1152921504606846977: a number is needed",
        ),
        ({"bay": [1.5, 2.0]}, r"machines.parquet:1: 'bay' is 1.5: a whole number is needed"),
        (
            {"spare": pa.array([0, 1], pa.timestamp("ms"))},
            r"column 'spare' is timestamp\[ms\]: true or false is needed",
        ),
        ({"device": [1.0, 2.0]}, r"machines.parquet: column 'device' is double: a key is text; write it as text"),
        ({"device": ["a", "a"]}, r"machines.parquet:2: 'device' is 'a', as in machines.parquet:1: keep"),
    ],
)
def test_what_is_wrong_with_a_parquet_file(tmp_path: Path, columns: dict[str, Any], message: str) -> None:
    usual = {"device": ["a", "b"], "limit": [1.0, 2.0], "bay": [1, 2], "line": ["x", "y"], "spare": [True, False]}
    pq.write_table(pa.table(usual | columns), tmp_path / "machines.parquet")
    with pytest.raises(ConfigError, match=message):
        load(joined(path="machines.parquet")[0].plan(), tmp_path)


def test_a_file_that_is_not_there_no_parquet_or_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        ConfigError, match=r"machines.csv: the file of dimension 'machine' cannot be read \(No such.*put it beside"
    ):
        load(joined()[0].plan(), tmp_path)
    (tmp_path / "m.parquet").write_text("no")
    with pytest.raises(ConfigError, match=r"m.parquet cannot be read: "):
        load(joined(path="m.parquet")[0].plan(), tmp_path)
    monkeypatch.setattr(dimensions, "BYTES_MAX", 10)
    with pytest.raises(
        ConfigError, match=r"machines.csv: 57 bytes, and a dimension may have 10: keep only the columns"
    ):
        content(tmp_path)


def test_keys_that_are_numbers_are_text(tmp_path: Path) -> None:
    usual = {"device": [7, 8], "limit": [1.0, 2.0], "bay": [1, 2], "line": ["x", "y"], "spare": [True, False]}
    pq.write_table(pa.table(usual), tmp_path / "machines.parquet")
    assert load(joined(path="machines.parquet")[0].plan(), tmp_path)["machine"].keys == ["7", "8"]


def without_fill() -> Any:
    class Bare(Schema):
        device = Key[str]()
        bay = Col[int]()

    program = Pipeline("p")
    return program.read(Feed(Temp, "temp")).join(program.dimension(Bare, "x.csv"), how="left")


MISTAKES = [
    (
        lambda: joined(path="machines.xlsx"),
        r"dimension\(Machine, 'machines.xlsx'\): only .csv and .parquet can be read",
    ),
    (
        lambda: joined(path="/etc/machines.csv"),
        r"the file travels with the pipeline file, so it lies in its folder or one below",
    ),
    (lambda: joined(path="../machines.csv"), r"the file travels with the pipeline file"),
    (lambda: joined(columns={Temp.t: "T"}), r"columns=\{Temp.t: …\}: Machine has Machine.limit, Machine.bay"),
    (without_fill, r"join\(bare\), how='left': say what Bare.bay is where there is no row"),
    (lambda: joined()[1].join(joined()[2], how="left"), r"join\(machine\): it belongs to pipeline"),
    (lambda: facts(device=["a", "a"]), r"Machine.facts: 'a' is there twice; a dimension has one row for each key"),
]


@pytest.mark.parametrize(("program", "message"), MISTAKES)
def test_mistakes_are_named_with_their_cure(program: Any, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        program()


def test_a_dimension_has_no_times_to_be_tolerant_of() -> None:
    _, temp, machines, _ = joined()
    with pytest.raises(PlanError, match=r"join\(machine\), tolerance='5s': the rows of a dimension have no time"):
        temp.join(machines, how="left", tolerance="5s")


def test_content_that_nobody_gave_is_missed() -> None:
    program, temp, _, _ = joined()
    with pytest.raises(PlanError, match=r"dimension 'machine' \(machines.csv\) has no content: .*Machine.facts\(…\)"):
        run(program, {temp: sides.batch([])})
