"""What devices may be told, and by whom: the document `devices.toml`. What it does not allow is refused. Pure.

    [issuers.anna]                       # a person, or a program outside of the pipeline
    key = "…"                            # as `pipeline device keys new anna` prints it
    devices = ["press-*"]
    verbs = ["set_speed", "approve"]

    [profiles.press]
    devices = ["press-*"]
    topic = "press/{device}/cmd"         # MQTT; or modbus = "tcp://10.0.0.7:502"; or a table [profiles.press.opcua]
    [profiles.press.verbs.set_speed]
    idempotent = true
    rate = "6/1m"
    args.speed = {type = "float", min = 0.0, max = 2.5, unit = "m/s"}

docs/control.md explains every line.
"""

from __future__ import annotations

import binascii
import math
import re
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Literal
from urllib.parse import urlsplit

import msgspec

from connectors.control import ATTEMPTS_MAX, DeviceTopic
from connectors.control.commands import ARGS_MAX, EDGE, Command, Value
from connectors.control.nodes import WITHIN_NS_MAX, Call, Server, Set, wrong_call, wrong_set
from pipelines.errors import ConfigError, SitestreamError
from pipelines.settings import decode_strict
from pipelines.units import duration_ns, rate

DOCUMENT_BYTES_MAX = 64 * 2**10
RATE_PER_NS_MAX = 3600 * 10**9  # what was admitted is remembered for longer than that
RATE_MAX = 1000
APPROVE, OFF, ON, TWIN = "approve", "off", "on", "twin"  # verbs that control itself carries out
REBIRTH = "rebirth"  # the only verb of an edge node
OWN = (APPROVE, OFF, ON, TWIN)
OPCUA = "connectors.control.opcua:Opcua"
EVERY_NS_MIN, EVERY_NS_MAX = 10**9, 3600 * 10**9
_TYPES: dict[str, tuple[type, ...]] = {"float": (int, float), "int": (int,), "text": (str,), "bool": (bool,)}
_WORDS = {"u16": (0, 2**16 - 1), "i16": (-(2**15), 2**15 - 1), "u32": (0, 2**32 - 1), "i32": (-(2**31), 2**31 - 1)}


