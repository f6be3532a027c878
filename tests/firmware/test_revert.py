"""A campaign that halts by itself brings devices back to the version before, where that may be."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from connectors.firmware import campaign as campaigns
from connectors.firmware.campaign import Campaign, Plan
from connectors.firmware.life import SECOND_NS, Entry, State
from connectors.firmware.protocol import Said
from connectors.firmware.roster import Job, Standing
from connectors.firmware.status import SiteStatus
from containers.cli import main
from containers.embedded import EmbeddedKafka
from containers.firmware.drive import HALTED, Leader
from containers.firmware.lead import revert_of
from containers.firmware.shelf import Shelf
from pipelines.clock import ManualClock
from pipelines.errors import BadData
from tests.bed.mosquitto import Mosquitto
from tests.containers.kit import write_site
from tests.firmware.device import Device, living
from tests.firmware.fleet import BEFORE
from tests.firmware.plant import Site, Web, publish, shelf_in
from tests.firmware.test_life import NOW, USUAL, bring, campaign, jobs, roster, said, settle, step, tell
from tests.firmware.test_service import where

BACK = {"m": Job(campaign(id="c-revert", path=BEFORE.path, version="1", replaces="2"), BEFORE, ready=True)}


def test_only_devices_with_the_version_have_a_part() -> None:
    of = roster("never", "has")
    tell(of, said("has", Said.COMMITTED, version="2"))
    tell(of, said("other", Said.IDLE, version="0.9"))
    assert settle(of, BACK) == {"has": "download"}
    assert of.standing(BACK["m"]).devices == 1


def test_a_device_whose_security_version_was_raised_is_not_offered_the_one_before() -> None:
    of = roster()
    tell(of, said("d", Said.IDLE, version="2", security_version=2))
    assert settle(of, BACK) == {}


def test_what_is_still_at_risk_in_the_campaign_that_halted_counts() -> None:
    of = roster("at-risk", "a", "b")
    settle(of, jobs(quotas={"s": 3}))
    for d in ("at-risk", "a", "b"):
        bring(of, d, Said.DOWNLOADING, Said.VERIFIED)
    assert len(step(of, jobs(quotas={"s": 3}))) == 3
    bring(of, "a", Said.COMMITTED)
    bring(of, "b", Said.COMMITTED)
    one = {"m": Job(msgspec.structs.replace(BACK["m"].campaign, quotas={"s": 1}), BEFORE, ready=True)}
    assert settle(of, one) == {"a": "download", "b": "download"}
    for d in "ab":
        tell(of, said(d, Said.VERIFIED, campaign="c-revert", version="2"), one)
    assert settle(of, one) == {}
    assert (of.standing(one["m"]).at_risk, of.standing(one["m"]).busy) == (1, 3)
    tell(of, said("at-risk", Said.COMMITTED, campaign="c", version="2"), one)
    assert of.entries["at-risk"].state is State.COMMITTED  # on the version of its own campaign
    assert "install" in settle(of, one).values()
    assert of.entries["at-risk"].campaign == "c-revert"


def test_who_is_silent_since_the_campaign_that_halted_is_given_up_and_its_quota_given_back() -> None:
    of = roster("bricked", "loading", "a")
    settle(of)
    for d in ("bricked", "a"):
        bring(of, d, Said.DOWNLOADING, Said.VERIFIED)
    bring(of, "loading", Said.DOWNLOADING)
    settle(of)
    bring(of, "a", Said.COMMITTED)
    one = {"m": Job(msgspec.structs.replace(BACK["m"].campaign, quotas={"s": 1}), BEFORE, ready=True)}
    late_ns = NOW + int(one["m"].campaign.timeouts.install_s * SECOND_NS) + 1
    assert settle(of, one) == {"loading": "cancel", "a": "download"}
    tell(of, said("a", Said.VERIFIED, campaign="c-revert", version="2"), one, late_ns - 2)
    assert step(of, one, late_ns - 1) == {}
    assert of.entries["bricked"].state is State.INSTALLING
    assert step(of, one, late_ns) == {"a": "install"}
    assert (of.entries["bricked"].state, of.entries["bricked"].campaign) == (State.STALLED, "c")
    assert (of.standing(one["m"]).at_risk, of.standing(one["m"]).busy, of.standing(one["m"]).lost) == (1, 1, 0)


@pytest.mark.parametrize("state", [Said.REBOOTING, Said.CONFIRMING])
def test_a_device_at_risk_that_the_next_campaign_will_take_is_busy_once(state: Said) -> None:
    of = roster("d")
    settle(of)
    bring(of, "d", Said.DOWNLOADING, Said.VERIFIED)
    settle(of)
    tell(of, said("d", state, campaign="c", version="2"))
    standing = of.standing(BACK["m"])
    assert (standing.devices, standing.at_risk, standing.busy) == (1, 1, 1)


def test_a_device_that_did_not_hear_of_it_and_says_how_it_ended_before_is_told_again() -> None:
    of = roster("d")
    tell(of, said("d", Said.COMMITTED, campaign="c", version="2"))
    settle(of, BACK)
    assert tell(of, said("d", Said.COMMITTED, campaign="c", version="2"), BACK) == "download"
    assert tell(of, said("d", Said.FAILED, campaign="c", version="2"), BACK) == "download"
    tell(of, said("d", Said.COMMITTED, campaign="c-revert", version="1"), BACK)
    assert tell(of, said("d", Said.COMMITTED, campaign="c-revert", version="1"), BACK) == ""


def test_the_campaign_that_brings_back_has_the_same_rules_and_a_name_of_its_own() -> None:
    halted = campaign(
        revert_to=BEFORE.path, emergency=True, stage=2, quotas={"s": 2, "t": 0}, bounds={"t": 5}, state="paused", reason="why",
    )  # fmt: skip
    given_up, back = revert_of(halted, ["c", "c-revert"], now_s=0)
    assert (given_up.state, given_up.reason) == ("aborted", "why; c-revert-2 brings devices with 2 back to 1")
    assert (back.id, back.path, back.version, back.replaces, back.revert_to) == (
        "c-revert-2",
        BEFORE.path,
        "1",
        "2",
        "",
    )
    assert (back.emergency, back.stage, back.state, back.begun_s) == (False, 0, "running", 1)
    assert (back.quotas, back.bounds) == ({"s": 0, "t": 0}, {"s": 2, "t": 5})
    assert (back.policy, back.stages, back.canary) == (halted.policy, halted.stages, halted.canary)
    assert Plan(counter=1, campaigns=(given_up, back)).newest()["m"] is back


@pytest.mark.parametrize("path", ["x/1/fw.bin", "m/1", "m/2/other.bin"])
def test_a_plan_that_reverts_to_what_cannot_be_is_refused(path: str) -> None:
    with pytest.raises(BadData, match="revert_to: m/VERSION/FILE of another version"):
        campaigns.decode(Plan(counter=1, campaigns=(campaign(revert_to=path),)).encode())


def test_a_plan_that_reverts_nothing_is_believed_by_sites_that_know_of_no_reverting() -> None:
    assert b"revert" not in Plan(counter=1, campaigns=(campaign(),)).encode()


# who leads it


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    """With 1.0 and 2.0."""
    made = shelf_in(tmp_path)
    publish(made, tmp_path, "1.0")
    publish(made, tmp_path, "2.0")
    return made


def halting(shelf: Shelf, lines: list[str], path: str = "m/2.0/fw.bin") -> Leader:
    """Of a campaign of which too many devices are lost."""
    made = Campaign(
        id="c", model="m", path=path, version=path.split("/")[1], begun_s=1, quotas={"s": 1}, stage=1,
        revert_to="m/1.0/fw.bin",
    )  # fmt: skip
    counter = shelf.change_plan(lambda old: (*old, made)).counter
    leader = Leader(shelf, "c", [], ManualClock(), lines.append, lambda s: None)
    leader.known["s"] = SiteStatus(counter=counter, campaigns={"c": Standing(devices=10, offered=3, lost=3)})
    return leader


def test_who_leads_a_campaign_that_halts_goes_on_with_the_way_back(shelf: Shelf) -> None:
    lines: list[str] = []
    leader = halting(shelf, lines)
    assert leader.turn() is None
    assert lines == [
        "c: paused: 3 devices are lost, of about 0 in stage 1", "c-revert: devices with 2.0 are brought back to 1.0",
    ]  # fmt: skip
    given_up, back = shelf.plan().campaigns
    assert (given_up.state, back.state, back.version) == ("aborted", "running", "1.0")
    done = Standing(devices=5, offered=5, counts={"COMMITTED": 5})
    leader.known["s"] = SiteStatus(counter=9, campaigns={"c-revert": done})
    shelf.change_plan(lambda old: [msgspec.structs.replace(c, stage=3) for c in old])
    assert leader.turn() == HALTED
    assert lines[-1] == "c-revert: 5 of 5 devices have committed"
    assert leader.turn() == HALTED


@pytest.mark.parametrize("gone", [True, False])
def test_where_there_is_no_way_back_it_pauses_and_says_why(tmp_path: Path, shelf: Shelf, gone: bool) -> None:
    path = "m/2.0/fw.bin" if gone else publish(shelf, tmp_path, "3.0", security=2)
    lines: list[str] = []
    leader = halting(shelf, lines, path)
    if gone:
        shelf.keys.revoke("model-m-1")
        shelf.keys.add_model("m")
        publish(shelf, tmp_path, "2.0")
    why = (
        "1.0 is not in the repository any more: publish what it holds under a new version, for a new campaign"
        if gone
        else "1.0 has security version 1, and devices with 3.0 refuse less than 2: publish what it holds under a new version "
        "with security version 2"
    )
    assert leader.turn() == HALTED
    assert lines[-1] == f"c: not reverted: {why}"
    (c,) = shelf.plan().campaigns
    assert (c.state, c.reason) == ("paused", f"3 devices are lost, of about 0 in stage 1; not reverted: {why}")


@pytest.mark.parametrize(
    ("to", "why"),
    [
        ("0.9", "m 0.9 is not published"),
        (
            "1.0",
            "--revert-to 1.0: 1.0 has security version 1, and devices with 3.0 refuse less than 2: publish what it holds",
        ),
        ("3.0", "revert_to: m/VERSION/FILE of another version"),
    ],
)
def test_a_campaign_that_could_not_be_reverted_is_not_begun(
    tmp_path: Path, shelf: Shelf, monkeypatch: pytest.MonkeyPatch, to: str, why: str
) -> None:
    publish(shelf, tmp_path, "3.0", security=2)
    monkeypatch.chdir(tmp_path)
    words = f"firmware campaign start --model m --version 3.0 --revert-to {to} --repository repo --keys keys --site"
    done = CliRunner().invoke(main, [*words.split(), str(write_site(tmp_path))])
    assert done.exit_code == 1
    assert why in done.stderr
    assert shelf.plan().campaigns == ()


def test_status_tells_of_devices_that_keep_the_version(
    tmp_path: Path, shelf: Shelf, capsys: pytest.CaptureFixture[str]
) -> None:
    from containers.cli_firmware import _show
    from containers.cli_shared import Context

    leader = halting(shelf, [])
    leader.turn()
    stuck = Entry(**USUAL | {"version": "2.0", "security_version": 2})
    leader.devices["hall1"] = [stuck]
    _show(Context(), shelf, leader, "c-revert")
    said = capsys.readouterr().out
    assert "c-revert: 1.0 for m in place of 2.0, running, stage 1 of 3" in said
    assert "hall1 d: keeps 2.0: its security version 1 is below the device's 2" in said
    _show(Context(), shelf, leader, "c")
    assert "c: 2.0 for m, else 1.0, aborted (3 devices are lost" in capsys.readouterr().out


# with a real broker and devices


async def test_devices_go_back_over_mqtt(
    kafka: EmbeddedKafka, mosquitto: Mosquitto, unique: str, tmp_path: Path, shelf: Shelf, web: Web
) -> None:
    site = Site(unique, kafka.bootstrap, mosquitto.url, tmp_path, shelf, web)
    devices = [Device(f"{site.name}-{i}", site.root) for i in range(3)]
    weak = Device(f"{site.name}-weak", site.root, "weak")
    halted = site.campaign("c", "m/2.0/fw.bin", quota=4, revert_to="m/1.0/fw.bin")
    async with site.service(), living([*devices, weak], *where(site)):
        await site.settled(lambda s: sorted(s.values()) == ["COMMITTED"] * 3 + ["ROLLED_BACK"])
        given_up, back = revert_of(halted, ["c"], now_s=halted.begun_s + 1)
        back = msgspec.structs.replace(back, quotas={site.name: 1})
        shelf.change_plan(lambda _: (given_up, back))

        def over(states: dict[str, str]) -> bool:
            return all(d.flash.result[:2] == ("COMMITTED", "c-revert") for d in devices)

        await site.settled(over)
        found = await site.settled(lambda s: sorted(s.values()) == ["COMMITTED"] * 3 + ["ROLLED_BACK"])
    assert {d.flash.versions[d.flash.active][0] for d in [*devices, weak]} == {"1.0"}
    assert {e.campaign for e in found.values()} == {"c", "c-revert"}
    assert "Traceback" not in site.log.read_text()
