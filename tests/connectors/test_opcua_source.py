"""The description of an OPC UA source: what it takes, what it refuses, and that its page is true."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from connectors import opcua
from connectors.conditions import deadband
from connectors.opcua import Deadband
from connectors.opcua.paths import Level, NodePath
from connectors.secrets import Secret, secret
from pipelines import Arrival, Col, Key, Quality, Schema
from pipelines.errors import PlanError
from tests.connectors.options_table import check
from tests.connectors.schemas import Vibration

URL = "opc.tcp://10.0.0.7:4840/plant"
PATH = "Objects/Plant/{device}/RMS"
FILES: dict[str, Any] = {"certificate": secret("c"), "key": secret("k"), "server_certificate": secret("s")}


class Press(Schema):
    device = Key[str]()
    rms = Col[float]("mm/s")
    mode = Col[str](absent="")
    quality = Quality()
    came = Arrival()


def source(**options: Any) -> opcua.OpcuaSource[Any]:
    given: dict[str, Any] = {"schema": Vibration, "server": URL, "nodes": {Vibration.rms: PATH}}
    return opcua.source(**(given | options))


def test_what_it_says_of_itself_holds_no_secret() -> None:
    made = source(
        security="Basic256Sha256, SignAndEncrypt",
        username="me",
        password=secret("pw"),
        deadband={Vibration.rms: 0.5},
        **FILES,
    )
    assert made.describe() == {"opcua": URL, "every": "1s", "rms": PATH, "security": "Basic256Sha256,SignAndEncrypt"}
    assert (made.stream, made.reader, made.speed) == ("vibration", "connectors.opcua.reader:OpcuaReader", 1)
    assert made.columns[0].deadband == Deadband(0.5)
    assert made.security is not None
    assert made.security.key == Secret("k")
    by_device = source(nodes={Vibration.rms: {"a": "ns=2;s=A", "b": "Objects/B/RMS"}})
    assert by_device.describe()["rms"] == "a=ns=2;s=A,b=Objects/B/RMS"
    assert source(conditions=[deadband(Vibration.rms, absolute=1)], stale="1m").conditions


def test_columns_that_the_source_fills_and_absent_ones_need_no_node() -> None:
    assert [c.name for c in source(schema=Press, nodes={Press.rms: PATH}).columns] == ["rms"]


def test_paths() -> None:
    path = NodePath.of("Objects/2:Plant/*/{device}/a:b", "device")
    assert path.levels == (
        Level("Objects"), Level("Plant", 2), Level(None), Level(None, is_key=True), Level("a:b"),
    )  # fmt: skip
    assert path.has_key
    assert path.levels[1].matches("Plant", 2)
    assert not path.levels[1].matches("Plant", 3)
    assert path.levels[2].matches("anything", 9)
    for text in ("ns=2;s=a/b", "i=85", "ns=3;g=0f0f", "nsu=urn:x;i=4"):
        assert NodePath.of(text, "device").node_id == text


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"server": "http://plant"}, "opcua server 'http://plant': write 'opc.tcp://host:4840/path'"),
        ({"server": "opc.tcp://"}, "opcua server 'opc.tcp://'"),
        ({"server": "opc.tcp://plant:none"}, "opcua server 'opc.tcp://plant:none'"),
        ({"server": "opc.tcp://["}, r"opcua server 'opc.tcp://\[': write"),
        ({"server": "opc.tcp://me:pw@plant"}, "opcua server 'opc.tcp://…@plant': write .* and username= and password= apart"),
        ({"nodes": {}}, "opcua nodes: Vibration.rms has none: say where it is, or give the column absent="),
        ({"nodes": {Press.rms: PATH}}, "opcua nodes: Press.rms is not a column of Vibration: it has Vibration.rms"),
        ({"nodes": {Vibration.rms: "Objects/Plant/RMS"}}, "no level is {device}; write one, or say whose it is"),
        ({"nodes": {Vibration.rms: "i=7"}}, "opcua node 'i=7' of rms: no level is {device}"),
        ({"nodes": {Vibration.rms: "Objects/{device}/{device}"}}, "write {device} once, for the level that names the device"),
        ({"nodes": {Vibration.rms: "Objects/{press}/RMS"}}, "level '{press}' cannot be used: the key is called {device}"),
        ({"nodes": {Vibration.rms: "Objects/p*/{device}"}}, r"level 'p\*' cannot be used: a wildcard is a whole level"),
        ({"nodes": {Vibration.rms: "Objects//{device}"}}, "write the browse names from the Root folder on with / between them"),
        ({"nodes": {Vibration.rms: "/".join("x" * 21)}}, "at most 20"),
        ({"nodes": {Vibration.rms: {}}}, "opcua nodes of rms: there are none"),
        ({"nodes": {Vibration.rms: {"a": PATH}}}, "it is given for one device, and has a level {device}"),
        ({"every": "soon"}, "opcua every: 'soon' is not a duration"),
        ({"sampling": "0s"}, "opcua sampling: '0s' is no time at all"),
        ({"silence": "quick"}, "opcua silence: 'quick' is not a duration"),
        ({"queue": 0}, "opcua queue=0: 1 to 100000 values"),
        ({"every": "1m"}, "opcua keep='1m': at least three times every='1m' is needed"),
        ({"deadband": {Vibration.rms: "2"}}, "opcua deadband of Vibration.rms: '2' is neither a number in the column's unit nor"),
        ({"deadband": {Vibration.rms: "200%"}}, "'200%' is neither"),
        ({"deadband": {Vibration.rms: -1}}, "-1 is neither"),
        ({"deadband": {Press.rms: 1}}, "opcua deadband: Press.rms is not a column of Vibration"),
        ({"schema": Press, "nodes": {Press.rms: PATH}, "deadband": {Press.mode: 1}}, "opcua deadband: Press.mode has no node"),
        ({"repeats": True, "deadband": {Vibration.rms: 1}}, "a dead-band holds back what repeats; give one of them"),
        ({"password": secret("pw")}, 'opcua password: write username="…", password=secret'),
        ({"username": "me", "password": "pw"}, 'opcua password: write username="…", password=secret'),
        ({"key": secret("k")}, "opcua key: it is of no use without security='Basic256Sha256,SignAndEncrypt'"),
        ({"security": "None", **FILES}, "opcua security 'None': write 'policy,mode' of Basic256Sha256,"),
        ({"security": "Basic256Sha256,Sign", **FILES, "key": None}, 'opcua security needs key=secret'),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said_where_it_is_written(options: dict[str, Any], says: str) -> None:
    with pytest.raises(PlanError, match=says):
        source(**options)


def test_a_schema_without_columns_of_its_own() -> None:
    class Empty(Schema):
        device = Key[str]()
        mode = Col[str](absent="")

    with pytest.raises(PlanError, match="opcua nodes: none of Empty's columns has a node"):
        source(schema=Empty, nodes={})


def test_the_page_says_what_the_function_takes() -> None:
    check("opcua.source", opcua.source, Path(__file__).parents[2] / "docs" / "connectors" / "opcua.md")
