"""Modbus on the wire: what is sent, what is understood, and that nothing but reading can be asked for."""

from __future__ import annotations

import ast
import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymodbus.framer import FramerRTU, FramerSocket
from pymodbus.pdu import DecodePDU

import connectors.modbus
from connectors.modbus import wire

BLOCKS = st.sampled_from([1, 2, 3, 4]).flatmap(
    lambda f: st.tuples(st.just(f), st.integers(1, wire.COUNT_MAX[f])).flatmap(
        lambda fc: st.tuples(st.just(fc[0]), st.integers(0, 65_536 - fc[1]), st.just(fc[1]))
    )
)


def test_the_specification_s_example() -> None:
    """Application Protocol 1.1b3, 6.3: registers 108 to 110."""
    assert wire.request(3, 0x6B, 3) == bytes.fromhex("03006b0003")
    assert wire.answer(3, 3, bytes.fromhex("0306022b00000064")).tolist() == [0x022B, 0, 0x64]
    assert wire.answer(1, 19, bytes.fromhex("0103cd6b05")).tolist() == [
        *(1, 0, 1, 1, 0, 0, 1, 1), *(1, 1, 0, 1, 0, 1, 1, 0), *(1, 0, 1),
    ]  # fmt: skip
    assert wire.crc16(b"123456789") == (0x4B37).to_bytes(2, "little")  # the catalogue's check value


@pytest.mark.parametrize("function", [0, *range(5, 129), 255])
def test_only_the_functions_that_read_can_be_asked_for(function: int) -> None:
    with pytest.raises(ValueError, match=f"function {function} is not one that reads"):
        wire.request(function, 0, 1)


@pytest.mark.parametrize(("start", "count"), [(0, 0), (0, 126), (65_536, 1), (65_535, 2), (-1, 1)])
def test_a_request_stays_within_the_limits(start: int, count: int) -> None:
    with pytest.raises(ValueError, match="cannot be asked for"):
        wire.request(3, start, count)


def test_nothing_in_the_sources_writes() -> None:
    """Only `wire.request` makes PDUs, and only `Link.ask` sends; no module that `collect` loads knows another function."""
    folder = Path(connectors.modbus.__file__).parent
    calls: dict[str, list[str]] = {"pack": [], "ask": [], "question": []}
    for path in sorted(folder.glob("*.py")):
        if path.name == "discover.py":  # runs on the operator's machine, not in the image
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in calls:
                calls[node.func.attr].append(path.name)
        text = path.read_text()
        assert "discover" not in {n.name for n in ast.walk(ast.parse(text)) if isinstance(n, ast.alias)}
    assert calls == {"pack": ["wire.py"] * 2, "ask": ["line.py"], "question": ["link.py"]}
    line = (folder / "line.py").read_text()
    assert "ask(device.unit, wire.request(block.function, block.start, block.count)" in line


@given(BLOCKS, st.integers(0, 255))
def test_requests_are_what_pymodbus_understands(block: tuple[int, int, int], unit: int) -> None:
    function, start, count = block
    for ours, theirs in ((wire.TcpFramer(), FramerSocket), (wire.RtuFramer(), FramerRTU)):
        framer: Any = theirs(DecodePDU(True))
        sent = ours.question(unit, wire.request(function, start, count))
        used, got_unit, _, pdu = framer.decode(sent)
        assert (used, got_unit, pdu) == (len(sent), unit, wire.request(function, start, count))


