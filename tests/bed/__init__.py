"""The test bed: real brokers, stores, engines and monitors, started as children on free ports.

The fixtures in `tests/conftest.py` hand them out: `kafka`, `mosquitto`, `s3`, `engine`, `registry`, `prometheus`, `unique`.
"""

from containers.child import free_port
from tests.bed.parts import find_part
from tests.bed.waiting import beside, until, wait_until

__all__ = ["beside", "find_part", "free_port", "until", "wait_until"]
