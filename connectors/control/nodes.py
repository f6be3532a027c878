"""What an OPC UA device may be told, as devices.toml says it: nodes with their types, and methods. Pure.

[profiles.mixer]
devices = ["mixer-*"]
[profiles.mixer.opcua]
server = "opc.tcp://10.0.0.9:4840"
[profiles.mixer.verbs.set_speed]
args.speed = {type = "float", min = 0.0, max = 2.5}
set = {node = "Objects/Plant/{device}/Speed", type = "Float", arg = "speed"}
[profiles.mixer.verbs.start]
call = {object = "Objects/Plant/{device}", method = "Start", inputs = [{type = "Int32", value = 1}]}
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import msgspec

from connectors.control.commands import Value
from connectors.opcua import MODES, POLICIES, Security
from connectors.opcua.paths import NodePath
from connectors.secrets import Secret, secret
from pipelines.errors import ConfigError, PlanError
from pipelines.units import duration_ns
from pipelines.urls import parts_of

WITHIN_NS_MAX = 4 * 10**9  # a delivery must have ended before the ledger gives it up (ledger.ACK_WAIT_NS)
INPUTS_MAX = 16
DEVICE = "{device}"
_OF_DEVICE = re.compile(r"ns=(\d+);s=(.*)", re.S)  # the one form of NodeId in which a device's name can stand
_INTS = {
    "SByte": (-(2**7), 2**7 - 1), "Byte": (0, 2**8 - 1), "Int16": (-(2**15), 2**15 - 1), "UInt16": (0, 2**16 - 1),
    "Int32": (-(2**31), 2**31 - 1), "UInt32": (0, 2**32 - 1), "Int64": (-(2**63), 2**63 - 1), "UInt64": (0, 2**64 - 1),
}  # fmt: skip
_TAKES = {"Boolean": ("bool",), "String": ("text",), "Float": ("float", "int"), "Double": ("float", "int")}
Scalar = bool | int | float | str


class Typed(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A value of one of OPC UA's types: a constant, or the argument of that name."""

    type: Literal[
        "Boolean", "SByte", "Byte", "Int16", "UInt16", "Int32", "UInt32", "Int64", "UInt64", "Float", "Double", "String"
    ]
    arg: str = ""
    value: Value = None

    def takes(self, kind: str | None) -> bool:
        """Whether an argument of that type can be sent."""
        return kind in _TAKES.get(self.type, ("float", "int"))

    def raw(self, args: Mapping[str, Value]) -> Scalar:
        """What is sent; `ConfigError` if it is nothing of that type."""
        given = args[self.arg] if self.arg else self.value
        name = self.arg or "value"
        if self.type == "Boolean" or self.type == "String":
            if not isinstance(given, bool if self.type == "Boolean" else str):
                raise ConfigError(f"{name}={given!r} is no {self.type}")
            return given
        if isinstance(given, bool) or not isinstance(given, int | float):
            raise ConfigError(f"{name}={given!r} is no {self.type}")
        return self._integer(name, given) if self.type in _INTS else self._real(name, given)

    def _integer(self, name: str, given: float) -> int:
        low, high = _INTS[self.type]
        if not math.isfinite(given) or given != int(given) or not low <= given <= high:
            raise ConfigError(f"{name}={given:g} is no {self.type}: whole numbers from {low} to {high} are")
        return int(given)

    def _real(self, name: str, given: float) -> float:
        try:
            number = struct.unpack("<f", struct.pack("<f", given))[0] if self.type == "Float" else float(given)
        except OverflowError as e:
            raise ConfigError(f"{name}={given:g} is no {self.type}: it is too large") from e
        return float(number)


