"""`pipeline keys`: what is made can be believed by sites, and nothing secret is shown."""

from __future__ import annotations

import json
import stat
from datetime import timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from tuf.api.metadata import Root

from containers.cli import main
from containers.repository.errors import UnknownKey
from containers.repository.keys import Keys
from containers.repository.ring import KeyFile
from containers.repository.statement import RELEASE_ROLE, ROOT_BYTES_MAX, load, sign, signed
from containers.repository.trust import TrustStore, update_root, verify
from pipelines.clock import ManualClock
from pipelines.errors import ConfigError
from tests.repository.plant import DOCUMENT, PATH, START, at


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    made = Keys(tmp_path / "keys", ManualClock(at(START)))
    made.init(roots=3, threshold=2)
    return made


class Plant:
    """A site that was set up with the first root."""

    def __init__(self, keys: Keys, folder: Path) -> None:
        self.keys, self.trusted = keys, TrustStore(folder)
        self.trusted.init(keys.roots()[0])

    def deploy(self, version: int, signers: Keys | None = None) -> int:
        """Sign with the release keys, and have the site believe it."""
        by = (signers or self.keys).release_signers()
        content = sign(DOCUMENT, PATH, version, START + timedelta(days=30), by)
        roots = dict(enumerate(self.keys.roots(), 1))
        update_root(self.trusted, roots.get)
        return verify(self.trusted, content, PATH, DOCUMENT, self.keys.clock).version


@pytest.fixture
def plant(keys: Keys, tmp_path: Path) -> Plant:
    return Plant(keys, tmp_path / "trust")


def names(keys: Keys) -> list[str]:
    return [key.name for key in keys.listed()]


def test_the_first_keys(keys: Keys, plant: Plant) -> None:
    assert names(keys) == ["root-1", "root-2", "root-3", "release-1"]
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in keys.folder.iterdir()}
    assert modes == {**{f"{n}.key": 0o600 for n in names(keys)}, "1.root.json": 0o644}
    assert keys.root().expires == START + timedelta(days=730)
    assert plant.deploy(1) == 1


def test_keys_are_made_once(keys: Keys) -> None:
    with pytest.raises(ConfigError, match="has keys already: sites trust those; to begin anew, move the folder away"):
        keys.init(1, 1)


@pytest.mark.parametrize(("roots", "threshold"), [(1, 2), (0, 0), (33, 2), (3, 0)])
def test_thresholds_that_cannot_be(tmp_path: Path, roots: int, threshold: int) -> None:
    with pytest.raises(
        ConfigError, match=f"{threshold} of {roots} root keys cannot be: write 1 of 1, 2 of 3, at most 32"
    ):
        Keys(tmp_path, ManualClock()).init(roots, threshold)


def test_a_release_key_is_exchanged_without_visiting_a_site(keys: Keys, plant: Plant, tmp_path: Path) -> None:
    plant.deploy(1)
    stolen = sign(DOCUMENT, PATH, 9, START + timedelta(days=30), keys.release_signers())
    assert keys.rotate("release-1") == "release-2"
    assert plant.deploy(2) == 2
    with pytest.raises(UnknownKey):
        verify(plant.trusted, stolen, PATH, DOCUMENT, keys.clock)
    assert keys.rotate("release-2") == "release-3"  # a name is never used again
    assert plant.deploy(3) == 3


def test_root_keys_are_exchanged_one_after_the_other(keys: Keys, plant: Plant) -> None:
    for name in ("root-1", "root-2", "root-3"):
        keys.rotate(name)
        (keys.folder / f"{name}.key").unlink()
    assert names(keys) == ["root-4", "root-5", "root-6", "release-1"]
    assert keys.root().version == 4
    assert plant.deploy(1) == 1


def test_a_lost_root_key_is_revoked_by_the_others(keys: Keys, plant: Plant) -> None:
    (keys.folder / "root-2.key").unlink()
    assert [key.kept for key in keys.listed()] == ["plain", "elsewhere", "plain", "plain"]
    keys.revoke("root-2")
    assert plant.deploy(1) == 1
    with pytest.raises(
        ConfigError, match="root-1 cannot be revoked: 2 root keys must sign, and there would be fewer: put another"
    ):
        keys.revoke("root-1")
    assert keys.add("root") == "root-4"
    keys.revoke("root-1")
    assert names(keys) == ["root-3", "root-4", "release-1"]


def test_one_more_release_key(keys: Keys, plant: Plant) -> None:
    assert keys.add("release") == "release-2"
    (keys.folder / "release-1.key").unlink()
    assert plant.deploy(1) == 1
    keys.revoke("release-1")
    assert plant.deploy(2) == 2


def test_root_keys_in_drawers(keys: Keys, tmp_path: Path) -> None:
    drawer = tmp_path / "drawer"
    drawer.mkdir()
    for n in (1, 2, 3):
        (keys.folder / f"root-{n}.key").rename(drawer / f"root-{n}.key")
    for here in ([], [drawer / "root-1.key"]):
        with pytest.raises(
            ConfigError, match=r"root 2 is signed by .*: name root keys on other media with  --key .*nothing has been"
        ):
            Keys(keys.folder, keys.clock, extra=here).rotate("release-1")
    assert sorted(p.name for p in keys.folder.iterdir()) == ["1.root.json", "release-1.key"]
    assert (
        Keys(keys.folder, keys.clock, extra=[drawer / "root-1.key", drawer / "root-3.key"]).rotate("release-1")
        == "release-2"
    )


