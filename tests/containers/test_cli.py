"""The command line: what it says to users, where, and with which exit code."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner, Result

from containers.cli import main
from containers.engine import Engine
from pipelines.errors import Unavailable
from tests.containers.kit import SITE, pipeline_text, write_site

COMMANDS = (
    "build",
    "check",
    "deploy",
    "destroy",
    "graph",
    "history",
    "load",
    "logs",
    "plan",
    "rollback",
    "sites",
    "status",
)


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


KEYED = """
from connectors import topic
from pipelines import Col, Key, Pipeline, Schema, agg, tumbling


class Power(Schema):
    device = Key[str]()
    line = Col[str]()
    kw = Col[float]("kW")


class Total(Schema):
    kw = agg.sum(Power.kw)


keyed = Pipeline("keyed")
low = keyed.read(topic.append(Power, "power")).where(Power.kw < 5)
low.key_by(Power.line).window(tumbling("1m", late="0s"), Total).to(topic.results())
"""


def pipeline(*words: str) -> Result:
    """Run the command as a user does."""
    return CliRunner().invoke(main, list(words))


def test_check_says_what_runs_and_needs_no_network(tmp_path: Path) -> None:
    write_site(tmp_path)
    said = pipeline("check")
    assert said.exit_code == 0
    assert (
        "pipeline tiny is well: sources reading; results second; services upload, control, process, collect"
        in said.stdout
    )
    assert "site hall1 (site.toml) is well" in said.stdout
    assert said.stderr == ""


def test_check_of_a_pipeline_alone_needs_no_site(tmp_path: Path) -> None:
    (tmp_path / "other.py").write_text(pipeline_text())
    said = pipeline("check", "other.py", "-o", "json")
    assert json.loads(said.stdout)["pipeline"] == "tiny"
    assert json.loads(said.stdout)["version"] == 1


def test_options_may_stand_before_or_after_the_command(tmp_path: Path) -> None:
    write_site(tmp_path).rename(tmp_path / "hall1.toml")
    before, after = (
        pipeline("--site", "hall1.toml", "-o", "json", "check"),
        pipeline("check", "--site", "hall1.toml", "-o", "json"),
    )
    assert before.exit_code == after.exit_code == 0
    assert before.stdout == after.stdout


@pytest.mark.parametrize(
    ("site", "lines", "message"),
    [
        (None, "", "error: site.toml: there is no such site file: name it with --site FILE"),
        (
            SITE + 'brokrs = "x"',
            "",
            "error: site.toml:5: Object contains unknown field `brokrs`: did you mean `brokers`?",
        ),
        (SITE.replace("tiny.py", "tinny.py"), "", "tinny.py: there is no such pipeline file"),
        (SITE.replace("tiny.py", "tiny.py:press"), "", "has no pipeline 'press'; it defines tiny"),
        (SITE, "reading = = 1", "invalid syntax"),
        (SITE, "import nothing_of_that_name", "No module named 'nothing_of_that_name'"),
        (SITE.replace("file:///srv/parquet", "s3://plant"), "", "upload needs the secret 's3_access_key'"),
    ],
)
def test_a_users_mistake_is_one_line_and_exit_code_1(
    tmp_path: Path, site: str | None, lines: str, message: str
) -> None:
    if site is not None:
        write_site(tmp_path, site, first_lines=lines)
    said = pipeline("check")
    assert said.exit_code == 1
    assert message in said.stderr
    assert said.stderr.startswith("error: ")
    assert "Traceback" not in said.output
    assert said.stdout == ""


def test_check_needs_no_secret(tmp_path: Path) -> None:
    write_site(tmp_path, SITE + "[services.upload.secrets]\nkey = 'env:NO_SUCH_VARIABLE'")
    assert pipeline("check").exit_code == 0  # secrets are on the machine that deploys, not on the one that checks


@pytest.mark.parametrize("command", ["plan", "deploy", "build", "status", "rollback", "logs"])
def test_an_engine_that_is_not_there_is_named_with_the_cure(tmp_path: Path, command: str) -> None:
    write_site(tmp_path, SITE + f"engine = 'unix://{tmp_path}/nowhere.sock'")
    said = pipeline(command)
    assert said.exit_code == 1
    cure = "start it, or correct `engine` in the site file"
    assert said.stderr == f"error: no Docker engine answers at unix://{tmp_path}/nowhere.sock: {cure}\n"


def test_an_engine_that_lets_nobody_in_is_named_with_the_cure(tmp_path: Path) -> None:
    path = tmp_path / "locked.sock"
    write_site(tmp_path, SITE + f"engine = 'unix://{path}'")
    root = os.geteuid() == 0
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        path.chmod(0)
        if root:
            os.seteuid(65534)  # nothing is locked for root
        try:
            with pytest.raises(
                Unavailable, match=r"does not let this user in: join its group \(usually 'docker'\), or use sudo"
            ):
                Engine(f"unix://{path}")
        finally:
            if root:
                os.seteuid(0)


@pytest.mark.parametrize(
    "words",
    [
        ("deploi",),
        ("deploy", "--health-timeout", "soon"),
        ("deploy", "--soak", "5"),
        ("plan", "--output", "xml"),
        ("logs", "--tail", "0"),
        ("rollback", "x"),
    ],
)
def test_wrong_usage_is_exit_code_64(words: tuple[str, ...]) -> None:
    said = pipeline(*words)
    assert said.exit_code == 64
    assert "Usage:" in said.stderr


def test_a_wrong_duration_tells_how_to_write_one() -> None:
    assert (
        "'soon' is not a duration: write a number and a unit" in pipeline("deploy", "--health-timeout", "soon").stderr
    )


@pytest.mark.parametrize("words", [(c,) for c in COMMANDS] + [("device", "status")])
def test_help_teaches_with_an_example(words: tuple[str, ...]) -> None:
    said = pipeline(*words, "--help")
    assert said.exit_code == 0
    assert "Example" in said.stdout
    assert f"pipeline {' '.join(words)}" in said.stdout


def test_every_command_is_in_the_overview() -> None:
    said = pipeline("--help").stdout
    assert all(f"  {command} " in said for command in COMMANDS)


def test_graph_is_mermaid_or_json(tmp_path: Path) -> None:
    write_site(tmp_path)
    assert pipeline("graph").stdout.startswith("flowchart LR\n")
    graph = json.loads(pipeline("graph", "tiny.py", "--format", "json").stdout)
    assert [s["name"] for s in graph["steps"]] == ["reading", "second"]
    assert {s["kind"] for s in graph["sinks"]} == {"parquet", "control"}
    assert json.loads(pipeline("graph", "tiny.py", "-o", "json").stdout) == graph


def test_graph_as_a_picture_shows_every_step_with_its_schema_and_topic(tmp_path: Path) -> None:
    (tmp_path / "keyed.py").write_text(KEYED)
    picture = ElementTree.fromstring(pipeline("graph", "keyed.py", "--format", "svg").stdout)  # noqa: S314 - our own
    texts = [t.text or "" for t in picture.iter("{http://www.w3.org/2000/svg}text")]
    for shown in (
        "power",
        "power-where-by-line",
        "total",
        "topic {site}.keyed.power-where-by-line",
        "kw  float64 kW",
        "line  key",
    ):
        assert shown in texts, texts
    assert any("(Power.kw < 5)" in text for text in texts), "what stands for < in XML is not shown"
    graph = json.loads(pipeline("graph", "keyed.py", "--format", "json").stdout)
    edges = sum(len(s["from"]) for s in graph["steps"]) + len(graph["sinks"])
    assert len(list(picture.iter("{http://www.w3.org/2000/svg}path"))) == edges
    assert len(list(picture.iter("{http://www.w3.org/2000/svg}rect"))) == len(graph["steps"]) + len(graph["sinks"])


def test_a_broker_that_is_not_there_is_named(tmp_path: Path) -> None:
    write_site(tmp_path)
    said = pipeline("device", "status", "--brokers", "127.0.0.1:1")
    assert said.exit_code == 1
    assert "no Kafka broker answers at 127.0.0.1:1" in said.stderr