class Set(Typed, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A value that is written to a node and read back until it is there."""

    node: str  # 'Objects/Plant/{device}/Speed', or a NodeId
    read_back: bool = True  # false where the device takes the value and shows another, as a pulse does
    within: str = "2s"  # the node must have the value after that long


class Call(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A method that is called."""

    object: str  # the node that has it
    method: str  # its browse name, '2:Start' or 'Start', or a NodeId
    inputs: list[Typed] = []
    within: str = "4s"  # the method must have returned after that long


class Server(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How an OPC UA server is reached; certificates, key and password are names of secrets of `control`."""

    server: str
    security: str = ""  # 'Basic256Sha256,SignAndEncrypt'
    certificate: str = ""
    key: str = ""
    server_certificate: str = ""
    username: str = ""
    password: str = ""

    @property
    def secrets(self) -> list[str]:
        """Names of all that it refers to."""
        return [n for n in (self.certificate, self.key, self.server_certificate, self.password) if n]

    @property
    def sealed(self) -> Security | None:
        """How messages are protected; None: not at all."""
        if not self.security:
            return None
        policy, _, mode = self.security.replace(" ", "").partition(",")
        return Security(policy, mode, secret(self.certificate), secret(self.key), secret(self.server_certificate))

    @property
    def said(self) -> Secret | None:
        """The password, if there is one."""
        return secret(self.password) if self.password else None

    def wrong(self) -> Iterator[tuple[str, str]]:
        """(field, what is wrong with it) of each mistake."""
        if parts_of(self.server, "opc.tcp") is None:
            yield ".server", "write 'opc.tcp://host:4840/path', and username and password apart"
        policy, _, mode = self.security.replace(" ", "").partition(",")
        if self.security and (policy not in POLICIES or mode not in MODES):
            yield ".security", f"write 'policy,mode' of {', '.join(POLICIES)} and {', '.join(MODES)}"
        papers = {n: getattr(self, n) for n in ("certificate", "key", "server_certificate")}
        for name, given in papers.items():
            if bool(given) != bool(self.security):
                yield f".{name}", "security and the secrets certificate, key, server_certificate belong together"
        if self.password and not self.username:
            yield ".password", "is of no use without username"
        for name in self.secrets:
            try:
                secret(name)
            except ConfigError as e:
                yield "", str(e)


@dataclass(frozen=True)
class OwnNode:
    """A node whose identifier is a text with a device's name in it."""

    namespace: int
    identifier: str


def place_of(text: str, device: str) -> NodePath | OwnNode:
    """Where a node of a device is; `PlanError` if that cannot be read.

    The name of the device is put into no text that is read afterwards, so none can lead to a node of another form.
    """
    at = _OF_DEVICE.fullmatch(text)
    if at and DEVICE in at[2]:
        return OwnNode(int(at[1]), at[2].replace(DEVICE, device))
    return NodePath.of(text, "device")


def wrong_node(at: str, text: str, one_device: bool) -> Iterator[tuple[str, str]]:
    """What is wrong with the place of a node."""
    try:
        place = place_of(text, "x")
    except PlanError as e:
        yield at, str(e)
        return
    if isinstance(place, OwnNode):
        return
    if place.node_id is not None and DEVICE in text:
        yield at, "a NodeId has {device} in its text only, such as 'ns=2;s={device}.Speed'"
    elif any(level.name is None and not level.is_key for level in place.levels):
        yield at, f"{text!r}: name every level, for one node is meant: no *"
    elif not (one_device or place.has_key):
        yield at, f"{text!r} is one node, and the profile is for several devices: write {DEVICE} in it"


def wrong_set(at: str, set_: Set, types: Mapping[str, str], one_device: bool) -> Iterator[tuple[str, str]]:
    """What is wrong with a `set`. `types` are those of the verb's arguments that are always there."""
    yield from wrong_node(f"{at}.node", set_.node, one_device)
    yield from _wrong_typed(at, set_, types)
    yield from _wrong_within(at, set_.within)


def wrong_call(at: str, call: Call, types: Mapping[str, str], one_device: bool) -> Iterator[tuple[str, str]]:
    """What is wrong with a `call`; as `wrong_set`."""
    yield from wrong_node(f"{at}.object", call.object, one_device)
    if not call.method or "/" in call.method or DEVICE in call.method or call.method == "*":
        yield f"{at}.method", f"{call.method!r}: write the method's own browse name, such as 'Start'"
    if len(call.inputs) > INPUTS_MAX:
        yield f"{at}.inputs", f"has {len(call.inputs)}, and may have {INPUTS_MAX}"
    for n, given in enumerate(call.inputs):
        yield from _wrong_typed(f"{at}.inputs[{n}]", given, types)
    yield from _wrong_within(at, call.within)


def _wrong_typed(at: str, given: Typed, types: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    if bool(given.arg) == (given.value is not None):
        yield at, "name either the argument (arg = 'speed') or the value (value = 1) that is sent"
    elif given.arg and not given.takes(types.get(given.arg)):
        yield f"{at}.arg", f"{given.arg!r} is no argument of the verb that is always there and can be a {given.type}"
    elif not given.arg:
        try:
            given.raw({})
        except ConfigError as e:
            yield at, str(e)


def _wrong_within(at: str, within: str) -> Iterator[tuple[str, str]]:
    if not 0 < duration_ns(within) <= WITHIN_NS_MAX:
        yield f"{at}.within", f"write more than 0 and at most {WITHIN_NS_MAX // 10**9}s"