def test_too_few_release_keys_here(keys: Keys) -> None:
    (keys.folder / "release-1.key").unlink()
    with pytest.raises(ConfigError, match=r"0 release keys are in .*keys and 1 must sign: bring release-N\.key there"):
        keys.release_signers()


def test_keys_behind_a_passphrase(tmp_path: Path, cheap_locks: None) -> None:
    locked = Keys(tmp_path / "keys", ManualClock(at(START)), b"correct horse")
    locked.init(1, 1)
    assert b"PRIVATE" not in b"".join(p.read_bytes() for p in (tmp_path / "keys").iterdir())
    assert {key.kept for key in locked.listed()} == {"locked"}
    assert Plant(locked, tmp_path / "trust").deploy(1) == 1
    locked.rotate("release-1")
    with pytest.raises(
        ConfigError, match="release-2 is locked: give its passphrase with  --passphrase file:PATH  or  env:NAME"
    ):
        Keys(tmp_path / "keys", locked.clock).release_signers()
    with pytest.raises(ConfigError, match="the passphrase is not the right one"):
        Keys(tmp_path / "keys", locked.clock, b"battery").release_signers()


def test_there_are_no_keys(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match="nowhere has no keys: make them with  pipeline keys init , or copy the folder"
    ):
        Keys(tmp_path / "nowhere", ManualClock()).listed()


def test_keys_that_do_not_count(keys: Keys) -> None:
    for change in (keys.rotate, keys.revoke):
        with pytest.raises(ConfigError, match="no key root-9 counts: there are root-1, root-2, root-3, release-1"):
            change("root-9")


@pytest.mark.parametrize("content", [b"", b"{}", b'{"name":"release-1","plain":"QUJD"}'])
def test_a_damaged_key(keys: Keys, content: bytes) -> None:
    (keys.folder / "release-1.key").write_bytes(content)
    with pytest.raises(ConfigError, match=r"release-1\.key is damaged.*bring back a copy of it"):
        keys.release_signers()


def test_a_key_file_that_is_not_there(keys: Keys, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"none\.key cannot be read \(No such file or directory\): name a key file that is there"
    ):
        Keys(keys.folder, keys.clock, extra=[tmp_path / "none.key"]).listed()


def test_too_many_keys(keys: Keys) -> None:
    root = load(Root, keys.roots()[0], ROOT_BYTES_MAX, "it")
    role = root.signed.roles[RELEASE_ROLE]
    role.keyids += [f"{n:064x}" for n in range(31)]
    root.signatures.clear()
    (keys.folder / "1.root.json").write_bytes(signed(root, []))
    with pytest.raises(ConfigError, match="there are 32 keys of this kind already: revoke some"):
        keys.add("release")


# the command


def pipeline(*words: str) -> Result:
    return CliRunner().invoke(main, words)


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cheap_locks: None) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pass").write_text("correct horse\n")
    reference = ("--passphrase", f"file:{tmp_path / 'pass'}")
    shown = [pipeline("keys", "init", *reference)]
    assert "made root-1, root-2, root-3, release-1 and keys/1.root.json, with which sites are set up" in shown[0].stdout
    shown += [
        pipeline("keys", *words, *reference)
        for words in (("add", "release"), ("rotate", "release-1"), ("revoke", "root-3"))
    ]
    assert [r.exit_code for r in shown] == [0] * 4
    assert (
        "made release-3; release-1 counts no more: destroy its file. Root 3 is in keys; deploy again" in shown[2].stdout
    )
    shown.append(pipeline("keys", "show", "-o", "json"))
    value = json.loads(shown[-1].stdout)
    assert [(k["name"], k["kept"]) for k in value["keys"]] == [
        (n, "locked") for n in ("root-1", "root-2", "release-2", "release-3")
    ]
    assert value["root"] == 4
    assert "root 4, good until" in pipeline("keys", "show").stdout
    everything = "".join(r.output for r in shown)
    assert "not locked" not in everything
    assert "correct horse" not in everything


def test_the_command_says_when_keys_are_plain_and_never_shows_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    made = pipeline("keys", "init", "--roots", "1", "--threshold", "1")
    assert (
        "root-1.key, release-1.key: not locked, whoever reads the files can sign; --passphrase locks keys"
        in made.stderr
    )
    shown = made.output + pipeline("keys", "show").output + pipeline("keys", "rotate", "root-1").output
    for path in (tmp_path / "keys").glob("*.key"):
        private = json.loads(path.read_bytes())["plain"]
        assert private not in shown
        assert private not in repr(KeyFile("x", plain=b"")) + repr(
            Keys(tmp_path / "keys", ManualClock()).release_signers()
        )


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("secret", "--passphrase is not a reference: write 'file:PATH' or 'env:NAME', never the secret itself"),
        ("env:NO_SUCH_VARIABLE", "--passphrase: the environment variable NO_SUCH_VARIABLE is not set: export it first"),
        ("file:none", "--passphrase: the file none cannot be read (No such file or directory): put the secret there"),
        ("file:/dev/null", "--passphrase: file:/dev/null is empty"),
    ],
)
def test_passphrases_that_are_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reference: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = pipeline("keys", "init", "--passphrase", reference)
    assert (result.exit_code, said in result.stderr) == (1, True)
    assert list(tmp_path.iterdir()) == []
