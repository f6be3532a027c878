"""What a twin decides, and what it refuses with which words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.control import DeviceTopic, twin
from connectors.control.commands import Command, Value
from connectors.control.devices import parse
from connectors.control.telling import AGAIN_S_MAX, ASSERT_S, AT_ONCE_MAX, GAP_S_MIN, SPREAD_S, Telling
from connectors.control.twin import Desired, Report, State, Twin, Twins, decode_report
from pipelines.errors import BadData, ConfigError, LimitExceeded, PlanError
from tests.control.plant import DEVICES

NOW = 1_700_000_000 * 10**9


def command(device: str = "p1", **args: Value) -> Command:
    return Command(id="c", device=device, verb="twin", args=args, issuer="me", issued_at_ns=1, expires_at_ns=2)


def desired(twins: Twins, device: str = "p1", **args: Value) -> Desired:
    found = twins.set(command(device, **args), NOW)
    assert found is not None
    twins.record(found)
    return found


def heard(twins: Twins, version: int, *, at_ns: int = NOW, **values: Value) -> Twin:
    for side in twins.hear("p1", Report(version, values), at_ns):
        twins.record(side)
    return twins["p1"]


def test_equal_values_are_agreement_only_at_the_newest_version() -> None:
    twins = Twins()
    desired(twins, speed=1.0)
    assert heard(twins, 1, speed=1.0).state is State.IN_SYNC
    desired(twins, speed=2.0)
    desired(twins, speed=1.0)
    assert heard(twins, 1, speed=1.0).state is State.PENDING  # a late report of the first time
    assert heard(twins, 3, speed=1.00000001).state is State.IN_SYNC  # a device with 32 bits
    assert heard(twins, 3, speed=1.001).state is State.DIFFERS
    assert twins["p1"].difference == {"speed": (1.0, 1.001)}


@pytest.mark.parametrize(("want", "have"), [(1, True), (0, False), ("1", 1), (True, 1), (1.0, None)])
def test_values_of_other_kinds_are_not_equal(want: Value, have: Value) -> None:
    twins = Twins()
    desired(twins, a=want)
    assert heard(twins, 1, a=have).state is State.DIFFERS


def test_what_changes_nothing_makes_no_version_and_unset_is_no_longer_minded() -> None:
    twins = Twins()
    desired(twins, a=1, b="x")
    assert twins.set(command(b="x"), NOW) is None
    assert desired(twins, a=True).version == 2  # equal in Python, another value for a device
    assert twins.set(command(c=None), NOW) is None
    assert desired(twins, a=None).values == {"b": "x"}
    assert heard(twins, 3, a=7, b="x").state is State.IN_SYNC
    assert heard(twins, 3, a=None).reported.values == {"b": "x"}  # type: ignore[union-attr]  # there is one


def test_a_report_that_says_nothing_new_is_not_put_on_record() -> None:
    twins = Twins()
    assert len(twins.hear("p1", Report(0, {}), NOW)) == 1  # the first is
    heard(twins, 0, a=1)
    assert twins.hear("p1", Report(0, {"a": 1}), NOW + 1) == []
    assert twins["p1"].state is State.REPORTED


def test_since_when_it_differs() -> None:
    twins = Twins()
    desired(twins, a=1)
    assert heard(twins, 0, at_ns=NOW + 5, a=0).since_ns == NOW
    assert heard(twins, 1, at_ns=NOW + 6, a=1).since_ns == 0
    assert heard(twins, 1, at_ns=NOW + 7, a=2).since_ns == NOW + 7
    assert twins.different == {"p1": NOW + 7}


def test_it_numbers_past_what_a_device_has_heard() -> None:
    twins = Twins()
    heard(twins, 41, a=0)
    assert desired(twins, a=1).version == 42
    assert heard(twins, 50, a=0).version == 51


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 9), st.booleans()), max_size=60))
def test_the_oldest_difference_is_that_of_all(changes: list[tuple[int, int, bool]]) -> None:
    twins = Twins()
    for n, at, same in changes:
        device, value = f"d{n}", at % 3
        if (same or not twins[device].desired) and (found := twins.set(command(device, a=value), NOW + at)):
            twins.record(found)
        for side in twins.hear(device, Report(twins[device].version, {"a": value}), NOW + at):
            twins.record(side)
        every = [twins[d].since_ns for d in twins.devices]
        assert twins.oldest_ns == min(filter(None, every), default=0)


def test_there_is_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(twin, "TWINS_MAX", 1)
    twins = Twins()
    desired(twins, a=1)
    with pytest.raises(LimitExceeded, match=r"p2: 1 devices have a twin \(TWINS_MAX\)"):
        twins.set(command("p2", a=1), NOW)
    assert desired(twins, a=2).version == 2


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"{", "not a report of settings"),
        (b'{"values": {}}', "missing required field `version`"),
        (b'{"version": 1, "values": {"a": [1]}}', "not a report of settings"),
        (b'{"version": -1}', "version -1: a report has the version it has heard, 0 if none"),
        (b'{"version": 9007199254740991}', "a report has the version"),
        (b" " * 16385, "a report has at most 16384 bytes, this one 16385"),
    ],
)
def test_what_is_no_report(raw: bytes, why: str) -> None:
    with pytest.raises(BadData, match=why):
        decode_report(raw, {"a": 1})


def test_of_a_report_only_the_settings_of_the_profile_are_kept() -> None:
    assert decode_report(b'{"version": 1, "values": {"a": 1, "z": 2}}', {"a": 1}).values == {"a": 1}


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ('topic = "SITE/{device}/cmd"', 'topic = "SITE/{device}/desired"', "write the device once"),
        ("[profiles.press.verbs.stop]", '[profiles.press.settings]\n"a b" = {type = "int"}', "each named by letters"),
        ("[profiles.press]", '[profiles.d]\ndevices = ["d*"]\ntopic = "d/{device}/c"\n[profiles.press]', "verbs, settings, or"),
        ("[profiles.press.verbs.stop]", "[profiles.press.verbs.twin]", "which control itself carries out"),
    ],
)  # fmt: skip
def test_a_document_that_is_wrong_about_settings_says_so(old: str, new: str, why: str) -> None:
    text = DEVICES.replace("IDEMPOTENT", "true").replace(old, new)
    with pytest.raises(ConfigError, match=why):
        parse(text, "devices.toml")


def test_command_topics_leave_the_levels_of_settings_free() -> None:
    assert DeviceTopic.of("a/{device}/cmd").beside("desired", "p1") == "a/p1/desired"
    with pytest.raises(PlanError, match="no wildcards"):
        DeviceTopic.of("a/{device}/reported")


def test_a_device_is_told_less_and_less_often_and_at_once_when_it_is_there() -> None:
    twins = Twins()
    telling = Telling(twins, 0.0, seed=1)
    one = desired(twins, a=1)
    telling.changed("p1", 100.0)
    now, gaps = 100.0, []
    for n in range(12):
        assert list(telling.due(now)) == [one]
        assert telling.told(one, now) is (n == 0)
        before = now
        while not list(telling.due(now)):
            now += 0.5
        gaps.append(now - before)
    assert gaps[0] <= 5.5
    assert AGAIN_S_MAX / 2 <= gaps[-1] <= AGAIN_S_MAX + 1
    telling.told(one, now)
    heard(twins, 0, a=0)
    telling.heard("p1", now)
    assert not list(telling.due(now))  # not in a loop
    assert list(telling.due(now + GAP_S_MIN)) == [one]
    heard(twins, 1, a=1)
    telling.heard("p1", now)
    assert not list(telling.due(now + ASSERT_S / 2 - 1))
    assert list(telling.due(now + ASSERT_S)) == [one]


def test_after_a_reconnection_all_that_differ_are_told_soon_and_not_all_at_once() -> None:
    twins = Twins()
    many = [desired(twins, f"d{n}", a=1) for n in range(2 * AT_ONCE_MAX)]
    telling = Telling(twins, 0.0, seed=1)
    for one in many:
        for _ in range(12):
            telling.told(one, 0.0)
    assert not list(telling.due(AGAIN_S_MAX / 4))
    telling.connected(10.0)
    assert 0 < len(list(telling.due(10.0 + SPREAD_S / 4))) < AT_ONCE_MAX
    assert len(list(telling.due(10.0 + SPREAD_S))) == AT_ONCE_MAX
