"""The description of a Modbus source: what it takes, and what it says of mistakes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from connectors import modbus
from connectors.modbus import coil, discrete_input, holding, input_register, poll
from connectors.modbus.address import Endpoint, parse
from pipelines.errors import PlanError
from pipelines.schema import Arrival, Col, Key, Quality, Schema
from tests.connectors.options_table import PAGE, check


class Press(Schema):
    device = Key[str]()
    rms = Col[float]("mm/s")
    strokes = Col[int]()
    on = Col[bool]()
    name = Col[str]()
    quality = Quality()
    arrived = Arrival()


GIVEN: Mapping[Any, modbus.Register] = {
    Press.rms: holding(100, "float32"),
    Press.strokes: input_register(0, "uint32"),
    Press.on: coil(3),
    Press.name: holding(10, "string", length=4),
}
ONE = {"a": "modbus://10.0.0.5"}


def test_the_page_says_what_the_function_takes() -> None:
    check("modbus.source", modbus.source, PAGE.parent / "connectors" / "modbus.md")


@pytest.mark.parametrize(
    ("text", "endpoint", "unit"),
    [
        ("modbus://10.0.0.5", Endpoint("tcp", "10.0.0.5", 502), 1),
        ("modbus://plc:1502?unit=255", Endpoint("tcp", "plc", 1502), 255),
        ("modbus://[fe80::1]:502?unit=0", Endpoint("tcp", "fe80::1", 502), 0),
        ("modbus+rtu://10.0.0.9:4001?unit=3", Endpoint("rtu", "10.0.0.9", 4001), 3),
        (
            "modbus+serial:///dev/ttyUSB0?baud=9600&parity=N&stop=2&unit=7",
            Endpoint("serial", path="/dev/ttyUSB0", baud=9600, parity="N", stop=2),
            7,
        ),
        ("modbus+serial:///dev/ttyS1?unit=1", Endpoint("serial", path="/dev/ttyS1", baud=19200, parity="E", stop=1), 1),
    ],
)
def test_addresses(text: str, endpoint: Endpoint, unit: int) -> None:
    address = parse(text)
    assert (address.endpoint, address.unit) == (endpoint, unit)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("10.0.0.5", "write 'modbus://10.0.0.5:502"),
        ("tcp://10.0.0.5", "write 'modbus://10.0.0.5:502"),
        ("modbus://10.0.0.5:no", "write 'modbus://"),
        ("modbus://10.0.0.5/x", "write 'modbus://"),
        ("modbus://me:x@10.0.0.5", "write 'modbus://"),
        ("modbus://10.0.0.5?unit=256", "unit=256 is given, and unit is one of 0 to 255"),
        ("modbus://10.0.0.5?unit=one", "unit=one is given"),
        ("modbus://10.0.0.5?baud=9600", "baud is no option of it"),
        ("modbus+rtu://10.0.0.9?unit=1", "write 'modbus://"),
        ("modbus+rtu://10.0.0.9:4001", "unit= is given, and unit is one of"),
        ("modbus+serial:///etc/passwd?unit=1", "a path below /dev and a parity of N, E or O"),
        ("modbus+serial:///dev/ttyS0?unit=1&parity=X", "a parity of N, E or O"),
        ("modbus+serial:///dev/ttyS0?unit=1&baud=12345", "baud=12345 is given, and baud is one of 1200, 2400"),
        ("modbus+serial:///dev/ttyS0?unit=1&stop=3", "stop=3 is given"),
        ("modbus+serial://dev/ttyS0?unit=1", "a path below /dev"),
    ],
)
def test_an_address_that_is_wrong(text: str, message: str) -> None:
    with pytest.raises(PlanError, match=f"(?s)modbus address '.*{message}"):
        parse(text)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: holding(100, "int24"), "holding 100 int24: there is no such type; types are bool, int16"),  # type: ignore[arg-type]
        (lambda: holding(65_535, "int32"), "addresses go from 0 to 65535; a manual's 40101 is"),
        (lambda: coil(-1), "addresses go from 0"),
        (lambda: discrete_input(65_536), "addresses go from 0"),
        (lambda: holding(1, bit=16), "a register has the bits 0 to 15"),
        (lambda: holding(1, "bool"), "say which bit of the register"),
        (lambda: holding(1, "string"), "length= is for 'string', from 1 to 125 registers; got None"),
        (lambda: holding(1, "int16", length=2), "length= is for 'string'"),
        (lambda: holding(1, word_order="middle"), "word_order and byte_order are 'big' or 'little'"),  # type: ignore[arg-type]
        (lambda: holding(1, scale=0), "finite numbers are needed, scale not 0"),
        (lambda: input_register(1, "string", length=1, scale=2), "only a number has a scale"),
        (lambda: poll("soon", {Press.rms: holding(1)}), "modbus every: 'soon' is not a duration"),
        (lambda: poll("1s", {}), "a poll has no registers"),
        (lambda: poll("1s", {"rms": holding(1)}), r"'rms': Register.* is given; write Press.pressure: holding"),
    ],
)
def test_a_register_that_is_wrong(make: Any, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        make()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({Press.rms: coil(1)}, "Press.rms is a column of float64, and coil 1 bool cannot become one"),
        ({Press.strokes: holding(1, "float32")}, "Press.strokes is a column of int64, and holding 1 float32 cannot"),
        ({Press.strokes: holding(1, scale=0.5)}, "Press.strokes is a column of int: scale and offset of it are whole"),
        ({Press.name: holding(1)}, "Press.name is a column of str, and holding 1 uint16 cannot"),
        ({Press.on: holding(1)}, "Press.on is a column of bool"),
        ({Press.rms: holding(1, unit="m/s")}, "Press.rms is in 'mm/s', holding 1 uint16 in 'm/s': use scale="),
        ({Press.quality: holding(1)}, "Press.quality is no column that devices of Press send; they send Press.rms"),
    ],
)
def test_a_register_that_does_not_fit_its_column(changes: Mapping[Any, modbus.Register], message: str) -> None:
    names = {c.qualified for c in changes}
    registers = {c: r for c, r in GIVEN.items() if c.qualified not in names} | dict(changes)
    with pytest.raises(PlanError, match=message):
        modbus.source(Press, devices=ONE, registers=registers)


def without(column: Any) -> dict[Any, modbus.Register]:
    return {c: r for c, r in GIVEN.items() if c.qualified != column.qualified}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"devices": {}}, "0 are given; a source has 1 to 10000"),
        ({"devices": {"": "modbus://a"}}, "'' is no name"),
        ({"devices": {"a": "modbus://x?unit=1", "b": "modbus://x:502"}}, "b and a are the same unit of x:502"),
        ({"devices": {"a": "modbus://x:1?unit=1", "b": "modbus+rtu://x:1?unit=2"}}, "b: x:1 is given with other settings before"),
        (
            {"devices": {"a": "modbus+serial:///dev/ttyS0?unit=1", "b": "modbus+serial:///dev/ttyS0?unit=2&baud=9600"}},
            "b: /dev/ttyS0 is given with other settings before: a line has one",
        ),
        ({"registers": []}, "give a mapping"),
        ({"registers": [GIVEN]}, "give a mapping"),
        ({"registers": without(Press.rms)}, "Press.rms has none: say where it stands"),
        ({"registers": [poll("1s", GIVEN), poll("1m", {Press.rms: holding(1)})]}, "Press.rms is given twice"),
        ({"registers": [poll("1s", GIVEN)], "every": "2s"}, "with several polls each has its own"),
        ({"gap_max": 125}, "gap_max=125: give a number of registers from 0 to 124"),
        ({"timeout": "0s"}, "modbus timeout: '0s' is no time at all"),
        ({"timeouts": {"b": "1s"}}, "timeouts: 'b' is none of the devices"),
        ({"timeouts": {"a": "x"}}, "timeouts of a: 'x' is not a duration"),
        ({"stale": "x"}, "modbus stale: 'x' is not a duration"),
        ({"conditions": [1]}, "modbus conditions: 1 is none"),
    ],
)  # fmt: skip
def test_an_option_that_is_wrong(options: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        modbus.source(Press, **({"devices": ONE, "registers": GIVEN} | options))


def test_a_description() -> None:
    serial = "modbus+serial:///dev/ttyUSB0?unit="
    source = modbus.source(
        Press,
        devices={**ONE, "b": f"{serial}1", "c": f"{serial}2"},
        registers=[poll("1m", without(Press.rms)), poll("5s", {Press.rms: holding(100, "float32")})],
    )
    assert source.describe() == {
        "modbus": "a=10.0.0.5:502 unit 1, b=/dev/ttyUSB0 unit 1, c=/dev/ttyUSB0 unit 2",
        "every 1m": "Press.strokes=input_register 0 uint32, Press.on=coil 3 bool, Press.name=holding 10 string",
        "every 5s": "Press.rms=holding 100 float32",
    }
    assert (source.stream, source.fastest, source.stale, source.silence) == ("press", 1, "10s", "10s")
    assert source.ports == ("/dev/ttyUSB0",)
    assert modbus.source(Press, devices=ONE, registers=GIVEN, every="100ms").silence == "2s"
