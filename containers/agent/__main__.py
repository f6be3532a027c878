"""`python -m containers.agent`: the process in the agent's container."""

from __future__ import annotations

import sys

from containers.agent.service import main

if __name__ == "__main__":
    sys.exit(main())
