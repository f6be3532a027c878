"""The life of an update and who gets it when: pure, with any order of reports, restarts and losses."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.firmware import campaign as campaigns
from connectors.firmware.campaign import ALL, Campaign, Plan
from connectors.firmware.life import AT_RISK, LOST, RESTARTS_MAX, SECOND_NS, TRANSITIONS, Entry, Event, State, Timeouts
from connectors.firmware.manifest import Manifest, image_of, refusal
from connectors.firmware.protocol import Report, Said, decode_report, pack, topic, unpack
from connectors.firmware.roster import Job, Roster, order_again, order_of
from pipelines.errors import BadData
from tests.firmware.fleet import IMAGE

NOW = 10**18
USUAL: dict[str, Any] = {"device": "d", "model": "m", "hardware": "A", "version": "1", "security_version": 1}


def campaign(**changes: Any) -> Campaign:
    usual: dict[str, Any] = {
        "id": "c", "model": "m", "path": IMAGE.path, "version": "2", "begun_s": 0, "canary": ("s",), "quotas": {"s": 2},
    }  # fmt: skip
    return Campaign(**usual | changes)


def jobs(ready: bool = True, **changes: Any) -> dict[str, Job]:
    return {"m": Job(campaign(**changes), IMAGE, ready)}


def said(device: str, state: Said, boot: int = 1, **more: Any) -> Report:
    return Report(**USUAL | {"device": device} | more, state=state, boot=boot)


def roster(*devices: str, site: str = "s") -> Roster:
    """With devices that are there."""
    made = Roster(site)
    for device in devices:
        tell(made, said(device, Said.IDLE))
    return made


def tell(of: Roster, report: Report, job: dict[str, Job] | None = None, now_ns: int = NOW) -> str:
    """A report; what the device is told because of it."""
    entry = of.hear(report, job or jobs(), now_ns)
    if entry:
        of.record(entry)
    return "" if entry else order_again(of.entries[report.device], report)


def step(of: Roster, job: dict[str, Job] | None = None, now_ns: int = NOW, window: bool = True) -> dict[str, str]:
    """Time; orders by device."""
    orders = {}
    for after in of.step(job or jobs(), now_ns, window=window):
        before = of.entries.get(after.device)
        of.record(after)
        if do := order_of(before, after):
            orders[after.device] = do
    return orders


def settle(of: Roster, job: dict[str, Job] | None = None) -> dict[str, str]:
    """Steps until nothing changes."""
    orders: dict[str, str] = {}
    for _ in range(5):
        orders |= step(of, job)
    return orders


def bring(of: Roster, device: str, *states: Said) -> None:
    for state in states:
        tell(of, said(device, state, campaign="c", version="2" if state is Said.COMMITTED else "1"))


def test_a_device_goes_all_the_way_and_only_committed_is_success() -> None:
    of = roster("d")
    assert settle(of) == {"d": "download"}
    bring(of, "d", Said.DOWNLOADING, Said.VERIFIED)
    assert of.standing(jobs()["m"]).counts == {"VERIFIED": 1}
    assert step(of) == {"d": "install"}
    for state in (Said.REBOOTING, Said.CONFIRMING):
        bring(of, "d", state)
        assert of.standing(jobs()["m"]).counts == {state.value: 1}
        assert of.standing(jobs()["m"]).at_risk == 1
    bring(of, "d", Said.COMMITTED)
    assert of.standing(jobs()["m"]).counts == {"COMMITTED": 1}
    assert not of.standing(jobs()["m"]).busy
    assert settle(of) == {}


def test_who_says_committed_and_runs_something_else_has_failed() -> None:
    of = roster("d")
    settle(of)
    tell(of, said("d", Said.COMMITTED, campaign="c", version="1"))
    assert of.entries["d"].state is State.FAILED
    assert "runs version 1" in of.entries["d"].detail


def test_never_more_at_risk_than_the_quota_and_a_loss_stays_in_it() -> None:
    of = roster(*"abcde")
    settle(of)
    for d in "abcde":
        bring(of, d, Said.DOWNLOADING, Said.VERIFIED)
    assert len(step(of)) == 2
    first = [e.device for e in of.entries.values() if e.state is State.INSTALLING]
    assert step(of) == {}
    bring(of, first[0], Said.ROLLED_BACK)
    assert step(of) == {}
    bring(of, first[1], Said.COMMITTED)
    assert len(step(of)) == 1
    assert not of.standing(jobs()["m"]).halted
    bring(of, next(e.device for e in of.entries.values() if e.state is State.INSTALLING), Said.FAILED)
    assert of.standing(jobs()["m"]).halted
    assert settle(of) == {}


def test_an_offline_device_stays_assigned_and_does_not_count() -> None:
    of = roster("d")
    tell(of, said("d", Said.OFFLINE))
    assert settle(of, jobs()) == {}
    standing = of.standing(jobs()["m"])
    assert (standing.counts, standing.offered, standing.busy, standing.devices) == ({"ASSIGNED": 1}, 0, 0, 1)
    tell(of, said("d", Said.IDLE, boot=2))
    assert settle(of) == {"d": "download"}
    tell(of, said("d", Said.OFFLINE, boot=2))
    step(of)
    assert of.standing(jobs()["m"]).offered == 0


def test_a_silent_device_and_one_that_never_comes_back_stall() -> None:
    of = roster("silent", "gone")
    settle(of)
    bring(of, "gone", Said.DOWNLOADING, Said.VERIFIED)
    step(of)
    bring(of, "gone", Said.REBOOTING)
    late = NOW + int(Timeouts().answer_s + Timeouts().reboot_s + 1) * SECOND_NS
    step(of, now_ns=late)
    assert {d: e.state for d, e in of.entries.items()} == dict.fromkeys(("silent", "gone"), State.STALLED)
    assert of.entries["silent"].detail == "it never answered"
    bring(of, "gone", Said.COMMITTED)
    assert of.entries["gone"].state is State.COMMITTED


def test_windows_and_pauses_hold_before_the_risk_and_an_emergency_heeds_no_window() -> None:
    for ready in (False, True):
        of = roster("d")
        settle(of)
        bring(of, "d", Said.DOWNLOADING, Said.VERIFIED)
        assert step(of, jobs(ready=ready), window=not ready) == {}
        step(of, jobs(ready=ready), window=not ready)
        assert of.entries["d"].state is State.WAITING_WINDOW
    assert step(of, jobs(state="paused")) == {}
    assert (
        step(of, jobs(ready=False, emergency=True), window=False) == {}
    )  # what is not verified is not installed, ever
    assert step(of, jobs(emergency=True), window=False) == {"d": "install"}


def test_an_aborted_campaign_lets_go_of_those_before_the_risk_alone() -> None:
    of = roster("a", "b", "c")
    settle(of)
    for d in "ab":
        bring(of, d, Said.DOWNLOADING, Said.VERIFIED)
    step(of, jobs(quotas={"s": 1}))
    aborted = jobs(state="aborted")
    assert set(step(of, aborted).values()) == {"cancel"}
    assert sorted(e.state for e in of.entries.values()) == [State.IDLE, State.IDLE, State.INSTALLING]
    step(of, {"m": Job(campaign(id="next"), IMAGE, True)})
    assert sorted(e.state for e in of.entries.values()) == [State.ASSIGNED, State.ASSIGNED, State.INSTALLING]


def test_a_permission_does_not_outlive_the_power_and_an_old_report_takes_none_back() -> None:
    of = roster("d")
    settle(of)
    bring(of, "d", Said.DOWNLOADING, Said.VERIFIED)
    assert step(of) == {"d": "install"}
    assert tell(of, said("d", Said.VERIFIED, campaign="c")) == "install"  # it did not hear
    assert tell(of, said("d", Said.DOWNLOADING, campaign="c", offset=5)) == ""  # MQTT delivered it again
    assert of.entries["d"].state is State.INSTALLING
    tell(of, said("d", Said.VERIFIED, boot=2, campaign="c"))
    assert (of.entries["d"].state, of.entries["d"].boot) == (State.VERIFIED, 2)
    assert step(of) == {"d": "install"}
    tell(of, said("d", Said.DOWNLOADING, boot=1, campaign="c"))
    assert of.entries["d"].state is State.INSTALLING


def test_a_device_that_begins_again_and_again_fails() -> None:
    of = roster("d")
    settle(of)
    for boot in range(1, RESTARTS_MAX + 3):
        tell(of, said("d", Said.DOWNLOADING, boot=boot, campaign="c"))
        tell(of, said("d", Said.VERIFIED, boot=boot, campaign="c"))
    assert of.entries["d"].state is State.FAILED
    assert "began its download again" in of.entries["d"].detail


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"model": "x"}, "for model m, the device is a x"),
        ({"hardware": "C"}, "for hardware A, the device has C"),
        ({"security_version": 2}, "security version 1 is below the device's 2"),
    ],
)
def test_what_does_not_fit_is_not_offered(changes: dict[str, Any], why: str) -> None:
    entry = Entry(**USUAL | changes)
    assert why in refusal(IMAGE.manifest, entry)
    of = Roster("s", [entry])
    tell(of, said("d", Said.IDLE, **changes))
    assert settle(of, {entry.model: jobs()["m"]}) == {}
    assert of.standing(jobs()["m"]).devices == 0


def test_a_device_that_has_the_version_is_left_alone_and_a_later_campaign_counts() -> None:
    of = roster("d")
    tell(of, said("d", Said.IDLE, version="2"))
    assert settle(of) == {}
    plan = Plan(counter=1, campaigns=(campaign(id="late", begun_s=9), campaign(id="early", begun_s=1)))
    assert plan.newest()["m"].id == "late"


def test_a_device_that_was_in_a_campaign_is_told_of_the_next() -> None:
    of = roster("d")
    settle(of)
    tell(of, said("d", Said.COMMITTED, campaign="c", version="2"))
    image = msgspec.structs.replace(IMAGE.manifest, version="3")
    after = {"m": Job(campaign(id="next", version="3"), replace(IMAGE, manifest=image), ready=True)}
    assert settle(of, after) == {"d": "download"}


@pytest.mark.parametrize("sites", [1, 50])
def test_all_sites_agree_who_is_in_a_stage_and_stages_grow(sites: int) -> None:
    devices = [f"d{i}" for i in range(2000)]
    quotas = dict.fromkeys((f"s{i}" for i in range(sites)), 1)
    taken: set[str] = set()
    for stage, share in enumerate((50, 250, ALL), 1):
        now = campaign(canary=(), quotas=quotas, stage=stage)
        of_site = [{d for d in devices if now.includes(s, d)} for s in quotas]
        assert all(found == of_site[0] for found in of_site)
        assert abs(len(of_site[0]) - share * 2) < 120
        assert taken <= of_site[0]
        taken = of_site[0]
    assert not any(campaign(stage=3).includes("elsewhere", d) for d in devices)
    assert campaign(stage=0).includes("s", "d0")
    assert not campaign(stage=0, quotas={"s": 1, "t": 1}).includes("t", "d0")


@given(
    st.lists(
        st.tuples(st.integers(0, 4), st.sampled_from(list(Said)), st.integers(1, 4), st.integers(0, 400)), max_size=60
    )
)
@settings(max_examples=150, deadline=None)
def test_whatever_devices_say_no_more_are_at_risk_than_the_quota(says: list[tuple[int, Said, int, int]]) -> None:
    of, now_ns = roster(*"abcde"), NOW
    for which, state, boot, seconds in says:
        now_ns += seconds * SECOND_NS
        version = "2" if state is Said.COMMITTED else "1"
        before = dict(of.entries)
        tell(of, said("abcde"[which], state, boot=boot, campaign="c", version=version), now_ns=now_ns)
        granted = [d for d, do in step(of, now_ns=now_ns).items() if do == "install"]
        risked = [e for e in of.entries.values() if e.state in AT_RISK and e.granted]
        lost = [e for e in of.entries.values() if e.state in LOST]
        if granted:
            assert len(risked) + len(lost) <= 2
        assert all(of.entries[d].boot >= e.boot for d, e in before.items())


def test_the_table_leads_nowhere_but_to_states_and_every_open_state_can_end() -> None:
    assert {state for state, _ in TRANSITIONS} | set(TRANSITIONS.values()) == set(State)
    for state in (State.ASSIGNED, State.DOWNLOADING, State.VERIFIED, State.WAITING_WINDOW, *AT_RISK):
        assert TRANSITIONS[state, Event.TIME_OUT] is State.STALLED
        assert TRANSITIONS[state, Event.FAIL] is State.FAILED
    assert Event.RELEASE not in {event for state, event in TRANSITIONS if state in AT_RISK}


def test_a_chunk_that_is_damaged_or_of_another_image_is_refused() -> None:
    digest, other = "ab" * 32, "cd" * 32
    raw = pack(digest, 7, b"hello")
    assert unpack(raw, digest) == (7, b"hello")
    for wrong in (raw[:-1] + b"!", raw[:10], raw[:-1]):
        with pytest.raises(BadData):
            unpack(wrong, digest)
    with pytest.raises(BadData, match="of another image"):
        unpack(raw, other)


@pytest.mark.parametrize(
    ("at", "changes", "why"),
    [
        ("fw/other/report", {}, "a report of device 'd' came on topic fw/other/report"),
        (topic("d", "report"), {"want": 99}, "want from 0 to 8"),
        (topic("d", "report"), {"offset": -1}, "offset from 0"),
        (topic("d", "report"), {"state": "HAPPY"}, "not a device's report"),
        (topic("a/b", "report"), {"device": "a/b"}, "a report of device"),
    ],
)
def test_what_is_no_report_is_refused(at: str, changes: dict[str, Any], why: str) -> None:
    good = msgspec.to_builtins(said("d", Said.IDLE))
    assert decode_report(topic("d", "report"), msgspec.json.encode(good)).device == "d"
    with pytest.raises(BadData, match=why):
        decode_report(at, msgspec.json.encode(good | changes))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"id": "C!"}, "id: lower-case"),
        ({"path": "x/2/f"}, "path: MODEL/VERSION/FILE"),
        ({"stages": (50, 40, 1000)}, "growing numbers"),
        ({"stages": (50,)}, "the last 1000"),
        ({"stage": 4}, "stage: 0 to 3"),
        ({"canary": tuple("abcdef")}, "at most 5 sites"),
        ({"quotas": {"s": -1}}, "quotas: 0 or more"),
        ({"policy": campaigns.Policy(lost_max=2)}, "shares from 0 to 1"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused_with_the_reason(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(BadData, match=why):
        campaigns.decode(Plan(counter=1, campaigns=(campaign(**changes),)).encode())
    with pytest.raises(BadData, match="the same id"):
        campaigns.decode(Plan(counter=1, campaigns=(campaign(), campaign())).encode())
    with pytest.raises(BadData, match="did you mean `counter`"):
        campaigns.decode(b'{"countr": 1}')


@pytest.mark.parametrize(
    ("path", "length", "changes", "why"),
    [
        ("m/2/f", 0, {}, "1 to 536870912 bytes"),
        ("m/3/f", 1, {}, "it lies below m/2/"),
        ("m/2/f", 1, {"hardware": ()}, "hardware: 1 to 32"),
        ("m/2/f", 1, {"security_version": -1}, "security_version: 0 or more"),
        ("m/2/f", 1, {"more": 1}, "unknown field"),
    ],
)
def test_a_manifest_that_makes_no_sense_is_refused(path: str, length: int, changes: dict[str, Any], why: str) -> None:
    usual = msgspec.to_builtins(Manifest(model="m", hardware=("A",), version="2", security_version=1))
    with pytest.raises(BadData, match=why):
        image_of(path, length, {"sha256": "0" * 64}, usual | changes)
