"""The off switch: while a file `off` lies in one of these folders, nothing is sent to any device.

One folder is control's own, for `pipeline device off`; the other, if the site has one, is a folder of the site's machine, for
whoever stands there: `touch off` needs no Kafka, no network and no key. Only who laid the file can take it away.
"""

from __future__ import annotations

import os
from pathlib import Path

FILE = "off"


class Switch:
    """`local` is read only."""

    def __init__(self, own: Path, local: Path | None = None) -> None:
        self._own, self._local = own, local

    def why_off(self) -> str:
        """Why nothing may be sent; empty if it may. A folder that cannot be read counts as off."""
        for folder, who in ((self._own, "by command"), (self._local, "at the site")):
            try:
                if folder and FILE in os.listdir(folder):
                    return f"switched off {who} ({folder / FILE})"
            except OSError as e:
                return f"off, since the folder of the switch, {folder}, cannot be read: {e.strerror}"
        return ""

    def turn(self, *, off: bool) -> None:
        """Switch off or on by command; lasts. `OSError` if it cannot be."""
        path = self._own / FILE
        if off:
            path.touch()
        else:
            path.unlink(missing_ok=True)
        folder = os.open(self._own, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
