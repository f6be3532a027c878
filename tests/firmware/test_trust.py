"""What a site believes: the attacks that TUF lists, on a real repository behind a real web server; downloads that break off."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import nacl.pwhash.argon2id as argon2id
import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata

from connectors.firmware.manifest import Manifest
from connectors.firmware.mirror import TRIES_MAX, Mirror, Untrusted
from containers.firmware.shelf import Shelf
from containers.repository import seal
from containers.repository.ring import Ring
from pipelines.clock import ManualClock, SystemClock
from pipelines.errors import BadData, ConfigError, LimitExceeded, Unavailable
from tests.firmware.device import Device
from tests.firmware.plant import IMAGE, Web, plan, publish, root_of, shelf_in

DAY_NS = 86_400 * 10**9


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in (folder / "repo/metadata").iterdir())


def newest(folder: Path, role: str) -> Path:
    found = (folder / "repo/metadata").glob(f"*{role}.json")
    return max(found, key=lambda p: int(p.name.split(".")[0]) if p.name[0].isdigit() else 0)


def forged(path: Path, signer: CryptoSigner | None = None, **changes: object) -> bytes:
    """Metadata with other content, signed by somebody else or not anew."""
    metadata = Metadata.from_bytes(path.read_bytes())
    for name, value in changes.items():
        setattr(metadata.signed, name, value)
    if signer:
        metadata.signatures.clear()
        metadata.sign(signer)
    return metadata.to_bytes()


def test_what_is_signed_is_believed_and_fetched(shelf: Shelf, mirror: Mirror) -> None:
    signed = mirror.refresh()
    assert signed.plan == shelf.plan()
    image = signed.images["c"]
    assert mirror.fetch(image, [], int).read_bytes() == IMAGE
    assert signed.expires_ns < time.time_ns() + 31 * DAY_NS


def test_metadata_that_somebody_else_signed_is_refused(tmp_path: Path, web: Web, mirror: Mirror) -> None:
    mirror.refresh()
    for role in ("timestamp", "snapshot", "targets", "campaigns", "m"):
        path = newest(tmp_path, role)
        fresh = Mirror(web.url, root_of(tmp_path), tmp_path / f"site-{role}", 10**7)
        web.instead = {f"metadata/{path.name}": forged(path, CryptoSigner.generate_ed25519())}
        with pytest.raises(Untrusted, match="was signed by 0/"):
            fresh.refresh()


def test_one_signature_of_the_two_that_must_is_not_enough(tmp_path: Path, web: Web, mirror: Mirror) -> None:
    path = newest(tmp_path, "targets")
    metadata = Metadata.from_bytes(path.read_bytes())
    metadata.signatures.popitem()
    metadata.signatures.popitem()
    web.instead = {f"metadata/{path.name}": metadata.to_bytes()}
    with pytest.raises(Untrusted, match="was signed by"):
        mirror.refresh()


def test_what_has_expired_is_refused(tmp_path: Path) -> None:
    for days, match in ((31, "expired"), (29, "")):
        folder = tmp_path / str(days)
        folder.mkdir()
        shelf = shelf_in(folder, ManualClock(time.time_ns() - days * DAY_NS))
        web = Web(folder / "repo")
        mirror = Mirror(web.url, root_of(folder), folder / "site", 10**7)
        if match:
            with pytest.raises(Untrusted, match=match):
                mirror.refresh()
        else:
            assert mirror.refresh().expires_ns < time.time_ns() + 2 * DAY_NS
        Shelf(shelf.folder, shelf.ring, SystemClock()).keys.refresh()
        assert mirror.refresh().plan.counter == 0
        web.close()


def test_an_older_state_is_refused_once_a_newer_one_was_seen(
    tmp_path: Path, shelf: Shelf, web: Web, mirror: Mirror
) -> None:
    old = {p: p.read_bytes() for p in (tmp_path / "repo/metadata").iterdir()}
    plan(shelf, name="newer")
    mirror.refresh()
    for path, content in old.items():
        path.write_bytes(content)
    with pytest.raises(Untrusted, match="version"):
        mirror.refresh()


def test_a_frozen_repository_holds_until_it_expires_and_then_nothing_counts(tmp_path: Path, mirror: Mirror) -> None:
    first = mirror.refresh()
    again = mirror.refresh()
    assert again.expires_ns == first.expires_ns  # it cannot be prolonged by showing the same again


def test_parts_of_different_states_do_not_fit_together(tmp_path: Path, shelf: Shelf, web: Web, mirror: Mirror) -> None:
    old = newest(tmp_path, "m").read_bytes()
    publish(shelf, tmp_path, "2.1", 1, b"new")
    plan(shelf, "m/2.1/fw.bin")
    web.instead = {f"metadata/{newest(tmp_path, 'm').name}": old}
    with pytest.raises(Untrusted, match="Expected m v3, got v2"):
        mirror.refresh()


def test_the_key_of_one_model_signs_no_other(tmp_path: Path, shelf: Shelf, mirror: Mirror) -> None:
    shelf.keys.add_model("n")
    metadata = shelf.current("n")
    stolen = shelf.current("m").signed.targets["m/2.0/fw.bin"]
    metadata.signed.targets["m/6.6/fw.bin"] = stolen
    shelf.release({"n": metadata})
    plan(shelf, "m/6.6/fw.bin")
    assert mirror.refresh().images == {}


def test_neither_signs_an_operator_images_nor_a_model_campaigns(shelf: Shelf, mirror: Mirror) -> None:
    image = shelf.current("m").signed.targets["m/2.0/fw.bin"]
    campaigns = shelf.current("campaigns")
    campaigns.signed.targets["m/6.6/fw.bin"] = image
    model = shelf.current("m")
    model.signed.targets["campaigns.json"] = shelf.current("campaigns").signed.targets["campaigns.json"]
    shelf.release({"campaigns": campaigns, "m": model})
    assert mirror.refresh().plan.counter == 1
    plan(shelf, "m/6.6/fw.bin")
    assert mirror.refresh().images == {}


def test_a_root_that_is_none_and_a_url_that_is_none_are_refused(tmp_path: Path, web: Web) -> None:
    with pytest.raises(ConfigError, match="is no signed root"):
        Mirror(web.url, b"{}", tmp_path / "x", 1).refresh()
    for url in ("ftp://x", "http://[", "https://x:y"):
        with pytest.raises(ConfigError, match="write 'https://host/folder'"):
            Mirror(url, b"", tmp_path / "x", 1)
    with pytest.raises(ConfigError, match="repository 'https://…@x': write"):
        Mirror("https://me:pw@x", b"", tmp_path / "x", 1)


def test_endless_metadata_and_a_server_that_is_away_are_told_apart(tmp_path: Path, web: Web, mirror: Mirror) -> None:
    web.instead = {"metadata/timestamp.json": b" " * 100_000}
    with pytest.raises((Untrusted, Unavailable)):
        mirror.refresh()
    web.close()
    with pytest.raises(Unavailable, match="does not answer"):
        mirror.refresh()


def test_a_download_that_breaks_off_goes_on_from_there(tmp_path: Path, web: Web, mirror: Mirror) -> None:
    image = mirror.refresh().images["c"]
    web.asked.clear()
    web.cut_after, web.cuts = 300_000, 3
    counted: list[int] = []
    mirror.fetch(image, [], counted.append)
    asked = [ranged for path, ranged in web.asked if "fw.bin" in path]
    assert asked == ["bytes=0-", "bytes=300000-", "bytes=600000-", "bytes=900000-"]
    assert sum(counted) == len(IMAGE)


def test_it_goes_on_after_a_restart_and_gives_up_after_some_tries(tmp_path: Path, web: Web, mirror: Mirror) -> None:
    image = mirror.refresh().images["c"]
    web.cut_after, web.cuts = 10_000, TRIES_MAX
    with pytest.raises(Unavailable, match=rf"broke {TRIES_MAX} times; {10_000 * TRIES_MAX} of {len(IMAGE)} bytes"):
        mirror.fetch(image, [], int)
    web.asked.clear()
    again = Mirror(web.url, root_of(tmp_path), tmp_path / "site", 10**7)
    assert again.fetch(image, [], int).read_bytes() == IMAGE
    assert web.asked[-1][1] == f"bytes={10_000 * TRIES_MAX}-"


def test_other_bytes_are_refused_and_not_kept(tmp_path: Path, web: Web, mirror: Mirror) -> None:
    image = mirror.refresh().images["c"]
    path = f"targets/m/2.0/{image.sha256}.fw.bin"
    web.instead = {path: IMAGE[:-1] + b"!"}
    with pytest.raises(Untrusted, match="are not those that were signed"):
        mirror.fetch(image, [], int)
    web.instead = {path: IMAGE[:-1]}
    with pytest.raises(Unavailable):
        mirror.fetch(image, [], int)
    web.instead = {}
    assert mirror.fetch(image, [], int).read_bytes() == IMAGE


def test_an_image_that_rots_on_the_disk_is_not_offered(mirror: Mirror) -> None:
    image = mirror.refresh().images["c"]
    place = mirror.fetch(image, [], int)
    assert mirror.verified(image)
    place.write_bytes(IMAGE[:-1] + b"!")
    assert not mirror.verified(image)
    assert not place.exists()


def test_the_disk_has_a_limit_and_old_images_go_first(tmp_path: Path, shelf: Shelf, web: Web) -> None:
    mirror = Mirror(web.url, root_of(tmp_path), tmp_path / "site", len(IMAGE) + 100)
    old = mirror.refresh().images["c"]
    mirror.fetch(old, [], int)
    publish(shelf, tmp_path, "2.1", 1, IMAGE[:-1])
    plan(shelf, "m/2.1/fw.bin")
    new = mirror.refresh().images["c"]
    with pytest.raises(LimitExceeded, match="raise the option images_max"):
        mirror.fetch(new, [old], int)
    mirror.fetch(new, [], int)
    assert not mirror.place(old).exists()


def test_closing_breaks_a_download_off(mirror: Mirror) -> None:
    image = mirror.refresh().images["c"]
    mirror.close()
    with pytest.raises(Unavailable):
        mirror.fetch(image, [], int)


def test_a_device_believes_its_root_alone(tmp_path: Path, shelf: Shelf, mirror: Mirror) -> None:
    signed = mirror.refresh()
    image = signed.images["c"]
    order = {"path": image.path, "length": image.length, "sha256": image.sha256, "metadata": list(signed.metadata["m"])}

    def device(**changes: object) -> Device:
        return Device("d", root_of(tmp_path), **changes)  # type: ignore[arg-type]  # as the test likes

    assert device().refuses(order) == ""
    assert device(hardware="Z").refuses(order) == "not for this hardware"
    assert device().refuses(order | {"sha256": "0" * 64}) == "not what was signed"
    assert "not signed" in device().refuses(order | {"path": "m/9/fw.bin"})
    assert "not signed" in device().refuses(order | {"metadata": []})
    stranger = forged(newest(tmp_path, "m"), CryptoSigner.generate_ed25519()).decode()
    assert "not signed" in device().refuses(order | {"metadata": [order["metadata"][0], stranger]})  # type: ignore[index]
    newer = device()
    newer.flash.versions["A"] = ("9", 2)
    assert newer.refuses(order) == "an older security version"
    publish(shelf, tmp_path, "2.1", 1, b"new")
    seen = device()
    assert seen.refuses(order) == ""
    seen.flash.seen["m"] = dict.fromkeys(seen.flash.seen["m"], 99)
    assert seen.refuses(order) == "m is older than what was seen"


def test_publishing_refuses_what_makes_no_sense(tmp_path: Path, shelf: Shelf) -> None:
    with pytest.raises(ConfigError, match=r"2\.0 is published already"):
        publish(shelf, tmp_path)
    publish(shelf, tmp_path, "2.1", security=3)
    with pytest.raises(ConfigError, match=r"security version 2 is below 3 of 2\.1"):
        publish(shelf, tmp_path, "2.2", security=2)
    with pytest.raises(ConfigError, match="model 'x' is not known"):
        shelf.publish(tmp_path / "fw.bin", Manifest(model="x", hardware=("A",), version="1", security_version=1))
    with pytest.raises(ConfigError, match="cannot be read"):
        shelf.publish(tmp_path / "nothing", Manifest(model="m", hardware=("A",), version="7", security_version=9))
    with pytest.raises(ConfigError, match="m 9 is not published"):
        shelf.find("m", "9")
    with pytest.raises(ConfigError, match="model m has a key already"):
        shelf.keys.add_model("m")
    with pytest.raises(ConfigError, match="model 'targets' cannot be used"):
        shelf.keys.add_model("targets")
    with pytest.raises(ConfigError, match="is a firmware repository already"):
        shelf.keys.init()
    with pytest.raises(ConfigError, match="the firmware plan is wrong"):
        plan(shelf, "m/2.0/fw.bin", "Not a name")


@pytest.mark.parametrize("folder", ["else", ""])
def test_where_no_repository_is_it_says_how_to_make_one(tmp_path: Path, shelf: Shelf, folder: str) -> None:
    none = Shelf(tmp_path / folder, shelf.ring, SystemClock())
    tries: list[Callable[[], object]] = [
        none.plan, lambda: none.change_plan(lambda old: old), lambda: publish(none, tmp_path), none.keys.refresh,
        none.keys.listed, lambda: none.keys.add("root"), lambda: none.keys.add_model("n"),
        lambda: none.keys.rotate("root-1"), lambda: none.keys.revoke("root-1"),
    ]  # fmt: skip
    for attempt in tries:
        with pytest.raises(ConfigError, match=f"{none.folder} is no firmware repository .*pipeline firmware keys init"):
            attempt()


def test_without_the_keys_nothing_is_signed_and_nothing_changes(tmp_path: Path, shelf: Shelf) -> None:
    away = tmp_path / "stick"
    away.mkdir()
    for name in ("targets-1", "targets-2", "model-m-1"):
        shutil.move(tmp_path / "keys" / f"{name}.key", away)
    before = names(tmp_path)
    with pytest.raises(
        ConfigError, match="1 keys for targets are here and 2 of targets-1, targets-2, targets-3 must sign"
    ):
        shelf.keys.add_model("n")
    with pytest.raises(ConfigError, match="0 keys for m are here"):
        publish(shelf, tmp_path, "3.0")
    assert names(tmp_path) == before
    lent = Shelf(shelf.folder, Ring(shelf.ring.folder, b"", [away / "targets-1.key"]), shelf.clock)
    assert lent.keys.add_model("n") == "model-n-1"


def test_private_keys_are_locked_or_their_owners_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seal, "PASSES", argon2id.OPSLIMIT_MIN)
    monkeypatch.setattr(seal, "MEMORY_BYTES", argon2id.MEMLIMIT_MIN)
    shelf = Shelf(tmp_path / "repo", Ring(tmp_path / "keys", b"a long passphrase"), SystemClock())
    shelf.keys.init()
    assert {p.stat().st_mode & 0o777 for p in (tmp_path / "keys").iterdir()} == {0o600}
    assert b"plain" not in (tmp_path / "keys/root-1.key").read_bytes()
    with pytest.raises(ConfigError, match="is locked: give its passphrase"):
        Shelf(shelf.folder, Ring(tmp_path / "keys"), SystemClock()).keys.refresh()
    shelf.keys.refresh()


def test_a_plan_or_manifest_that_is_signed_and_senseless_is_refused(shelf: Shelf, mirror: Mirror) -> None:
    model = shelf.current("m")
    model.signed.targets["m/2.0/fw.bin"].unrecognized_fields["custom"] = {"model": "m"}
    shelf.release({"m": model})
    with pytest.raises(BadData, match="its manifest is wrong"):
        mirror.refresh()
