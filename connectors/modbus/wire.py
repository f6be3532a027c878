"""Modbus on the wire, sans-I/O: requests that read, and the answers to them. It can make no other request.

The formats: Modbus Application Protocol 1.1b3 (PDU), Messaging on TCP/IP 1.0b (MBAP header), Serial Line 1.02 (RTU).
"""

from __future__ import annotations

import struct
from typing import Protocol

import numpy as np
import numpy.typing as npt

READ_COILS, READ_DISCRETE_INPUTS, READ_HOLDING, READ_INPUT = 1, 2, 3, 4
BITS_MAX, WORDS_MAX = 2_000, 125  # in one request
COUNT_MAX = {READ_COILS: BITS_MAX, READ_DISCRETE_INPUTS: BITS_MAX, READ_HOLDING: WORDS_MAX, READ_INPUT: WORDS_MAX}
PDU_BYTES_MAX = 253
FRAME_BYTES_MAX = 1_024  # kept of what comes while an RTU answer is looked for
ILLEGAL_FUNCTION, ILLEGAL_ADDRESS, ILLEGAL_VALUE = 1, 2, 3
NO_PATH, NO_TARGET = 10, 11
CODES = {
    ILLEGAL_FUNCTION: "illegal_function", ILLEGAL_ADDRESS: "illegal_address", ILLEGAL_VALUE: "illegal_value",
    4: "device_failure", 5: "acknowledge", 6: "busy", 8: "memory_parity", NO_PATH: "gateway_path", NO_TARGET: "gateway_target",
}  # fmt: skip
Words = npt.NDArray[np.uint16]


class Refused(Exception):
    """The device, or a gateway, answered with an exception code."""

    def __init__(self, code: int) -> None:
        self.code = code
        self.reason = CODES.get(code, f"exception_{code}")
        super().__init__(f"exception {code} ({self.reason})")


class Malformed(Exception):
    """An answer that does not fit its request."""


class OutOfStep(Exception):
    """What comes over the connection is not Modbus: it must be made anew."""


def request(function: int, start: int, count: int) -> bytes:
    """The PDU that asks for `count` bits or registers from `start` on. `ValueError` for any function but the four that read."""
    if function not in COUNT_MAX:
        raise ValueError(f"function {function} is not one that reads")
    if not (1 <= count <= COUNT_MAX[function] and 0 <= start <= start + count <= 65_536):
        raise ValueError(f"{count} from {start} cannot be asked for with function {function}")
    return struct.pack(">BHH", function, start, count)


def answer(function: int, count: int, pdu: bytes) -> Words:
    """The values (one uint16 for each register or bit) of the answer to `request(function, _, count)`.

    `Refused` if it is an exception, `Malformed` if it is no answer to that.
    """
    if len(pdu) == 2 and pdu[0] == function | 0x80:
        raise Refused(pdu[1])
    bits = function in (READ_COILS, READ_DISCRETE_INPUTS)
    nbytes = (count + 7) // 8 if bits else 2 * count
    if len(pdu) != 2 + nbytes or pdu[0] != function or pdu[1] != nbytes:
        raise Malformed(
            f"{len(pdu)} bytes that begin with {pdu[:2].hex()}, {2 + nbytes} of function {function} are due"
        )
    if bits:
        packed = np.frombuffer(pdu, np.uint8, offset=2)
        return np.unpackbits(packed, count=count, bitorder="little").astype(np.uint16)
    return np.frombuffer(pdu, ">u2", offset=2).astype(np.uint16)


class Framer(Protocol):
    """How PDUs travel. One question at a time: what is fed is looked through for the answer to the last."""

    stale: int  # answers that came to no question, or too late

    def question(self, unit: int, pdu: bytes) -> bytes:
        """The bytes to be sent."""
        ...

    def feed(self, data: bytes) -> bytes | None:
        """The PDU of the answer, if it is whole now. `OutOfStep` if this is no Modbus."""
        ...


class TcpFramer:
    """MBAP: an answer has its question's transaction number, so that one which comes too late is known as such."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._transaction = self._unit = 0
        self._waiting = False
        self.stale = 0

    def question(self, unit: int, pdu: bytes) -> bytes:
        """See `Framer`."""
        self._transaction = self._transaction % 0xFFFF + 1
        self._unit, self._waiting = unit, True
        return struct.pack(">HHHB", self._transaction, 0, len(pdu) + 1, unit) + pdu

    def feed(self, data: bytes) -> bytes | None:
        """See `Framer`."""
        self._buffer += data
        found: bytes | None = None
        while len(self._buffer) >= 7:
            transaction, protocol, length, unit = struct.unpack_from(">HHHB", self._buffer)
            if protocol or not 2 <= length <= PDU_BYTES_MAX + 1:
                raise OutOfStep(f"a header of {self._buffer[:7].hex(' ')} is not one of Modbus TCP")
            if len(self._buffer) < 6 + length:
                break
            pdu = bytes(self._buffer[7 : 6 + length])
            del self._buffer[: 6 + length]
            if self._waiting and (transaction, unit) == (self._transaction, self._unit):
                found, self._waiting = pdu, False
            else:
                self.stale += 1
        return found


class RtuFramer:
    """Unit, PDU, CRC. Answers have no number: one that comes too late is told from the next by unit, function and length only."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._unit = self._function = -1
        self._nbytes = 0
        self.stale = 0

    def question(self, unit: int, pdu: bytes) -> bytes:
        """See `Framer`. What came before is forgotten."""
        self._buffer.clear()
        self._unit = unit
        self._function, _, count = struct.unpack(">BHH", pdu)
        bits = self._function in (READ_COILS, READ_DISCRETE_INPUTS)
        self._nbytes = (count + 7) // 8 if bits else 2 * count
        frame = bytes([unit]) + pdu
        return frame + crc16(frame)

    def feed(self, data: bytes) -> bytes | None:
        """See `Framer`. Noise before the answer is skipped."""
        self._buffer += data
        del self._buffer[:-FRAME_BYTES_MAX]
        for at in range(len(self._buffer) - 4):
            if self._buffer[at] != self._unit:
                continue
            frame = bytes(self._buffer[at : at + self._length(at)])
            if frame and crc16(frame[:-2]) == frame[-2:]:
                self._unit = -1
                self._buffer.clear()
                return frame[1:-2]
        return None

    def _length(self, at: int) -> int:
        """Bytes of the frame that may begin there; 0 if none does or it is not whole."""
        function, nbytes = self._buffer[at + 1], self._buffer[at + 2]
        if function == self._function | 0x80:
            length = 5
        elif (function, nbytes) == (self._function, self._nbytes):
            length = 5 + nbytes
        else:
            return 0
        return length if at + length <= len(self._buffer) else 0


def _crc_table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = crc >> 1 ^ (0xA001 if crc & 1 else 0)
        table.append(crc)
    return tuple(table)


_CRC = _crc_table()


def crc16(data: bytes) -> bytes:
    """CRC-16/MODBUS, as it travels: low byte first."""
    crc = 0xFFFF
    for byte in data:
        crc = crc >> 8 ^ _CRC[(crc ^ byte) & 0xFF]
    return crc.to_bytes(2, "little")
