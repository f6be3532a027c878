"""Fixtures of the tests of the repository and of trust."""

from __future__ import annotations

import nacl.pwhash.argon2id as argon2id
import pytest

from containers.repository import seal


@pytest.fixture
def cheap_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Locking keys takes no second."""
    monkeypatch.setattr(seal, "PASSES", argon2id.OPSLIMIT_MIN)
    monkeypatch.setattr(seal, "MEMORY_BYTES", argon2id.MEMLIMIT_MIN)