@settings(max_examples=40)
@given(BLOCKS, st.integers(1, 247), st.data())
def test_answers_arrive_however_they_are_cut(block: tuple[int, int, int], unit: int, data: st.DataObject) -> None:
    function, start, count = block
    values = data.draw(st.lists(st.integers(0, 65535 if function > 2 else 1), min_size=count, max_size=count))
    if function > 2:
        packed = np.array(values, ">u2").tobytes()
    else:
        packed = np.packbits(np.array(values, np.uint8), bitorder="little").tobytes()
    pdu = bytes([function, len(packed)]) + packed
    tcp, rtu = wire.TcpFramer(), wire.RtuFramer()
    asked = tcp.question(unit, wire.request(function, start, count))
    rtu.question(unit, wire.request(function, start, count))
    mbap = FramerSocket(DecodePDU(False)).encode(pdu, unit, int.from_bytes(asked[:2], "big"))
    serial = FramerRTU(DecodePDU(False)).encode(pdu, unit, 0)
    noise = data.draw(st.binary(max_size=5)).replace(bytes([unit]), b"")
    for framer, sent in ((tcp, mbap), (rtu, noise + serial)):
        cuts = sorted(data.draw(st.lists(st.integers(0, len(sent)), max_size=4)))
        pieces = [sent[a:b] for a, b in zip([0, *cuts], [*cuts, len(sent)], strict=True)]
        found = [got for got in map(framer.feed, pieces) if got is not None]
        assert found == [pdu]
        assert wire.answer(function, count, found[0]).tolist() == values


def test_an_answer_that_comes_too_late_is_dropped() -> None:
    framer = wire.TcpFramer()
    late = framer.question(1, wire.request(3, 0, 1))
    framer.question(1, wire.request(3, 0, 1))
    body = bytes.fromhex("0000 0005 01 03 02")
    assert framer.feed(late[:2] + body + b"\0\1") is None
    assert framer.stale == 1
    now = framer.question(1, wire.request(3, 0, 1))
    assert framer.feed(late[:2] + body + b"\0\1" + now[:2] + body + b"\0\2") == bytes.fromhex("03020002")
    assert framer.feed(now[:2] + body + b"\0\2") is None  # the same once more
    other = framer.question(1, wire.request(3, 0, 1))
    assert framer.feed(other[:2] + bytes.fromhex("0000 0005 02 03 02 0001")) is None  # another unit's
    assert framer.stale == 4


def test_transactions_begin_anew_after_the_last_number() -> None:
    framer = wire.TcpFramer()
    numbers = {framer.question(1, b"\3\0\0\0\1")[:2] for _ in range(65_535)}
    assert len(numbers) == 65_535
    assert framer.question(1, b"\3\0\0\0\1")[:2] == b"\0\1"


@pytest.mark.parametrize("head", ["0001 0001 0005 01", "0001 0000 0001 01", "0001 0000 00ff 01", "4854 5450 2f31 2e"])
def test_another_protocol_is_found_out(head: str) -> None:
    framer = wire.TcpFramer()
    framer.question(1, wire.request(3, 0, 1))
    with pytest.raises(wire.OutOfStep, match="is not one of Modbus TCP"):
        framer.feed(bytes.fromhex(head) + b"\0" * 20)


@pytest.mark.parametrize(
    ("pdu", "error"),
    [
        (b"", wire.Malformed), (b"\3", wire.Malformed), (b"\3\2\0", wire.Malformed), (b"\3\4\0\0\0\0", wire.Malformed),
        (b"\4\2\0\0", wire.Malformed), (b"\3\3\0\0", wire.Malformed), (b"\x84\2", wire.Malformed), (b"\x83\2", wire.Refused),
        (b"\x83\2\0", wire.Malformed),
    ],
)  # fmt: skip
def test_an_answer_that_is_none(pdu: bytes, error: type[Exception]) -> None:
    with pytest.raises(error):
        wire.answer(3, 1, pdu)


def test_exceptions_have_names() -> None:
    assert [wire.Refused(c).reason for c in (1, 2, 11, 99)] == [
        "illegal_function", "illegal_address", "gateway_target", "exception_99",
    ]  # fmt: skip


@given(st.lists(st.binary(max_size=300), max_size=5), BLOCKS)
def test_garbage_raises_nothing_unexpected(pieces: list[bytes], block: tuple[int, int, int]) -> None:
    function, _, count = block
    framers: list[wire.Framer] = [wire.TcpFramer(), wire.RtuFramer()]
    for framer in framers:
        framer.question(1, wire.request(*block))
        try:
            for piece in pieces:
                got = framer.feed(piece)
                if got is not None:
                    wire.answer(function, count, got)
        except (wire.OutOfStep, wire.Malformed, wire.Refused):
            pass
    for piece in pieces:
        with contextlib.suppress(wire.Malformed, wire.Refused):
            assert len(wire.answer(function, count, piece)) == count
