"""What travels: a command on `{site}.control.cmd`, what its device hears of it, and what the device answers. Bytes <-> values."""

from __future__ import annotations

import enum
import hashlib
import re

import msgspec

from connectors.control import ATTEMPTS_MAX
from pipelines.errors import BadData
from pipelines.settings import explain

COMMAND_BYTES_MAX = 64 * 2**10
ARGS_MAX = 32
DETAIL_CHARS_MAX = 500
_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_DEVICE = re.compile(
    r"(?=.{1,256}$)[^/+#\x00-\x1f]+(/[^/+#\x00-\x1f]+)?", re.S
)  # levels of an MQTT topic; two: see `EDGE`
EDGE = "/"  # in the name of a Sparkplug edge node, 'group/node', and in no other
_VERB = re.compile(r"[a-z][a-z0-9_]{0,62}")
Value = str | int | float | bool | None


class Command(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Something that a device is to do, once. Times are nanoseconds since the epoch, UTC."""

    id: str
    device: str
    verb: str
    args: dict[str, Value] = {}
    issuer: str  # who wants it: 'pipeline/step', or a person
    issued_at_ns: int
    expires_at_ns: int  # it must not be begun later
    idempotent: bool = False  # doing it twice does no harm
    attempts_max: int = 3  # deliveries of an idempotent command; any other is delivered once
    topic: str = ""  # MQTT topic; '' where there is only one for the device
    expected_twin_version: int | msgspec.UnsetType = msgspec.UNSET  # it is refused if the device's twin is at another
    sig: str = ""  # of the issuer, hex; see connectors.control.signing

    def encode(self) -> bytes:
        """As JSON."""
        return msgspec.json.encode(self)

    def for_device(self) -> bytes:
        """The JSON that the device hears."""
        return msgspec.json.encode(
            {"id": self.id, "verb": self.verb, "args": self.args, "expires_at_ns": self.expires_at_ns}
        )


def decode(raw: bytes | None, key: bytes | None) -> Command:
    """The command of a Kafka record; `BadData` says what is wrong with it."""
    if not raw or len(raw) > COMMAND_BYTES_MAX:
        raise BadData(f"a command has 1 to {COMMAND_BYTES_MAX} bytes, this one {len(raw or b'')}", reason="size")
    try:
        command = msgspec.json.decode(raw, type=Command)
    except msgspec.ValidationError as e:
        raise BadData(f"not a command: {explain(str(e), Command)}", reason="command") from e
    except (msgspec.DecodeError, ValueError) as e:
        raise BadData(f"not JSON: {e}", reason="json") from e
    if wrong := _wrong(command):
        raise BadData(f"command {command.id!r}: {wrong}", reason="command")
    if key != command.device.encode():
        raise BadData(
            f"command {command.id!r}: the record's key is {key!r}, not its device {command.device!r}: "
            "a device's commands would lose their order",
            reason="key",
        )
    return command


def _wrong(c: Command) -> str:
    rules = {
        "id: 1 to 128 letters, digits and . _ : -": _ID.fullmatch(c.id),
        "device: 1 to 256 characters, none of / + # (an edge node is 'group/node')": _DEVICE.fullmatch(c.device),
        "verb: lower-case letters, digits and _": _VERB.fullmatch(c.verb),
        f"args: at most {ARGS_MAX}": len(c.args) <= ARGS_MAX,
        "expires_at_ns: after issued_at_ns": c.expires_at_ns > c.issued_at_ns,
        f"attempts_max: 1 to {ATTEMPTS_MAX}": 1 <= c.attempts_max <= ATTEMPTS_MAX,
    }
    return "; ".join(rule for rule, kept in rules.items() if not kept)


def derived_id(*parts: str) -> str:
    """The same 32 hex digits for the same parts, so that what is done again after a crash is known to be the same."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


class Answer(enum.StrEnum):
    """What a device says of a command."""

    ACCEPTED = "ACCEPTED"
    EXECUTING = "EXECUTING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    REJECTED = "REJECTED"
    EXPIRED = "EXPIRED"


class Ack(msgspec.Struct, frozen=True):
    """A device's answer."""

    id: str
    state: Answer
    detail: str = ""


def decode_ack(raw: bytes) -> Ack:
    """The answer in an MQTT payload; `BadData` if it is none."""
    if len(raw) > COMMAND_BYTES_MAX:
        raise BadData(f"an answer has at most {COMMAND_BYTES_MAX} bytes, this one {len(raw)}", reason="size")
    try:
        ack = msgspec.json.decode(raw, type=Ack)
    except (msgspec.DecodeError, ValueError) as e:
        raise BadData(f"not an answer to a command: {e}", reason="ack") from e
    return msgspec.structs.replace(ack, detail=ack.detail[:DETAIL_CHARS_MAX])
