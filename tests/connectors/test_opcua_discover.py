"""What a server has becomes a pipeline file that passes the check, and reads."""

from __future__ import annotations

from pathlib import Path

import pytest
from asyncua import ua
from click.testing import CliRunner

from connectors.opcua.discover import Found, Group, Variable, grouped, pipeline_file
from containers.cli import main
from pipelines.load import load
from tests.bed.opcua import OpcuaServer
from tests.bed.waiting import wait_until

V = ua.VariantType


def variables(*paths: str) -> list[Variable]:
    return [Variable(tuple(path.split("/")), n) for n, path in enumerate(paths)]


def shape(groups: list[Group]) -> dict[str, dict[str, list[str]]]:
    return {"/".join(g.parent): {"/".join(c.path): sorted(c.devices) for c in g.columns} for g in groups}


def test_what_repeats_below_siblings_is_a_column_and_they_are_devices() -> None:
    presses = [f"Plant/p{n}/{what}" for n in (1, 2, 3) for what in ("Vibration/RMS", "Vibration/Peak", "Temp")]
    groups, alone = grouped(variables(*presses, "Plant/p4/Temp", "Uptime"))
    three = ["p1", "p2", "p3"]
    assert shape(groups) == {"Plant": {"Vibration/RMS": three, "Vibration/Peak": three, "Temp": [*three, "p4"]}}
    assert [v.path for v in alone] == [("Uptime",)]


def test_the_same_below_several_is_a_wildcard_level() -> None:
    groups, _ = grouped(variables(*(f"{hall}/p{hall}{n}/RMS" for hall in ("N", "S") for n in range(3))))
    assert shape(groups) == {"*": {"RMS": ["pN0", "pN1", "pN2", "pS0", "pS1", "pS2"]}}
    same_names, _ = grouped(variables(*(f"{hall}/p{n}/RMS" for hall in ("N", "S") for n in range(3))))
    assert set(shape(same_names)) == {"N", "S"}, "devices of the same name are not mixed up"


def test_a_single_device_is_the_object_that_has_the_variables() -> None:
    groups, alone = grouped(variables("Plant/Press/RMS", "Plant/Press/Temp", "Plant/we/ird*/Temp"[:9] + "*/Temp"))
    assert shape(groups) == {"Plant": {"RMS": ["Press"], "Temp": ["Press"]}}
    assert len(alone) == 1


def test_names_that_python_cannot_have(tmp_path: Path) -> None:
    paths = ["Lines 1/d1/class", "Lines 1/d1/2nd Value", "Lines 1/d1/time", "Lines 1/d1/A/Value", "Lines 1/d1/B/Value"]
    groups, alone = grouped(variables(*(p.replace("d1", d) for d in ("d1", "d2") for p in paths)))
    for column in (c for g in groups for c in g.columns):
        column.type, column.unit, column.kind = "float", 'm"m\\', "Double"
    file = tmp_path / "found.py"
    file.write_text(pipeline_file("opc.tcp://plant:4840", Found(groups, alone, cut=True)))
    (source,) = load(str(file)).plan().sources.values()
    assert [f.name for f in source.schema.measured().fields] == [
        "x_class",
        "x_2nd_value",
        "time_2",
        "a_value",
        "b_value",
    ]
    assert {f.unit for f in source.schema.measured().fields} == {'m"m\\'}
    assert "Not all was looked at" in file.read_text()


@pytest.fixture(scope="module")
def plant(opcua_server: OpcuaServer) -> OpcuaServer:
    for n in (1, 2, 3):
        opcua_server.variable(f"Disco/press-{n}/Vibration/RMS", 1.0 * n)
        opcua_server.variable(f"Disco/press-{n}/Starts", n, V.Int32)
        opcua_server.variable(f"Disco/press-{n}/Curve", [1.0, 2.0])
    opcua_server.variable("Disco/press-1/Mode", "run", V.String)
    opcua_server.variable("Disco/press-2/Temp", 20.0)

    async def unit() -> None:
        for n in (1, 2, 3):
            unit = ua.EUInformation(DisplayName=ua.LocalizedText("mm/s"))
            await opcua_server.nodes[f"Disco/press-{n}/Vibration/RMS"].add_property(2, "EngineeringUnits", unit)

    opcua_server.do(unit())
    return opcua_server


def test_the_command_writes_a_file_that_passes_the_check(plant: OpcuaServer, tmp_path: Path) -> None:
    out = tmp_path / "found.py"
    words = ["devices", "discover", "opcua", plant.url, "--out", str(out)]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.output
    assert f"pipeline check {out}" in done.stdout
    text = out.read_text()
    assert "    device = Key[str]()  # 'press-1', 'press-2', 'press-3'\n" in text
    assert "    rms = Col[float]('mm/s')  # 'Vibration/RMS' (Double)\n" in text
    assert "    starts = Col[int]()  # 'Starts' (Int32)\n" in text
    assert "    mode = Col[str](absent=\"\")  # 'Mode' (String, 1 of 3 devices)\n" in text
    assert "    temp = Col[float](absent=float(\"nan\"))  # 'Temp' (Double, 1 of 3 devices)\n" in text
    assert "    # curve: 'Curve' is of a type that no column has (array of Double)\n" in text
    assert "            Disco.rms: 'Objects/Disco/{device}/Vibration/RMS',\n" in text
    assert "ServerStatus" not in text, "not about the server itself"
    checked = CliRunner().invoke(main, ["check", str(out)])
    assert checked.exit_code == 0, checked.output
    again = CliRunner().invoke(main, words)
    assert again.exit_code == 1
    assert "is there already: name another file with --out" in again.stderr


def test_the_command_says_what_is_wrong(plant: OpcuaServer, tmp_path: Path) -> None:
    few = CliRunner().invoke(main, ["devices", "discover", "opcua", plant.url, "--nodes", "3"])
    assert few.exit_code == 0
    assert "Not all was looked at" in few.stdout
    for url in ("http://plant", "opc.tcp://["):
        wrong = CliRunner().invoke(main, ["devices", "discover", "opcua", url])
        says = f"{url!r} is no OPC UA server: write 'opc.tcp://host:4840/path'"
        assert (wrong.exit_code, says in wrong.stderr) == (1, True)
    nobody = CliRunner().invoke(main, ["devices", "discover", "opcua", "opc.tcp://127.0.0.1:1"])
    assert (nobody.exit_code, "cannot be reached" in nobody.stderr) == (1, True)
    password = tmp_path / "pw"
    password.write_text("wrong")
    name = ["--username", "collect", "--password-file", str(password)]
    denied = CliRunner().invoke(main, ["devices", "discover", "opcua", plant.url, *name])
    assert (denied.exit_code, "refuses user 'collect'" in denied.stderr) == (1, True)


def test_looking_leaves_no_session_behind(plant: OpcuaServer) -> None:
    before = len(plant.server.iserver._external_sessions)  # of tests before, which the server may yet end
    assert CliRunner().invoke(main, ["devices", "discover", "opcua", plant.url, "--depth", "2"]).exit_code == 0
    wait_until(lambda: len(plant.server.iserver._external_sessions) <= before, 10, "the server to end the session")
