"""`python -m connectors.upload --config FILE`."""

from __future__ import annotations

import sys

from connectors.upload.service import CONDITIONS, main
from pipelines.runtime.service import run_service

if __name__ == "__main__":
    sys.exit(run_service("upload", main, conditions=CONDITIONS))
