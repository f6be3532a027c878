"""Whether a command may be carried out: who signed it, what the profile allows, whether the clock can be believed. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import msgspec
from nacl.signing import SigningKey, VerifyKey

from connectors.control import DeviceTopic, signing, sparkplug
from connectors.control.commands import EDGE, Command
from connectors.control.devices import OWN, TWIN, Devices, Verb
from connectors.control.ledger import Ledger
from pipelines.errors import BadData

CLOCK_BEHIND_NS_MAX = 10 * 10**9  # behind what Kafka or this ledger has seen
ISSUED_AHEAD_NS_MAX = 60 * 10**9  # how far the issuer's clock may be ahead
_PIPELINE = "/"  # is in the names of a pipeline's steps, and in no person's


@dataclass(frozen=True)
class Verdict:
    """What is to become of a new command: `command` as it is carried out, why it is refused, who has signed what is dangerous."""

    command: Command
    refusal: str = ""
    signers: tuple[str, ...] | None = None  # None: one signature is enough


class Guard:
    """`devices` is None where there is no document: then only what the pipeline declares may be done."""

    def __init__(
        self, site: str, devices: Devices | None, topics: Sequence[DeviceTopic], own: SigningKey, newest_ns: int = 0
    ) -> None:
        self._site, self._devices, self._own = site, devices, own.verify_key
        self._topics = topics
        issuers = devices.issuers if devices else {}
        self._keys: Mapping[str, VerifyKey] = {name: signing.verifier(i.key) for name, i in issuers.items()}
        self._newest_ns = newest_ns

    def saw(self, time_ns: int) -> None:
        """Take note of a time that has certainly passed."""
        self._newest_ns = max(self._newest_ns, time_ns)

    def clock_behind(self, now_ns: int) -> bool:
        """Whether the clock is behind what is known to have passed: expiry cannot be judged then."""
        return now_ns < self._newest_ns - CLOCK_BEHIND_NS_MAX

    def forged(self, command: Command) -> str:
        """Why a command is not from whom it says; empty if it is. What is forged must not even take up its id."""
        key = self._own if is_pipelines(command) else self._keys.get(command.issuer)
        if key is None:
            return f"nobody knows the issuer {command.issuer!r}: add it to [issuers] of devices.toml"
        if not signing.is_signed(command, self._site, key):
            return f"it is not signed by {command.issuer}"
        return ""

    def judge(self, command: Command, ledger: Ledger, now_ns: int) -> Verdict:
        """The verdict on a command that is not forged."""
        if self.clock_behind(now_ns):
            return Verdict(command, "this machine's clock is behind: nobody can tell what has expired")
        if command.issued_at_ns > now_ns + ISSUED_AHEAD_NS_MAX:
            return Verdict(command, "it was issued in the future: the clock of its issuer or of this machine is wrong")
        if not is_pipelines(command):
            assert self._devices is not None  # else it is forged
            if why := self._devices.issuers[command.issuer].refusal(command):
                return Verdict(command, why)
        if command.verb == TWIN:
            return Verdict(command, self._settings_refusal(command))
        if command.verb in OWN:
            return Verdict(command, "only people may do that" if is_pipelines(command) else "")
        return self._by_profile(command, ledger, now_ns) if self._devices else Verdict(self._addressed(command))

    def _settings_refusal(self, command: Command) -> str:
        if is_pipelines(command) or self._devices is None:
            return "only people may do that"
        profile = self._devices.profile_of(command.device)
        if profile is None:
            return f"no profile is for the device {command.device!r}"
        return profile.settings_refusal(command.args) if command.args else "it names no setting"

    def _by_profile(self, command: Command, ledger: Ledger, now_ns: int) -> Verdict:
        assert self._devices is not None
        profile = self._devices.profile_of(command.device)
        if profile is None:
            return Verdict(command, f"no profile is for the device {command.device!r}")
        verb = profile.verbs.get(command.verb)
        if verb is None:
            return Verdict(command, f"the profile of {command.device} has no verb {command.verb!r}")
        if why := verb.refusal(command):
            return Verdict(command, why)
        if self._too_many(verb, command, ledger.admitted, now_ns):
            return Verdict(command, f"more than {verb.rate} of {command.verb} for this device")
        command = msgspec.structs.replace(command, idempotent=verb.idempotent, attempts_max=verb.attempts_max)
        if profile.sparkplug:
            command = msgspec.structs.replace(command, topic=sparkplug.command_topic(command.device))
        elif profile.topic:
            at = DeviceTopic.of(profile.topic).at(command.device)
            if command.topic not in ("", at):
                return Verdict(command, f"topic {command.topic!r} is not {at!r}, that of the device's profile")
            command = msgspec.structs.replace(command, topic=at)
        signers = () if is_pipelines(command) else (command.issuer,)
        return Verdict(command, signers=signers if verb.dangerous else None)

    def may_deliver(self, command: Command, ledger: Ledger, now_ns: int) -> bool:
        """Whether the device may be sent one more now."""
        verb = self._devices.verb_of(command) if self._devices else None
        return not self.clock_behind(now_ns) and not (verb and self._too_many(verb, command, ledger.delivered, now_ns))

    def _too_many(self, verb: Verb, command: Command, counted: Callable[[str, str, int], int], now_ns: int) -> bool:
        count, per_ns = verb.limit
        return bool(count) and counted(command.device, command.verb, now_ns - per_ns) >= count

    def way(self, device: str) -> str:
        """How a device is reached; see `Profile.way`."""
        profile = self._devices.profile_of(device) if self._devices else None
        return profile.way if profile else ""

    def _addressed(self, command: Command) -> Command:
        """The command with its topic, which must be one that the pipeline's sinks write to; `BadData`."""
        if EDGE in command.device:
            raise BadData(f"command {command.id!r}: {command.device!r} is no level of a topic", reason="command")
        at = [t.at(command.device) for t in self._topics]
        if not command.topic and len(at) == 1:
            return msgspec.structs.replace(command, topic=at[0])
        if command.topic not in at:
            raise BadData(
                f"command {command.id!r}: topic {command.topic!r} is not a command topic here: {', '.join(at)}",
                reason="topic",
            )
        return command


def is_pipelines(command: Command) -> bool:
    """Whether it says that the pipeline made it, not a person."""
    return _PIPELINE in command.issuer