class Arg(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An argument: its type, and the values that it may have. `unit` is for people."""

    type: Literal["float", "int", "text", "bool"]
    min: float | None = None
    max: float | None = None
    values: list[Value] = []
    unit: str = ""
    optional: bool = False

    def refusal(self, value: Value) -> str:
        """Why a value is not allowed; empty if it is."""
        right = isinstance(value, _TYPES[self.type]) and (self.type == "bool") == isinstance(value, bool)
        if not right or (isinstance(value, float) and not math.isfinite(value)):
            return f"{value!r} is no {self.type}"
        if self.values and value not in self.values:
            return f"{value!r} is none of {', '.join(map(repr, self.values))}"
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            unit = f" {self.unit}" if self.unit else ""
            if self.min is not None and value < self.min:
                return f"{value:g} is less than {self.min:g}{unit}"
            if self.max is not None and value > self.max:
                return f"{value:g} is more than {self.max:g}{unit}"
        return ""


class Write(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A Modbus write: the value, or the argument of that name, divided by `scale`, goes to a register or a coil."""

    to: Literal["register", "coil"]
    address: int
    arg: str = ""
    value: int | None = None
    word: Literal["u16", "i16", "u32", "i32"] = "u16"  # of two registers the first is the high one
    scale: float = 1.0
    read_back: bool = True  # false where the device takes the value and shows another, as a pulse does
    within: str = "2s"  # the device must show the value after that long

    def raw(self, args: dict[str, Value]) -> int:
        """The integer that is written; `ConfigError` if it does not fit."""
        given = args[self.arg] if self.arg else self.value
        number = round(float(given) / self.scale)  # type: ignore[arg-type]  # the profile's check lets numbers through only
        low, high = (0, 1) if self.to == "coil" else _WORDS[self.word]
        if not low <= number <= high:
            raise ConfigError(f"{self.arg or 'value'}={given} is {number} as {self.word}, and may be {low} to {high}")
        return number

    def value_of(self, number: int, kind: str) -> Value:
        """What an integer that was read stands for, as a value of that type if there is one."""
        value = float(f"{number * self.scale:.12g}")  # 3 * 0.1 is 0.3
        if kind == "bool" and value in (0, 1):
            return bool(value)
        return int(value) if kind != "float" and value.is_integer() else value

    @property
    def count(self) -> int:
        """How many coils or registers that are."""
        return 2 if self.to == "register" and self.word.endswith("32") else 1

    @property
    def cells(self) -> Iterator[str]:
        """The coil, or the registers, that it writes to."""
        return (f"{self.to} {self.address + n}" for n in range(self.count))


class Setting(Arg, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A setting, and where it is in a device that control itself writes to and reads; `arg` and `value` are left out there."""

    write: Write | None = None  # of a Modbus device
    set: Set | None = None  # of an OPC UA device

    def place(self, name: str) -> Write | Set | None:
        """Where the setting of that name is; None in a device that hears and tells its settings itself."""
        at = self.write or self.set
        return msgspec.structs.replace(at, arg=name) if at else None


class Verb(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a device can be told."""

    args: dict[str, Arg] = {}
    idempotent: bool = False
    attempts_max: int = 3
    dangerous: bool = False  # waits until two people have signed
    rate: str = ""  # '6/1m': at most so many for one device in any such time
    expires_max: str = "5m"
    write: Write | None = None  # of a Modbus device
    set: Set | None = None  # of an OPC UA device, or
    call: Call | None = None

    @property
    def limit(self) -> tuple[int, int]:
        """(commands, ns) of the rate; (0, 0) if there is none."""
        return rate(self.rate) if self.rate else (0, 0)

    def refusal(self, command: Command) -> str:
        """Why a command's arguments or its expiry are not allowed; empty if they are."""
        for name, value in command.args.items():
            if name not in self.args:
                return f"it has an argument {name!r}, which the profile has not"
            if why := self.args[name].refusal(value):
                return f"{name}: {why}"
        if missing := [n for n, a in self.args.items() if n not in command.args and not a.optional]:
            return f"it lacks the argument {missing[0]!r}"
        if command.expires_at_ns - command.issued_at_ns > duration_ns(self.expires_max):
            return f"it is valid for longer than {self.expires_max}"
        try:
            for typed in (self.write, self.set, *(self.call.inputs if self.call else ())):
                if typed:
                    typed.raw(command.args)
        except ConfigError as e:
            return str(e)
        return ""


class Profile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Devices that are alike: how they are reached, and what they can be told."""

    devices: list[str]  # names, or patterns such as 'press-*'
    topic: str = ""
    modbus: str = ""
    unit: int = 1
    opcua: Server | None = None
    sparkplug: bool = False  # edge nodes of Sparkplug B, named 'group/node'
    verbs: dict[str, Verb] = {}
    settings: dict[str, Setting] = {}  # what its twin may have
    settings_every: str = "1m"  # how often those of a device that cannot tell them itself are read

    def settings_refusal(self, values: Mapping[str, Value]) -> str:
        """Why settings are not allowed; empty if they are. None: it is not to be set any more."""
        for name, value in values.items():
            if value is None:
                continue
            if name not in self.settings:
                return f"the profile has no setting {name!r}"
            if why := self.settings[name].refusal(value):
                return f"{name}: {why}"
            try:
                if at := self.settings[name].place(name):
                    at.raw({name: value})
            except ConfigError as e:
                return str(e)
        return ""

    @property
    def writes(self) -> dict[str, Write]:
        """Where the settings of a Modbus device are."""
        return {n: at for n, s in self.settings.items() if isinstance(at := s.place(n), Write)}

    @property
    def sets(self) -> dict[str, Set]:
        """Where the settings of an OPC UA device are."""
        return {n: at for n, s in self.settings.items() if isinstance(at := s.place(n), Set)}

    @property
    def way(self) -> str:
        """How they are reached: 'modbus', 'opcua', 'sparkplug', or '' for MQTT."""
        return "modbus" if self.modbus else "opcua" if self.opcua else "sparkplug" if self.sparkplug else ""

    def fits(self, device: str) -> bool:
        """Whether it is for a device: no pattern for one of a kind lets names of the other through."""
        return device.count(EDGE) == int(self.sparkplug) and _matches(device, self.devices)

    @property
    def one_device(self) -> bool:
        """Whether it is for a single device, named in full."""
        return len(self.devices) == 1 and not set("*?[") & set(self.devices[0])


class Issuer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Who may command: the public key, and what for. `*` stands for all."""

    key: str
    devices: list[str]
    verbs: list[str]

    def refusal(self, command: Command) -> str:
        """Why this is not theirs to command; empty if it is."""
        if not _matches(command.verb, self.verbs):
            return f"{command.issuer} may not {command.verb}"
        return "" if _matches(command.device, self.devices) else f"{command.issuer} may not command {command.device}"


class Devices(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The document."""

    issuers: dict[str, Issuer] = {}
    profiles: dict[str, Profile] = {}

    def profile_of(self, device: str) -> Profile | None:
        """The first profile that is for a device."""
        named = self.named_profile_of(device)
        return named[1] if named else None

    def named_profile_of(self, device: str) -> tuple[str, Profile] | None:
        """As `profile_of`, with its name."""
        return next(((n, p) for n, p in self.profiles.items() if p.fits(device)), None)

    @property
    def secrets(self) -> list[str]:
        """Names of the secrets with which devices are reached."""
        return sorted({name for p in self.profiles.values() if p.opcua for name in p.opcua.secrets})

    @property
    def writers(self) -> list[str]:
        """'module:class' of what speaks to the devices and needs a library that only sites with such devices get."""
        return [OPCUA] if any(p.opcua for p in self.profiles.values()) else []

    def verb_of(self, command: Command) -> Verb | None:
        """What the document says of a command; None if it does not know it."""
        profile = self.profile_of(command.device)
        return profile.verbs.get(command.verb) if profile else None


def parse(text: str, where: str) -> Devices:
    """The document in a text of TOML; `ConfigError` says what is wrong with it and where."""
    if len(text.encode()) > DOCUMENT_BYTES_MAX:
        raise ConfigError(f"{where}: has {len(text.encode())} bytes, and may have {DOCUMENT_BYTES_MAX}")
    found = decode_strict(text.encode(), Devices, where, fmt="toml")
    for place, wrong in _wrong(found):
        raise ConfigError(f"{where}: {place}: {wrong}")
    return found


def _wrong(document: Devices) -> Iterator[tuple[str, str]]:
    for name, issuer in document.issuers.items():
        if not re.fullmatch(r"[a-z0-9][a-z0-9_.-]{0,62}", name):
            yield f"issuers.{name}", "write lower-case letters, digits and _ . -"
        if not _is_key(issuer.key):
            yield f"issuers.{name}.key", "is no key: copy the line that `pipeline device keys new` prints"
    keys = [i.key.lower() for i in document.issuers.values()]
    if len(set(keys)) < len(keys):
        yield "issuers", "two have the same key: two signatures by it would not be those of two people"
    for name, profile in document.profiles.items():
        yield from _wrong_profile(f"profiles.{name}", profile)


def _wrong_profile(at: str, profile: Profile) -> Iterator[tuple[str, str]]:
    if sum(map(bool, (profile.topic, profile.modbus, profile.opcua, profile.sparkplug))) != 1:
        yield (
            at,
            "say how the devices are reached: topic = 'press/{device}/cmd', or modbus = 'tcp://host:502', or "
            "opcua = {server = 'opc.tcp://host:4840'}, or sparkplug = true",
        )
    try:
        if profile.topic and DeviceTopic.of(profile.topic).placeholder != "{device}":
            yield f"{at}.topic", f"write {{device}} for the device in {profile.topic!r}"
        url = urlsplit(profile.modbus)
        if profile.modbus and (url.scheme != "tcp" or not url.hostname or url.port == 0):
            yield f"{at}.modbus", f"{profile.modbus!r}: write 'tcp://host:502'"
    except (SitestreamError, ValueError) as e:
        yield at, str(e)
    if profile.opcua:
        for field, wrong in profile.opcua.wrong():
            yield f"{at}.opcua{field}", wrong
    if profile.modbus and not profile.one_device:
        yield f"{at}.devices", "a Modbus address is that of one device: name it, without * ? ["
    if not 0 <= profile.unit <= 247:
        yield f"{at}.unit", "write 0 to 247"
    if not profile.verbs and not profile.settings:
        yield at, "say what the devices can be told: verbs, settings, or both"
    if len(profile.settings) > ARGS_MAX or not all(re.fullmatch(r"[A-Za-z_]\w{0,62}", n) for n in profile.settings):
        yield f"{at}.settings", f"at most {ARGS_MAX}, each named by letters, digits and '_'"
    for name, verb in profile.verbs.items():
        yield from _wrong_verb(f"{at}.verbs.{name}", name, verb)
        yield from _wrong_way(f"{at}.verbs.{name}", verb, profile)
    yield from _wrong_settings(f"{at}.settings", profile)
    if profile.sparkplug:
        yield from _wrong_edge(at, profile)


def _wrong_edge(at: str, profile: Profile) -> Iterator[tuple[str, str]]:
    """What is wrong with a profile of edge nodes."""
    for pattern in profile.devices:
        if len(pattern.split(EDGE)) != 2 or not all(pattern.split(EDGE)):
            yield f"{at}.devices", f"{pattern!r}: name edge nodes as 'group/node', such as 'Hall/gateway-*'"
        if set("+#") & set(pattern):
            yield f"{at}.devices", f"{pattern!r}: no edge node has + or # in its name: write * for any name"
    if set(profile.verbs) != {REBIRTH} or profile.verbs[REBIRTH].args or profile.settings:
        yield at, f"an edge node has the verb {REBIRTH}, without arguments, and neither another nor settings"
    elif not profile.verbs[REBIRTH].rate:
        yield (
            f"{at}.verbs.{REBIRTH}.rate",
            "say how often at most, such as '1/5m': a node that is born again sends all that it has",
        )


def _wrong_settings(at: str, profile: Profile) -> Iterator[tuple[str, str]]:
    types = {name: setting.type for name, setting in profile.settings.items()}
    taken = {
        cell: f"the verb {name!r}" for name, verb in profile.verbs.items() for cell in _cells(verb.write, verb.set)
    }
    try:
        if not EVERY_NS_MIN <= duration_ns(profile.settings_every) <= EVERY_NS_MAX:
            yield f"{at}_every", "write 1s to 1h"
        for name, setting in profile.settings.items():
            here = f"{at}.{name}"
            yield from _wrong_place(here, setting, profile)
            place = setting.place(name)
            if isinstance(place, Write):
                yield from _wrong_write(f"{here}.write", place, types)
            elif place:
                yield from wrong_set(f"{here}.set", place, types, profile.one_device)
            for cell in _cells(setting.write, setting.set):
                if cell in taken:
                    yield here, f"{taken[cell]} writes to {cell}, too: one would undo what the other has done"
                taken[cell] = f"the setting {name!r}"
    except ConfigError as e:
        yield at, str(e)


def _wrong_place(at: str, setting: Setting, profile: Profile) -> Iterator[tuple[str, str]]:
    if bool(setting.write) != bool(profile.modbus):
        yield (
            at,
            "a setting of a Modbus device, and no other, has a `write`, such as write = {to = 'register', address = 4}",
        )
    if bool(setting.set) != bool(profile.opcua):
        yield (
            at,
            "a setting of an OPC UA device, and no other, has a `set`, such as "
            "set = {node = 'Objects/Plant/{device}/SpeedMax', type = 'Double'}",
        )
    if setting.write and setting.type == "text":
        yield f"{at}.type", "no register holds a text: write float, int or bool"
    if setting.set and not setting.set.takes(setting.type):
        yield f"{at}.type", f"a {setting.type} is nothing for a node of type {setting.set.type}"
    for place in (setting.write, setting.set):
        if place and (place.arg or place.value is not None):
            yield at, "what is desired is written there: leave out arg and value"
        if place and not place.read_back:
            yield at, "read_back = false: a setting is known by being read; write a verb for what cannot be read"


def _cells(write: Write | None, node: Set | None) -> list[str]:
    return [*(write.cells if write else ()), *([node.node] if node else ())]


def _wrong_verb(at: str, name: str, verb: Verb) -> Iterator[tuple[str, str]]:
    if name in OWN or not re.fullmatch(r"[a-z][a-z0-9_]{0,62}", name):
        yield (
            at,
            f"write lower-case letters, digits and '_', and none of {', '.join(OWN)}, which control itself carries out",
        )
    if not 1 <= verb.attempts_max <= ATTEMPTS_MAX:
        yield f"{at}.attempts_max", f"write 1 to {ATTEMPTS_MAX}"
    try:
        count, per_ns = verb.limit
        if verb.rate and not (1 <= count <= RATE_MAX and 0 < per_ns <= RATE_PER_NS_MAX):
            yield f"{at}.rate", f"{verb.rate!r}: write 1 to {RATE_MAX} in at most an hour, such as '6/1m'"
        if duration_ns(verb.expires_max) <= 0:
            yield f"{at}.expires_max", "must be more than 0"
    except ConfigError as e:
        yield at, str(e)


def _wrong_way(at: str, verb: Verb, profile: Profile) -> Iterator[tuple[str, str]]:
    """What is wrong with how a verb is carried out."""
    if bool(profile.modbus) != bool(verb.write):
        yield (
            at,
            "a Modbus verb, and no other, has a `write`, such as write = {to = 'register', address = 4, arg = 'speed'}",
        )
    if bool(profile.opcua) != (bool(verb.set) + bool(verb.call) == 1):
        yield (
            at,
            "an OPC UA verb, and no other, has either a `set`, such as set = {node = 'Objects/Plant/{device}/Speed', "
            "type = 'Double', arg = 'speed'}, or a `call`",
        )
    types = {name: arg.type for name, arg in verb.args.items() if not arg.optional}
    try:
        if verb.write:
            yield from _wrong_write(f"{at}.write", verb.write, types)
        if verb.set:
            yield from wrong_set(f"{at}.set", verb.set, types, profile.one_device)
        if verb.call:
            yield from wrong_call(f"{at}.call", verb.call, types, profile.one_device)
    except ConfigError as e:
        yield at, str(e)


def _wrong_write(at: str, write: Write, types: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """What is wrong with a `write`. `types` are those of the arguments that are always there."""
    if not 0 < duration_ns(write.within) <= WITHIN_NS_MAX:
        yield f"{at}.within", f"write more than 0 and at most {WITHIN_NS_MAX // 10**9}s"
    last = 65536 - write.count
    if not 0 <= write.address <= last:
        yield f"{at}.address", f"write 0 to {last}" + (f", for {write.word} takes two" if write.count == 2 else "")
    if bool(write.arg) == (write.value is not None):
        yield at, "name either the argument (arg = 'speed') or the value (value = 1) that is written"
    if write.scale == 0 or not math.isfinite(write.scale):
        yield f"{at}.scale", "write a number other than 0"
    if write.arg and types.get(write.arg, "text") == "text":
        yield f"{at}.arg", f"{write.arg!r} is no argument of the verb that is a number and always there"


def _is_key(text: str) -> bool:
    try:
        return len(binascii.unhexlify(text)) == 32
    except ValueError:
        return False


def _matches(name: str, patterns: list[str]) -> bool:
    return any(fnmatchcase(name, p) for p in patterns)
