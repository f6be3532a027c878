"""`pipeline firmware keys`: keys are exchanged, sites and devices follow, and what a stolen key signed counts no more."""

from __future__ import annotations

import json
import shutil
from datetime import timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, MetaFile, Snapshot, Timestamp

from connectors.firmware.mirror import Mirror, Untrusted
from containers.cli import main
from containers.firmware.keys import Keys
from containers.firmware.shelf import Shelf
from containers.repository.ring import Ring
from pipelines.clock import ManualClock, SystemClock
from pipelines.errors import ConfigError
from tests.firmware.device import Device
from tests.firmware.plant import Web, plan, publish, root_of, shelf_in
from tests.firmware.test_trust import names, newest

DAY_S = 86_400
FAR = 2**31  # a version after which no other comes
ALL = ("root-1", "root-2", "root-3", "targets-1", "targets-2", "targets-3", "online-1", "campaigns-1", "model-m-1")


@pytest.fixture
def device(tmp_path: Path, shelf: Shelf) -> Device:
    """A device that was built with it."""
    return Device("d", root_of(tmp_path))


def offered(mirror: Mirror, device: Device, **changes: object) -> str:
    """What a device says of what a site would give it."""
    signed = mirror.refresh()
    image = signed.images["c"]
    order = {"path": image.path, "length": image.length, "sha256": image.sha256, "metadata": list(signed.metadata["m"])}
    return device.refuses({**order, "roots": list(signed.roots_after(1)), **changes})


def key(shelf: Shelf, name: str) -> CryptoSigner:
    (found,) = shelf.ring.signers([name])
    return found


def listed(shelf: Shelf) -> list[str]:
    return [k.name for k in shelf.keys.listed()]


def test_a_site_whose_repository_is_begun_anew_forgets_the_roots_of_the_old_one(
    tmp_path: Path, shelf: Shelf, mirror: Mirror, web: Web
) -> None:
    shelf.keys.rotate("root-1")
    assert list(mirror.refresh().roots) == [1, 2]
    for folder in ("repo", "keys"):
        (tmp_path / folder).rename(tmp_path / f"old-{folder}")
    anew = shelf_in(tmp_path)
    publish(anew, tmp_path)
    plan(anew)
    mirror = Mirror(web.url, root_of(tmp_path), tmp_path / "site", 10**7)
    assert list(mirror.refresh().roots) == [1]
    assert offered(mirror, Device("d", root_of(tmp_path))) == ""
    anew.keys.rotate("root-1")
    second = (tmp_path / "repo/metadata/2.root.json").read_bytes()
    assert list(Mirror(web.url, second, tmp_path / "site", 10**7).refresh().roots) == [2], (
        "not the one before, of whichever"
    )


@pytest.mark.parametrize("name", ["root-1", "targets-1", "online-1", "campaigns-1", "model-m-1"])
def test_a_key_is_exchanged_and_sites_and_devices_follow(
    shelf: Shelf, mirror: Mirror, device: Device, name: str
) -> None:
    assert offered(mirror, device) == ""
    made = shelf.keys.rotate(name)
    assert made == f"{name[:-2]}-{4 if name[:-2] in ('root', 'targets') else 2}"
    assert name not in listed(shelf)
    assert len(listed(shelf)) == len(ALL)
    (shelf.ring.folder / f"{name}.key").unlink()
    plan(shelf)
    shelf.keys.refresh()
    assert offered(mirror, device) == ""
    assert mirror.refresh().plan == shelf.plan()


def test_all_keys_are_exchanged_while_a_site_and_a_device_are_away(
    shelf: Shelf, mirror: Mirror, device: Device, tmp_path: Path
) -> None:
    assert offered(mirror, device) == ""
    for name in ALL:
        shelf.keys.rotate(name)
        (shelf.ring.folder / f"{name}.key").unlink()
    assert shelf.root().signed.version == 8
    publish(shelf, tmp_path, "2.1")
    plan(shelf, "m/2.1/fw.bin")
    assert offered(mirror, device) == ""
    assert device.flash.root == (tmp_path / "repo/metadata/8.root.json").read_bytes()
    assert json.loads(device._report("IDLE"))["root"] == 8


