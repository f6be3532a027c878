"""Libraries made smaller: they load and do what they did, and ask for less."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy
import pyarrow
import pytest
from elftools.elf.dynamic import DynamicSegment
from elftools.elf.elffile import ELFFile

from containers.elf import shortened, unlinked

UMATH = next(Path(numpy.__file__).parent.glob("linalg/_umath_linalg.*.so"))
ARROW = next(Path(pyarrow.__file__).parent.glob("lib.*.so"))


_NEEDED = "needed"  # which only tags of this kind have


def _needed(content: bytes) -> list[str]:
    segments = ELFFile(io.BytesIO(content)).iter_segments()
    dynamic = [s for s in segments if isinstance(s, DynamicSegment)]
    return [getattr(tag, _NEEDED) for segment in dynamic for tag in segment.iter_tags("DT_NEEDED")]


def _loaded(content: bytes) -> list[bytes]:
    return [segment.data() for segment in ELFFile(io.BytesIO(content)).iter_segments("PT_LOAD")]


@pytest.mark.parametrize("path", [UMATH, ARROW])
def test_what_is_loaded_stays_and_the_rest_goes(path: Path) -> None:
    whole = path.read_bytes()
    short = shortened(whole)
    assert len(short) < len(whole)
    assert _loaded(whole)[1:] == _loaded(short)[1:]
    assert _loaded(whole)[0][0x40:] == _loaded(short)[0][0x40:]  # but for the header, which is loaded, too
    assert list(ELFFile(io.BytesIO(short)).iter_sections()) == []
    assert shortened(short) == short


def test_a_library_that_is_not_called_is_no_longer_asked_for(tmp_path: Path) -> None:
    whole = ARROW.read_bytes()
    (odd,) = [name for name in _needed(whole) if name.startswith("libarrow_substrait")]
    short = shortened(unlinked(whole, {odd}))
    assert _needed(short) == [name for name in _needed(whole) if name != odd]
    assert unlinked(whole, {"libother.so"}) == whole
    (tmp_path / "lib.so").write_bytes(short)
    folder = ARROW.parent
    words = "import ctypes, sys; ctypes.CDLL(sys.argv[1])"
    done = subprocess.run(
        [sys.executable, "-c", words, str(tmp_path / "lib.so")],
        env={"LD_LIBRARY_PATH": str(folder), "LD_DEBUG": "files"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"{folder}/libarrow.so" in done.stderr


@pytest.mark.parametrize("content", [b"", b"text", b"\x7fELF\x01\x01\x01" + bytes(80)])
def test_anything_else_is_left_alone(content: bytes) -> None:
    assert shortened(content) == unlinked(content, {"a"}) == content
