"""Where a device is: its line (a TCP connection or a serial port), and its unit number there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal
from urllib.parse import parse_qsl, urlsplit

from pipelines.errors import PlanError

PORT = 502
UNIT_MAX = 255  # on serial lines 1 to 247; TCP gateways and devices also use 0 and 255
BAUDS = (1200, 2400, 4800, 9600, 19200, 38400, 57600, 115200)
HELP = (
    "write 'modbus://10.0.0.5:502?unit=1', 'modbus+rtu://10.0.0.9:4001?unit=3' "
    "or 'modbus+serial:///dev/ttyUSB0?baud=19200&parity=E&unit=7'"
)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One connection: who shares it is asked one after the other."""

    kind: Literal["tcp", "rtu", "serial"]
    host: str = ""
    port: int = 0
    path: str = ""
    baud: int = 19200
    parity: str = "E"
    stop: int = 1

    def __str__(self) -> str:
        return self.path or f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Address:
    """A device: a unit behind an endpoint."""

    endpoint: Endpoint
    unit: int


def parse(text: str) -> Address:
    """An address from its URL; `PlanError` says what is wrong with it."""
    try:
        url = urlsplit(text)
        port = url.port
        options = dict(parse_qsl(url.query, keep_blank_values=True, strict_parsing=bool(url.query)))
    except (ValueError, AttributeError) as e:
        raise PlanError(f"modbus address {text!r}: {e}: {HELP}") from e
    kind = {"modbus": "tcp", "modbus+rtu": "rtu", "modbus+serial": "serial"}.get(url.scheme)
    if kind is None or url.username or url.fragment:
        raise PlanError(f"modbus address {text!r}: {HELP}")
    known = {"unit", "baud", "parity", "stop"} if kind == "serial" else {"unit"}
    if strange := set(options) - known:
        raise PlanError(f"modbus address {text!r}: {', '.join(sorted(strange))} is no option of it: {HELP}")
    unit = _number(text, "unit", options.get("unit", "1" if kind == "tcp" else ""), range(UNIT_MAX + 1))
    if kind == "serial":
        return Address(_serial(text, url.netloc, url.path, options), unit)
    if not url.hostname or url.path.strip("/") or (kind == "rtu" and port is None):
        raise PlanError(f"modbus address {text!r}: {HELP}")
    return Address(Endpoint("tcp" if kind == "tcp" else "rtu", url.hostname, PORT if port is None else port), unit)


def _serial(text: str, netloc: str, path: str, options: dict[str, str]) -> Endpoint:
    parity = options.get("parity", "E")
    if netloc or not path.startswith("/dev/") or parity not in ("N", "E", "O"):
        raise PlanError(f"modbus address {text!r}: a path below /dev and a parity of N, E or O are needed: {HELP}")
    baud = _number(text, "baud", options.get("baud", "19200"), BAUDS)
    stop = _number(text, "stop", options.get("stop", "1"), (1, 2))
    return Endpoint("serial", path=path, baud=baud, parity=parity, stop=stop)


def _number(text: str, name: str, value: str, allowed: range | tuple[int, ...]) -> int:
    number = int(value) if value.isascii() and value.isdigit() else -1
    if number not in allowed:
        shown = f"{allowed[0]} to {allowed[-1]}" if isinstance(allowed, range) else ", ".join(map(str, allowed))
        raise PlanError(f"modbus address {text!r}: {name}={value} is given, and {name} is one of {shown}")
    return number
