"""Shared libraries (ELF, System V ABI chapters 4 and 5) made smaller without tools: nothing that is loaded moves or changes."""

from __future__ import annotations

import io
from collections.abc import Collection
from itertools import zip_longest

from elftools.elf.dynamic import DynamicSegment
from elftools.elf.elffile import ELFFile

_TAG_BYTES = 16  # an entry of a dynamic section
_E_SHOFF, _E_SHENTSIZE, _HEADER_END = 0x28, 0x3A, 0x40


def shortened(content: bytes) -> bytes:
    """A library up to the last byte that is loaded: without symbols for debuggers, and without the table of sections, which only
    linkers and debuggers read. Anything else than an ELF file of 64 bits is given back as it is.
    """
    elf = _elf(content)
    if elf is None:
        return content
    end = max(s["p_offset"] + s["p_filesz"] for s in elf.iter_segments("PT_LOAD"))
    short = bytearray(content[:end])
    short[_E_SHOFF : _E_SHOFF + 8] = bytes(8)
    short[_E_SHENTSIZE:_HEADER_END] = bytes(_HEADER_END - _E_SHENTSIZE)  # with e_shnum and e_shstrndx
    return bytes(short)


def unlinked(content: bytes, gone: Collection[str]) -> bytes:
    """A library that no longer asks for the libraries `gone`: wheels are often linked with more than they call."""
    elf = _elf(content)
    for segment in (s for s in elf.iter_segments() if isinstance(s, DynamicSegment)) if elf else ():
        at, size = segment["p_offset"], segment["p_filesz"]
        tags = [content[n : n + _TAG_BYTES] for n in range(at, at + size, _TAG_BYTES)]
        kept = [raw for raw, tag in zip_longest(tags, segment.iter_tags()) if getattr(tag, "needed", None) not in gone]
        return content[:at] + b"".join(kept).ljust(size, b"\0") + content[at + size :]  # DT_NULL to the end
    return content


def _elf(content: bytes) -> ELFFile | None:
    elf = ELFFile(io.BytesIO(content)) if content.startswith(b"\x7fELF") else None
    return elf if elf and elf.elfclass == 64 and elf.little_endian else None
