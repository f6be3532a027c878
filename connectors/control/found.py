"""What control found when it read the settings of a device that cannot tell them itself. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from connectors.control.commands import Value

TEXT_CHARS_MAX = 1000


@dataclass
class Found:
    """`wrong`: settings that were read and are not as wanted; `faults`: why the value of one is None."""

    values: dict[str, Value] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    faults: dict[str, str] = field(default_factory=dict)

    def take(self, name: str, value: Value, want: Mapping[str, Value], *, same: bool) -> None:
        """A setting that could be read. `same`: the device can show what is wanted no better, as 2.03 in steps of 0.1."""
        self.values[name] = want[name] if same else value
        if name in want and not same:
            self.wrong.append(name)
        if isinstance(value, str) and len(value) > TEXT_CHARS_MAX and not same:
            self.fault(name, f"its text has {len(value)} characters, and may have {TEXT_CHARS_MAX}")

    def fault(self, name: str, why: str) -> None:
        """A setting that could not be read, or not be kept."""
        self.values[name], self.faults[name] = None, why