def test_a_root_that_too_few_old_or_new_keys_signed_is_followed_by_nobody(
    tmp_path: Path, shelf: Shelf, mirror: Mirror, device: Device
) -> None:
    mirror.refresh()
    stranger = [CryptoSigner.generate_ed25519() for _ in range(3)]
    root = shelf.root()
    root.signed.version = 2
    for keyid in list(root.signed.roles["root"].keyids):
        root.signed.revoke_key(keyid, "root")
    for signer in stranger:
        root.signed.add_key(signer.public_key, "root")
    for signers in (stranger, [*stranger, key(shelf, "root-1")], [key(shelf, f"root-{n}") for n in (1, 2, 3)]):
        root.signatures.clear()
        for signer in signers:
            root.sign(signer, append=True)
        (tmp_path / "repo/metadata/2.root.json").write_bytes(root.to_bytes())
        with pytest.raises(Untrusted, match="root was signed by"):
            mirror.refresh()
        (tmp_path / "repo/metadata/2.root.json").unlink()
        assert "root was signed by" in offered(mirror, device, roots=[root.to_bytes().decode()])


def test_what_a_stolen_key_of_a_model_signed_counts_no_more(
    tmp_path: Path, shelf: Shelf, mirror: Mirror, device: Device, web: Web
) -> None:
    thief, bad = key(shelf, "model-m-1"), shelf.current("m")
    before = mirror.refresh()
    bad.signed.targets["m/6.6/fw.bin"] = bad.signed.targets["m/2.0/fw.bin"]
    bad.signed.version += 1
    bad.sign(thief)
    image = before.images["c"]
    order = {"path": "m/6.6/fw.bin", "length": image.length, "sha256": image.sha256}
    stolen = order | {"metadata": [before.metadata["m"][0], bad.to_bytes().decode()]}
    assert device.refuses(stolen) == ""  # until it hears of it

    assert shelf.keys.revoke("model-m-1")
    assert "m" not in shelf.models()
    signed = mirror.refresh()
    assert signed.images == {}  # of the campaign that goes on in the plan
    with pytest.raises(ConfigError, match="model 'm' is not known"):
        shelf.find("m", "2.0")
    targets = newest(tmp_path, "targets").read_text()
    assert "not signed" in device.refuses(stolen | {"metadata": [targets, bad.to_bytes().decode()]})

    assert shelf.keys.add_model("m") == "model-m-2"
    publish(shelf, tmp_path)
    assert mirror.refresh().images["c"] == image
    web.instead = {f"metadata/{newest(tmp_path, 'm').name}": bad.to_bytes()}
    with pytest.raises(Untrusted, match="m was signed by 0/1"):
        Mirror(web.url, root_of(tmp_path), tmp_path / "other", 10**7).refresh()
    web.instead = {}
    assert offered(mirror, device) == ""
    assert "targets is older" in device.refuses(stolen)


def test_a_stolen_key_of_an_operator_begins_no_campaign_any_more(
    tmp_path: Path, shelf: Shelf, mirror: Mirror, web: Web
) -> None:
    assert shelf.keys.add("campaigns") == "campaigns-2"
    plan(shelf, name="mine")
    thief = key(shelf, "campaigns-1")
    assert not shelf.keys.revoke("campaigns-1")
    bad = shelf.current("campaigns")
    bad.sign(thief)
    web.instead = {f"metadata/{newest(tmp_path, 'campaigns').name}": bad.to_bytes()}
    with pytest.raises(Untrusted, match="campaigns was signed by 0/1"):
        mirror.refresh()
    web.instead = {}
    assert [c.id for c in mirror.refresh().plan.campaigns] == ["mine"]
    with pytest.raises(
        ConfigError,
        match="campaigns-2 cannot be revoked: 1 campaigns keys must sign, and there would be fewer: put another in its place "
        "with  pipeline firmware keys rotate campaigns-2",
    ):
        shelf.keys.revoke("campaigns-2")


def test_sites_recover_from_a_thief_who_signed_the_last_version_there_can_be(
    tmp_path: Path, shelf: Shelf, mirror: Mirror
) -> None:
    """Fast forward (TUF 5.3.11): the key of snapshot and timestamp is exchanged, and what was seen by the old one forgotten."""
    thief = key(shelf, "online-1")
    before = {p.name: p.read_bytes() for p in (tmp_path / "repo/metadata").iterdir()}
    snapshot = Metadata[Snapshot].from_bytes(newest(tmp_path, "snapshot").read_bytes())
    snapshot.signed.version = FAR
    snapshot.sign(thief)
    timestamp = Metadata(Timestamp(FAR, snapshot_meta=MetaFile(FAR), expires=shelf.now() + timedelta(days=9)))
    timestamp.sign(thief)
    (tmp_path / f"repo/metadata/{FAR}.snapshot.json").write_bytes(snapshot.to_bytes())
    (tmp_path / "repo/metadata/timestamp.json").write_bytes(timestamp.to_bytes())
    mirror.refresh()
    for name, content in before.items():
        (tmp_path / "repo/metadata" / name).write_bytes(content)
    plan(shelf, name="mine")
    with pytest.raises(Untrusted, match=f"timestamp version . must be >= {FAR}"):
        mirror.refresh()
    shelf.keys.rotate("online-1")
    assert [c.id for c in mirror.refresh().plan.campaigns] == ["mine"]


