"""Durable steps on a disk: the spool and a store in a folder are made of them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO


class Disk:
    """One method for each step, so that a test can crash after any of them."""

    def write(self, path: Path, fill: Callable[[BinaryIO], None]) -> None:
        """Make a file under a temporary name; nothing is left of it after an error."""
        tmp = self.tmp(path)
        try:
            with tmp.open("wb") as file:
                fill(file)
                file.flush()
                os.fsync(file.fileno())
        except BaseException:
            tmp.unlink(missing_ok=True)
            raise

    def publish(self, path: Path) -> None:
        """Give the file its name."""
        self.tmp(path).rename(path)

    def sync(self, folder: Path) -> None:
        """Make names durable."""
        fd = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def remove(self, path: Path) -> None:
        """Remove a file, if it is there."""
        path.unlink(missing_ok=True)

    @staticmethod
    def tmp(path: Path) -> Path:
        """The temporary name."""
        return path.with_name(path.name + ".tmp")
