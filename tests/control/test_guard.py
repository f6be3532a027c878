"""What devices.toml allows, what it refuses and with which words, and who may sign what."""

from __future__ import annotations

import re

import msgspec
import pytest

from connectors.control import DeviceTopic
from connectors.control.commands import Command
from connectors.control.devices import parse
from connectors.control.guard import Guard
from connectors.control.ledger import Entry, Event, Ledger, State
from connectors.control.signing import create, load, own, public, signed
from pipelines.errors import ConfigError
from tests.control.plant import DEVICES, ME, YOU

SECOND = 10**9
NOW = 1_700_000_000 * SECOND
TOPICS = [DeviceTopic.of("s1/{device}/cmd")]
TEXT = DEVICES.replace("SITE", "s1").replace("IDEMPOTENT", "true")


def guard(text: str | None = TEXT, newest_ns: int = 0) -> Guard:
    return Guard("s1", parse(text, "devices.toml") if text else None, TOPICS, ME, newest_ns)


def command(**changes: object) -> Command:
    fields: dict[str, object] = {
        "id": "a", "device": "p1", "verb": "stop", "issuer": "me", "issued_at_ns": NOW, "expires_at_ns": NOW + 30 * SECOND,
    }  # fmt: skip
    return Command(**(fields | changes))  # type: ignore[arg-type]  # tests write wrong ones on purpose


def refusal(ledger: Ledger | None = None, now: int = NOW, newest_ns: int = 0, **changes: object) -> str:
    return guard(newest_ns=newest_ns).judge(command(**changes), ledger or Ledger(), now).refusal


def test_only_a_signature_of_the_issuer_over_all_of_the_command_for_this_site_counts() -> None:
    good = signed(command(), "s1", ME)
    assert guard().forged(good) == ""
    assert guard().forged(command()) == "it is not signed by me"
    assert guard().forged(signed(command(), "s2", ME))
    assert guard().forged(signed(command(), "s1", YOU))
    for name, value in {
        "id": "b", "device": "p2", "verb": "open", "args": {"x": 1}, "issuer": "you", "issued_at_ns": NOW + 1,
        "expires_at_ns": NOW + 1, "idempotent": True, "attempts_max": 9, "topic": "t", "expected_twin_version": 1, "sig": "zz",
    }.items():  # fmt: skip
        assert guard().forged(msgspec.structs.replace(good, **{name: value})), name
    assert "nobody knows the issuer 'eve'" in guard().forged(signed(command(issuer="eve"), "s1", ME))
    assert "nobody knows" in guard(None).forged(good)  # without a document people command nothing
    theirs = signed(command(issuer="press/alarm"), "s1", YOU)
    assert guard().forged(theirs)  # nobody can speak for the pipeline


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({}, ""),
        ({"device": "x1"}, "no profile is for the device 'x1'"),
        ({"verb": "explode"}, "the profile of p1 has no verb 'explode'"),
        ({"verb": "set_speed"}, "it lacks the argument 'speed'"),
        ({"verb": "set_speed", "args": {"speed": 2.5}}, ""),
        ({"verb": "set_speed", "args": {"speed": 2.6}}, "speed: 2.6 is more than 2.5 m/s"),
        ({"verb": "set_speed", "args": {"speed": -0.1}}, "speed: -0.1 is less than 0 m/s"),
        ({"verb": "set_speed", "args": {"speed": True}}, "speed: True is no float"),
        ({"verb": "set_speed", "args": {"speed": float("nan")}}, "speed: nan is no float"),
        ({"verb": "set_speed", "args": {"speed": 1, "x": 1}}, "it has an argument 'x', which the profile has not"),
        ({"expires_at_ns": NOW + 301 * SECOND}, "it is valid for longer than 5m"),
        ({"issuer": "you", "verb": "open"}, "you may not open"),
        ({"issuer": "you", "device": "p2"}, "you may not command p2"),
        ({"issuer": "press/alarm", "verb": "off"}, "only people may do that"),
        ({"topic": "plant/main/cmd"}, "topic 'plant/main/cmd' is not 's1/p1/cmd', that of the device's profile"),
        ({"issued_at_ns": NOW + 61 * SECOND, "expires_at_ns": NOW + 62 * SECOND}, "it was issued in the future: the clock"),
        ({"now": NOW - 11 * SECOND, "newest_ns": NOW}, "this machine's clock is behind: nobody can tell what has expired"),
    ],
)  # fmt: skip
def test_what_is_refused_and_why(changes: dict[str, object], why: str) -> None:
    found = refusal(**changes)  # type: ignore[arg-type]
    assert found == why or (why and found.startswith(why))