def test_devices_recover_from_such_a_thief_too(shelf: Shelf, mirror: Mirror, device: Device) -> None:
    far = shelf.current("m")
    far.signed.version = FAR
    far.sign(key(shelf, "model-m-1"))
    metadata = [mirror.refresh().metadata["m"][0], far.to_bytes().decode()]
    assert offered(mirror, device, metadata=metadata) == ""
    assert offered(mirror, device) == "m is older than what was seen"
    shelf.keys.add("m")
    assert offered(mirror, device) == "m is older than what was seen"  # the key still counts
    shelf.keys.revoke("model-m-1")
    assert offered(mirror, device) == ""


def test_a_key_less_or_more_of_those_that_are_several(shelf: Shelf, mirror: Mirror, tmp_path: Path) -> None:
    assert shelf.keys.add("root") == "root-4"
    for name in ("root-1", "root-2", "targets-3"):
        assert not shelf.keys.revoke(name)
    for name in ("root-3", "targets-1", "online-1"):
        with pytest.raises(ConfigError, match=rf"{name} cannot be revoked: [12] {name[:-2]} keys must sign"):
            shelf.keys.revoke(name)
    publish(shelf, tmp_path, "2.1")
    assert mirror.refresh().plan == shelf.plan()
    with pytest.raises(ConfigError, match="no key root-1 counts: there are root-3, root-4, targets-1"):
        shelf.keys.rotate("root-1")
    with pytest.raises(ConfigError, match=r"no key signs 'x': there are keys for root, targets, online, campaigns, m;"):
        shelf.keys.add("x")
    with pytest.raises(ConfigError, match="model m has a key already: for one more, run  pipeline firmware keys add m"):
        shelf.keys.add_model("m")
    with pytest.raises(ConfigError, match="model 'online' cannot be used"):
        shelf.keys.add_model("online")


@pytest.mark.parametrize(
    ("name", "away", "why"),
    [
        ("root-1", ["root-2", "root-3"], "1 keys for root are here and 2 of root-1, root-2, root-3 must sign"),
        ("online-1", ["root-2", "root-3"], "1 keys for root are here and 2 of root-1, root-2, root-3 must sign"),
        ("campaigns-1", ["targets-2", "targets-3"], "1 keys for targets are here and 2 of targets-1, targets-2,"),
        ("targets-1", ["root-1", "root-2"], "1 keys for root are here and 2 of"),
        (
            "targets-1",
            ["targets-2", "targets-3"],
            "1 keys for targets are here and 2 of targets-2, targets-3, targets-4",
        ),
        ("model-m-1", ["online-1"], "0 keys for snapshot are here and 1 of online-1 must sign"),
    ],
)
def test_with_too_few_keys_nothing_is_changed(
    tmp_path: Path, shelf: Shelf, name: str, away: list[str], why: str
) -> None:
    stick = tmp_path / "stick"
    stick.mkdir()
    if (
        "targets-2" in away
    ):  # what is signed by those that are left counts after an exchange, too: so they have not signed it
        targets = shelf.current("targets")
        (tmp_path / "keys/targets-2.key").rename(stick / "targets-2.key")
        shelf.release({"targets": targets})
        (stick / "targets-2.key").rename(tmp_path / "keys/targets-2.key")
    for other in away:
        shutil.move(tmp_path / "keys" / f"{other}.key", stick)
    before = names(tmp_path), sorted(p.name for p in shelf.ring.folder.iterdir())
    with pytest.raises(ConfigError, match=why + r".*--key /media/stick/NAME\.key  \(nothing has been changed\)"):
        shelf.keys.rotate(name)
    assert (names(tmp_path), sorted(p.name for p in shelf.ring.folder.iterdir())) == before
    lent = Keys(shelf.folder, Ring(shelf.ring.folder, b"", sorted(stick.iterdir())), shelf.clock)
    assert lent.rotate(name)


def test_keys_of_the_root_are_exchanged_where_no_other_key_is(shelf: Shelf, mirror: Mirror, tmp_path: Path) -> None:
    for path in shelf.ring.folder.iterdir():
        if not path.name.startswith("root-"):
            path.unlink()
    shelf.keys.rotate("root-1")
    assert mirror.refresh().roots_after(1) == ((tmp_path / "repo/metadata/2.root.json").read_text(),)


