"""Secrets for one site, and keys behind a passphrase."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from containers.repository import seal
from pipelines.errors import ConfigError

SITE, OTHER = seal.generate(), seal.generate()


@given(st.binary(max_size=2000))
def test_what_is_sealed_for_a_site_is_opened_by_it(content: bytes) -> None:
    sealed = seal.seal(SITE.public, content)
    assert seal.open(SITE.private, sealed) == content
    assert sealed != seal.seal(SITE.public, content)
    assert len(content) < 8 or content not in sealed


@given(st.integers(0, 60), st.integers(1, 255))
def test_a_changed_byte_is_noticed(place: int, change: int) -> None:
    sealed = bytearray(seal.seal(SITE.public, b"password"))
    sealed[place % len(sealed)] ^= change
    with pytest.raises(ConfigError, match="sealed for another key than this site's, or is damaged"):
        seal.open(SITE.private, bytes(sealed))


def test_another_site_cannot_open_it() -> None:
    with pytest.raises(
        ConfigError, match=r"put this site's public key, .*, into the fleet's files and deploy again"
    ) as caught:
        seal.open(OTHER.private, seal.seal(SITE.public, b"password"))
    assert OTHER.public in str(caught.value)
    assert OTHER.private not in str(caught.value) + repr(OTHER)


@pytest.mark.parametrize("sealed", [b"", b"short"])
def test_what_was_never_sealed(sealed: bytes) -> None:
    with pytest.raises(ConfigError, match="or is damaged"):
        seal.open(SITE.private, sealed)


@pytest.mark.parametrize("key", ["", "no key", "QUJD", "é" * 44])
def test_what_is_no_key(key: str) -> None:
    with pytest.raises(ConfigError, match="this is no public key of a site: 44 characters of base64"):
        seal.seal(key, b"password")
    with pytest.raises(ConfigError, match="this is no private key of a site"):
        seal.open(key, b"password")


def test_a_passphrase(cheap_locks: None) -> None:
    locked = seal.lock(b"correct horse", b"private key")
    assert b"private key" not in locked
    assert seal.unlock(b"correct horse", locked) == b"private key"
    for passphrase, box in ((b"battery", locked), (b"correct horse", locked[:-1])):
        with pytest.raises(ConfigError, match="the passphrase is not the right one, or the key is damaged"):
            seal.unlock(passphrase, box)
    with pytest.raises(ConfigError, match="or the key is damaged"):
        seal.unlock(b"correct horse", b"short")
