"""Measurements on real parts. Each module prints a small table; with `--json FILE` it writes its figures, too."""