def test_what_expires_is_renewed_in_its_last_third_and_what_cannot_be_is_told(tmp_path: Path) -> None:
    clock = ManualClock(SystemClock().now_ns() - 500 * DAY_S * 10**9)
    shelf = shelf_in(tmp_path, clock)
    publish(shelf, tmp_path)
    assert shelf.keys.refresh().roles == ()
    clock.advance(250 * DAY_S)
    assert set(shelf.keys.refresh().roles) == {"targets", "campaigns", "m"}
    clock.advance(250 * DAY_S)
    shutil.move(tmp_path / "keys/targets-1.key", tmp_path)
    shutil.move(tmp_path / "keys/targets-2.key", tmp_path)
    renewed = shelf.keys.refresh()
    assert set(renewed.roles) == {"root", "campaigns", "m"}
    assert [s.role for s in renewed.waiting] == ["targets"]
    assert renewed.until == shelf.now() + timedelta(days=30)
    web = Web(tmp_path / "repo")
    signed = Mirror(web.url, root_of(tmp_path), tmp_path / "site", 10**7).refresh()
    web.close()
    assert len(signed.roots) == 2
    lent = Keys(
        shelf.folder, Ring(shelf.ring.folder, b"", [tmp_path / "targets-1.key", tmp_path / "targets-2.key"]), clock
    )
    assert lent.refresh().roles == ("targets",)


def test_a_power_cut_between_the_new_root_and_the_rest_is_mended_by_refresh(
    tmp_path: Path, shelf: Shelf, mirror: Mirror
) -> None:
    for name in ("targets-1", "targets-2", "online-1"):
        before = {p: p.read_bytes() for p in (tmp_path / "repo/metadata").iterdir()}
        shelf.keys.rotate(name)
        for path in (tmp_path / "repo/metadata").iterdir():
            if "root" not in path.name:
                path.write_bytes(before[path]) if path in before else path.unlink()
    with pytest.raises(Untrusted, match="timestamp was signed by 0/1"):
        mirror.refresh()
    assert shelf.keys.refresh().roles == ("targets",)
    assert mirror.refresh().plan == shelf.plan()


# the command


def firmware(*words: str) -> Result:
    return CliRunner().invoke(main, ["firmware", *words])


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("fw.bin").write_bytes(b"new")
    made = firmware("keys", "init")
    assert "campaigns-1.key: not locked, whoever reads the files can sign" in made.stderr
    firmware("keys", "add-model", "m")
    firmware("publish", "fw.bin", "--model", "m", "--version", "2.0", "--hardware", "A", "--security-version", "1")
    said = firmware("keys", "rotate", "root-1").stdout
    assert (
        "made root-4; root-1 counts no more: destroy its file. Root 2 is the newest; bring firmware to your web" in said
    )
    assert "made campaigns-2. Root 2 is the newest" in firmware("keys", "add", "campaigns").stdout
    said = firmware("keys", "revoke", "campaigns-1").stdout
    assert said.startswith("campaigns-1 counts no more; destroy its file. Root 2 is the newest")
    shown = firmware("keys", "show").stdout.splitlines()
    rows = [line.split() for line in shown if line.startswith(("campaigns", "root "))]
    assert [[*row[:2], *row[3:]] for row in rows] == [
        ["campaigns-2", "campaigns", "plain"],
        ["root", "2", "root-2,", "root-3,", "root-4", "2", "of", "3"],
        ["campaigns", "2", "campaigns-2", "1", "of", "1"],
    ]
    said = firmware("keys", "revoke", "model-m-1").stdout
    assert (
        "model-m-1 counts no more, nor does any image of m: make another with  pipeline firmware keys add-model m"
        in said
    )
    value = json.loads(firmware("keys", "show", "-o", "json").stdout)
    assert {k["name"] for k in value["keys"]} >= {"root-4", "campaigns-2", "online-1"}
    assert [m["role"] for m in value["metadata"]] == ["root", "targets", "snapshot", "timestamp", "campaigns"]
    value = json.loads(firmware("refresh", "-o", "json").stdout)
    assert (value["renewed"], value["waiting"]) == ([], [])
    for path in Path("firmware-keys").iterdir():
        assert json.loads(path.read_bytes())["plain"] not in made.output


def test_the_command_tells_which_keys_must_renew_what(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shelf = Shelf(
        Path("firmware"), Ring(Path("firmware-keys")), ManualClock(SystemClock().now_ns() - 300 * DAY_S * 10**9)
    )
    shelf.keys.init()
    for path in Path("firmware-keys").glob("targets-*"):
        path.rename(tmp_path / path.name)
    said = firmware("refresh")
    assert said.exit_code == 0
    assert (
        "and 2 of targets-1, targets-2, targets-3 must sign it anew: run this again with  --key /media/stick/"
        in said.stderr
    )
    assert said.stdout.rstrip().endswith("signed anew: campaigns")
    said = firmware("refresh", "--key", "targets-1.key", "--key", "targets-2.key")
    assert said.stdout.rstrip().endswith("signed anew: targets")