def test_the_profile_says_what_may_be_repeated_not_the_sender() -> None:
    judged = guard().judge(command(idempotent=True, attempts_max=9), Ledger(), NOW).command
    assert (judged.idempotent, judged.attempts_max, judged.topic) == (False, 3, "s1/p1/cmd")


def test_a_rate_counts_what_was_let_in_and_what_was_sent_after_a_restart_too() -> None:
    ledger = Ledger()
    for n in range(3):
        verdict = guard().judge(command(id=f"{n}", verb="beep"), ledger, NOW + n)
        entry = ledger.submit(verdict.command, 0, NOW + n, refusal=verdict.refusal)
        assert entry is not None
        assert entry.state is (State.REJECTED if n == 2 else State.QUEUED)
        ledger.record(entry)
    again = Ledger(msgspec.json.decode(msgspec.json.encode(list(ledger.entries.values())), type=list[Entry]))
    assert refusal(again, verb="beep", id="x") == "more than 2/1m of beep for this device"
    assert refusal(again, verb="beep", id="x", device="p2") == ""
    assert refusal(again, verb="beep", id="x", now=NOW + 61 * SECOND) == ""
    for n in range(2):
        sent = again.entries[f"{n}"].after(Event.DELIVER, NOW + 50 * SECOND)
        assert sent is not None
        again.record(sent)
    assert not guard().may_deliver(command(verb="beep"), again, NOW + 61 * SECOND)
    assert guard().may_deliver(command(verb="beep"), again, NOW + 111 * SECOND)


def test_what_is_dangerous_waits_for_two_people() -> None:
    people = guard().judge(command(verb="open"), Ledger(), NOW)
    assert people.signers == ("me",)
    entry = Ledger().submit(people.command, 0, NOW, signers=people.signers)
    assert entry is not None
    assert entry.state is State.AWAITING_APPROVAL
    assert "another person must approve it" in str(entry.approved("me", NOW))
    assert "does not wait for an approval" in str(entry.approved("you", NOW + 30 * SECOND))
    approved = entry.approved("you", NOW)
    assert isinstance(approved, Entry)
    assert (approved.state, approved.signers, approved.detail) == (
        State.QUEUED,
        ("me", "you"),
        "approved by me and you",
    )
    assert guard().judge(command(verb="open", issuer="press/alarm"), Ledger(), NOW).signers == ()  # a program is nobody


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("idempotent =", "idempotant =", "did you mean `idempotent`?"),
        ('topic = "s1/{device}/cmd"', "", "say how the devices are reached"),
        ('topic = "s1/{device}/cmd"', 'topic = "cmd"', "write the device once"),
        ('topic = "s1/{device}/cmd"', 'modbus = "tcp://h:502"', "a Modbus address is that of one device"),
        ("verbs.stop", "verbs.approve", "which control itself carries out"),
        ('rate = "2/1m"', 'rate = "often"', "rate 'often': write how many in what time, such as '6/1m'"),
        ('rate = "2/1m"', 'rate = "2/2h"', "write 1 to 1000 in at most an hour"),
        ('rate = "2/1m"', "attempts_max = 11", "write 1 to 10"),
        ('rate = "2/1m"', 'expires_max = "0s"', "must be more than 0"),
        ('rate = "2/1m"', 'write = {to = "coil", address = 1, value = 1}', "a Modbus verb, and no other, has a `write`"),
        (public(YOU), "abc", "issuers.you.key: is no key"),
        (public(YOU), public(ME), "two have the same key"),
        ("[issuers.you]", '[issuers."A/b"]', "write lower-case letters, digits and _ . -"),
    ],
)  # fmt: skip
def test_each_mistake_in_the_document_is_told(old: str, new: str, why: str) -> None:
    assert old in TEXT
    with pytest.raises(ConfigError, match=re.escape(why)) as told:
        parse(TEXT.replace(old, new), "devices.toml")
    assert str(told.value).startswith("devices.toml: ")


def test_a_key_is_made_once_and_for_its_owner_alone(tmp_path: object) -> None:
    from pathlib import Path

    folder = Path(str(tmp_path)) / "new"
    key = own(folder)
    assert own(folder) == key
    assert (folder / "control.key").stat().st_mode & 0o777 == 0o400
    with pytest.raises(ConfigError, match="there is a key already"):
        create(folder / "control.key")
    (folder / "bad").write_text("x")
    with pytest.raises(ConfigError, match="holds no key of 64 hex digits"):
        load(folder / "bad")
    with pytest.raises(ConfigError, match="make a key with `pipeline device keys new`"):
        load(folder / "none")
