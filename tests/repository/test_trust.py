"""What a site believes: every known way to deceive it is refused, by a message that names it, and changes nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tuf.api.metadata import Root, Targets

from containers import files
from containers.repository import artifact, errors, statement
from containers.repository.errors import Untrusted
from containers.repository.layout import Folder
from containers.repository.statement import PATHS_MAX, State, check, first_root, next_root
from containers.repository.trust import COPIES, ROOTS_MAX, TrustStore, update_root
from pipelines.clock import ManualClock
from pipelines.errors import ConfigError, LimitExceeded, SitestreamError
from tests.repository.plant import (
    DOCUMENT,
    PATH,
    RELEASE_KEYS,
    ROOT_KEYS,
    START,
    THIEVES,
    Site,
    at,
    make_root,
    say,
    signers,
)

NOW = at(START + timedelta(days=1))


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path / "trust")


@pytest.fixture
def refused(site: Site) -> Iterator[Site]:
    """A site that has seen version 5, and must be the same after the test."""
    site.verify(say(5))
    before = [(site.folder / name).read_bytes() for name in COPIES]
    yield site
    assert [(site.folder / name).read_bytes() for name in COPIES] == before


def test_a_good_statement(site: Site) -> None:
    found = site.verify(say(5))
    assert (found.version, found.expires) == (5, START + timedelta(days=30))
    assert site.verify(say(5)).version == 5  # the same again
    assert site.verify(say(6, document=b"other"), document=b"other").version == 6
    assert site.verify(say(1, path="release"), path="release").version == 1  # counts for itself
    assert site.verify(say(7, by=RELEASE_KEYS)).version == 7


def test_a_statement_is_the_same_each_time() -> None:
    assert say(5) == say(5)


def edited(content: bytes, edit: Callable[[dict[str, object]], object]) -> bytes:
    value = json.loads(content)
    edit(value["signed"])
    return json.dumps(value).encode()


def test_a_forged_signature(refused: Site) -> None:
    forged = edited(say(6), lambda s: s.update(version=7))
    with pytest.raises(
        errors.ForgedSignature,
        match=r"about site/hall1 bears a signature that key \w{8} did not make",
    ):
        refused.verify(forged)


def test_an_unknown_key(refused: Site) -> None:
    with pytest.raises(
        errors.UnknownKey, match=r"is signed by \w{8}, and root 1 does not know that key for this: sign it"
    ):
        refused.verify(say(6, by=THIEVES[:1]))
    with pytest.raises(errors.UnknownKey, match="is signed by nobody"):
        refused.verify(say(6, by=[]))
    with pytest.raises(errors.UnknownKey, match="does not know that key for this"):
        refused.verify(say(6, by=ROOT_KEYS))  # they say which keys count, and nothing else


def test_below_threshold(tmp_path: Path) -> None:
    site = Site(tmp_path / "trust", make_root(release_threshold=2))
    with pytest.raises(errors.BelowThreshold, match="is signed by 1 of the 2 keys that must: sign it with more"):
        site.verify(say(1, by=[RELEASE_KEYS[0], THIEVES[0]]))
    assert site.verify(say(1, by=RELEASE_KEYS)).version == 1


def test_expired_and_frozen(refused: Site) -> None:
    refused.clock.advance(29 * 86_400)
    match = r"about site/hall1 expired at 2026-07-01T00:00:00Z, and this machine's clock says 2026-07-01T00:00:00Z"
    with pytest.raises(errors.Expired, match=match):
        refused.verify(say(5))
    with pytest.raises(errors.Expired, match="the repository holds an old copy back"):
        refused.verify(say(6))


def test_a_statement_counts_to_its_last_second(site: Site) -> None:
    site.clock.advance(29 * 86_400 - 1)
    assert site.verify(say(5)).version == 5


def test_a_root_that_has_expired(tmp_path: Path) -> None:
    site = Site(tmp_path / "trust", make_root(days=2))
    site.clock.advance(86_400)
    with pytest.raises(errors.Expired, match=r"root 1 expired at 2026-06-03T00:00:00Z"):
        site.verify(say(6))


def test_an_old_version_again(refused: Site) -> None:
    with pytest.raises(
        errors.Replayed, match="came in version 4, and version 5 was seen before: an old copy is not used"
    ):
        refused.verify(say(4))
    with pytest.raises(
        errors.Replayed, match="came in version 5 with other content than before: sign it under a new version"
    ):
        refused.verify(say(5, document=b"other"), document=b"other")


def test_a_statement_of_another_site(refused: Site) -> None:
    with pytest.raises(
        errors.WrongTarget, match="that came for site/hall1 speaks of site/hall2: it was put in the wrong place"
    ):
        refused.verify(say(6, path="site/hall2"))


@pytest.mark.parametrize(
    ("targets", "named"), [({}, "nothing"), ({PATH: 1, "site/hall2": 2}, "site/hall1, site/hall2")]
)
def test_a_statement_about_nothing_or_two(refused: Site, targets: dict[str, int], named: str) -> None:
    made = json.loads(say(6))
    target = made["signed"]["targets"][PATH]
    made["signed"]["targets"] = dict.fromkeys(targets, target)
    unsigned = statement.load(Targets, json.dumps(made).encode(), 9999, "it")
    unsigned.signatures.clear()
    with pytest.raises(errors.WrongTarget, match=f"speaks of {named}:"):
        refused.verify(statement.signed(unsigned, RELEASE_KEYS[:1]))


def test_another_document(refused: Site) -> None:
    with pytest.raises(
        errors.WrongDigest, match=r"site/hall1 has other content \(\w{12}…\) than was signed: it is not used"
    ):
        refused.verify(say(6), document=DOCUMENT.replace(b"7", b"8"))
    with pytest.raises(errors.WrongLength, match="site/hall1 has 20 bytes, and 19 were signed: it is not used"):
        refused.verify(say(6), document=DOCUMENT + b" ")


def test_too_large(refused: Site) -> None:
    with pytest.raises(errors.TooLarge, match="the statement about site/hall1 has 65537 bytes; at most 65536 are read"):
        refused.verify(say(6) + b" " * (65_537 - len(say(6))))
    huge = bytes(statement.DOCUMENT_BYTES_MAX + 1)
    with pytest.raises(errors.TooLarge, match="site/hall1 has 4194305 bytes; at most 4194304 are read"):
        refused.verify(say(6, document=huge), document=huge)


def test_a_root_that_is_too_large() -> None:
    with pytest.raises(errors.TooLarge, match="root 2 has 262145 bytes"):
        next_root(first_root(make_root()), make_root(2) + b" " * (262_145 - len(make_root(2))))


@pytest.mark.parametrize(
    "content", [b"", b"no json", b"{}", b"[" * 60_000, b"\xff", b'{"signed": {"_type": "targets"}}']
)
def test_what_is_no_statement(refused: Site, content: bytes) -> None:
    with pytest.raises(
        errors.Malformed, match=r"the statement about site/hall1 is not signed metadata .*: it is not used"
    ):
        refused.verify(content)


def test_a_root_in_place_of_a_statement(refused: Site) -> None:
    with pytest.raises(errors.Malformed, match=r"is metadata of another kind \(root\): it is not used"):
        refused.verify(make_root())


def test_what_cannot_be_written_canonically(refused: Site) -> None:
    with pytest.raises(errors.Malformed, match="cannot be written canonically"):
        refused.verify(edited(say(6), lambda s: s.update(x=1.5)))


def test_a_wrong_clock(refused: Site) -> None:
    refused.clock.advance(-3600)
    refused.verify(say(5))
    refused.clock.advance(-1)
    match = (
        r"clock wrong: it stands at 2026-06-01T22:59:59Z, and 2026-06-02T00:00:00Z has certainly passed; nothing new"
    )
    with pytest.raises(errors.WrongClock, match=match):
        refused.verify(say(6))


def test_a_clock_before_the_root_was_made(site: Site) -> None:
    site.clock = ManualClock(at(START) - 3601 * 10**9)
    with pytest.raises(
        errors.WrongClock, match=r"stands at 2026-05-31T22:59:59Z, and 2026-06-01T00:00:00Z has certainly passed"
    ):
        site.verify(say(5))


def test_a_clock_that_ran_ahead_shuts_nobody_out(site: Site) -> None:
    site.clock.advance(86_400 * 300)
    with pytest.raises(errors.Expired):
        site.verify(say(5))
    site.clock.advance(-86_400 * 300)
    assert site.verify(say(5)).version == 5


def test_too_many_paths() -> None:
    state = first_root(make_root())
    for number in range(PATHS_MAX):
        state = check(state, say(1, path=f"release/{number}"), f"release/{number}", DOCUMENT, NOW)[1]
    check(state, say(2, path="release/7"), "release/7", DOCUMENT, NOW)
    with pytest.raises(LimitExceeded, match="would be the 257th path with a statement; at most 256: give documents"):
        check(state, say(), PATH, DOCUMENT, NOW)


# roots


def test_a_chain_of_roots(site: Site) -> None:
    new = signers(3)
    roots = {
        2: make_root(2, release=signers(1)),
        3: make_root(3, roots=new, release=THIEVES[:1], by=[*ROOT_KEYS[:2], *new[:2]], days=1),  # expired since
        4: make_root(4, roots=new, by=new[1:]),
    }
    asked: list[int] = []

    def fetch(version: int) -> bytes | None:
        asked.append(version)
        return roots.get(version)

    assert update_root(site.trusted, fetch) == 4
    assert asked == [2, 3, 4, 5]
    assert site.verify(say(5)).version == 5


def test_a_root_that_skips_a_version(site: Site) -> None:
    with pytest.raises(
        errors.RootSkipped, match="root 3 was given where root 2 must follow root 1: none may be left out"
    ):
        update_root(site.trusted, lambda version: make_root(3))
    with pytest.raises(errors.RootSkipped, match="root 1 was given where root 2 must follow root 1"):
        update_root(site.trusted, lambda version: make_root(1))


def test_roots_that_the_old_or_the_new_keys_did_not_sign(site: Site) -> None:
    with pytest.raises(errors.UnknownKey, match=r"root 2 is signed by .*, and root 1 does not know that key"):
        update_root(site.trusted, lambda version: make_root(2, roots=THIEVES))
    with pytest.raises(errors.BelowThreshold, match="root 2 is signed by 1 of the 2 keys that must"):
        update_root(site.trusted, lambda version: make_root(2, by=ROOT_KEYS[:1]))
    with pytest.raises(errors.UnknownKey, match=r"root 2 is signed by .*, and root 2 does not know"):
        update_root(site.trusted, lambda version: make_root(2, roots=signers(2), by=ROOT_KEYS))
    with pytest.raises(errors.ForgedSignature, match="root 2 bears a signature"):
        update_root(
            site.trusted, lambda version: edited(make_root(2), lambda s: s.update(expires="2036-01-01T00:00:00Z"))
        )
    assert statement.root_version(site.trusted.state) == 1


def test_good_roots_are_kept_before_a_bad_one(site: Site) -> None:
    with pytest.raises(errors.RootSkipped):
        update_root(site.trusted, lambda version: make_root({2: 2}.get(version, 9)))
    assert statement.root_version(site.trusted.state) == 2


def test_endless_roots_come_in_portions(site: Site) -> None:
    assert update_root(site.trusted, make_root) == 1 + ROOTS_MAX


def test_a_root_that_does_not_say_when_it_was_made() -> None:
    root = statement.load(Root, make_root(), 99_999, "it")
    del root.signed.unrecognized_fields[statement.CREATED]
    root.signatures.clear()
    with pytest.raises(errors.Malformed, match="root 1 does not say when it was made"):
        first_root(statement.signed(root, ROOT_KEYS))


def test_a_stolen_key_does_not_bar_what_follows_its_revocation(site: Site) -> None:
    stolen, honest = RELEASE_KEYS
    site.verify(say(5, by=[honest]))
    site.verify(say(2**60, by=[stolen]))
    with pytest.raises(errors.Replayed):
        site.verify(say(6, by=[honest]))
    update_root(site.trusted, lambda version: make_root(2, release=[honest]) if version == 2 else None)
    with pytest.raises(errors.UnknownKey, match=r"push the newest root"):
        site.verify(say(2**60 + 1, by=[stolen]))
    with pytest.raises(errors.Replayed, match="version 5 was seen before"):  # what the honest key said still counts
        site.verify(say(4, by=[honest]))
    assert site.verify(say(6, by=[honest])).version == 6


def test_roots_through_a_repository(site: Site, tmp_path: Path) -> None:
    artifact.put_roots(Folder(tmp_path / "repo"), [make_root(1), make_root(2), make_root(3)])
    assert update_root(site.trusted, lambda version: artifact.get_root(Folder(tmp_path / "repo"), version)) == 3


# the store


def test_one_copy_suffices_and_heals_the_other(site: Site) -> None:
    site.verify(say(5))
    for name, damage in zip(COPIES, (b"", None), strict=True):
        path = site.folder / name
        path.unlink() if damage is None else path.write_bytes(path.read_bytes()[:-9])
        assert len(site.trusted.damaged) == 1
        with pytest.raises(errors.Replayed):
            site.verify(say(4))
        site.verify(say(5))
        assert site.trusted.damaged == []


@pytest.mark.parametrize("newer", COPIES)
def test_the_newer_copy_counts(site: Site, newer: str) -> None:
    site.verify(say(5))
    before = (site.folder / newer).read_bytes()
    site.verify(say(6))
    (older,) = set(COPIES) - {newer}
    (site.folder / older).write_bytes(before)  # as after a power cut between the two
    with pytest.raises(errors.Replayed, match="version 6 was seen before"):
        site.verify(say(5))


def test_a_changed_digit_is_damage(site: Site) -> None:
    site.verify(say(5))
    path = site.folder / COPIES[0]
    path.write_bytes(
        path.read_bytes().replace(b'"version":5', b'"version":1').replace(b'"generation":2', b'"generation":9')
    )
    assert site.trusted.damaged == ["state.a.json is damaged"]
    with pytest.raises(errors.Replayed):
        site.verify(say(4))


@pytest.mark.parametrize(
    ("content", "said"), [(b"", "state.a.json is damaged"), (None, "state.a.json: No such file or directory")]
)
def test_a_broken_store(site: Site, content: bytes | None, said: str) -> None:
    for name in COPIES:
        (site.folder / name).unlink()
        if content is not None:
            (site.folder / name).write_bytes(content)
    match = rf"the trust store .*trust is missing or damaged \({said}.*\): nothing new is accepted, what runs goes on"
    with pytest.raises(errors.BrokenStore, match=match):
        site.verify(say(5))
    with pytest.raises(errors.BrokenStore, match=match):
        update_root(site.trusted, make_root)
    site.trusted.init(make_root())
    assert site.verify(say(5)).version == 5


def test_a_store_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(
        errors.BrokenStore, match=r"missing or damaged \(state\.a\.json: No such file or directory; .*\)"
    ):
        update_root(TrustStore(tmp_path / "none"), make_root)


def test_a_whole_store_is_not_replaced(site: Site) -> None:
    with pytest.raises(ConfigError, match="trusts a root already: newer roots come from the repository; to begin"):
        site.trusted.init(make_root())


def test_a_root_that_is_not_signed_is_not_taken_by_hand_either(tmp_path: Path) -> None:
    with pytest.raises(errors.BelowThreshold):
        TrustStore(tmp_path / "trust").init(make_root(by=ROOT_KEYS[:1]))


@pytest.mark.parametrize("steps", range(4))
def test_a_power_cut_forgets_nothing_that_was_acted_upon(
    site: Site, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    """The disk fails at each of the four syncs of an update in turn."""
    site.verify(say(5))
    left, sync = [steps], files._sync

    def fails(path: Path) -> None:
        if not left[0]:
            raise OSError(5, "power cut")
        left[0] -= 1
        sync(path)

    with monkeypatch.context() as patched:
        patched.setattr(files, "_sync", fails)
        with pytest.raises(OSError, match="power cut"):
            site.verify(say(6))
    assert site.trusted.damaged == []
    with pytest.raises(errors.Replayed):
        site.verify(say(4))
    assert site.verify(say(6)).version == 6


def test_flash_is_spared(site: Site) -> None:
    site.verify(say(5))
    before = (site.folder / COPIES[0]).stat().st_mtime_ns
    site.clock.advance(599)
    site.verify(say(5))
    assert (site.folder / COPIES[0]).stat().st_mtime_ns == before
    site.clock.advance(1)
    site.verify(say(5))
    assert (site.folder / COPIES[0]).stat().st_mtime_ns > before


# whatever comes

ROOT_STATE = first_root(make_root())
STATE = check(ROOT_STATE, say(5), PATH, DOCUMENT, NOW)[1]
GOOD = say(6)


@given(st.integers(0, len(GOOD) - 1), st.integers(1, 255))
@settings(max_examples=300, deadline=None)
def test_no_byte_of_a_statement_can_be_changed(place: int, change: int) -> None:
    """Unless it means the same, it is refused, and as untrusted."""
    changed = bytearray(GOOD)
    changed[place] ^= change
    try:
        verified, _ = check(STATE, bytes(changed), PATH, DOCUMENT, NOW)
    except (Untrusted, errors.TooLarge):
        return
    assert verified.version == 6
    assert loaded(bytes(changed)) == loaded(GOOD)


def loaded(content: bytes) -> Targets:
    return statement.load(Targets, content, 9999, "it").signed


@given(st.binary(max_size=200))
@settings(deadline=None)
def test_garbage_is_untrusted(content: bytes) -> None:
    with pytest.raises(Untrusted):
        check(STATE, content, PATH, DOCUMENT, NOW)
    with pytest.raises(Untrusted):
        next_root(STATE, content)


SAID = {(v, d): say(v, document=b"%d" % d) for v in range(1, 6) for d in range(2)}


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(0, 1)), max_size=12))
@settings(max_examples=50, deadline=None)
def test_versions_never_go_back(order: list[tuple[int, int]]) -> None:
    state, accepted = ROOT_STATE, list[tuple[int, int]]()
    for version, document in order:
        try:
            _, state = check(state, SAID[version, document], PATH, b"%d" % document, NOW)
        except SitestreamError:
            continue
        accepted.append((version, document))
    assert [v for v, _ in accepted] == sorted(v for v, _ in accepted)
    assert len(set(accepted)) == len({v for v, _ in accepted})  # one content a version
    if order:
        assert accepted[0] == order[0]


def test_a_state_survives_the_disk(site: Site) -> None:
    site.verify(say(5))
    state = TrustStore(site.folder).state
    assert isinstance(state, State)
    assert {path: [s.version for s in by.values()] for path, by in state.seen.items()} == {PATH: [5]}
    assert state.time_ns == site.clock.now_ns()
