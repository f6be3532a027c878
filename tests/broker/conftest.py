"""One site with a broker of its own for the whole folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.bed.engine import Engine
from tests.bed.mosquitto import Mosquitto
from tests.broker.site import OwnSite, deployed


@pytest.fixture(scope="package")
def site(tmp_path_factory: pytest.TempPathFactory, engine: Engine, mosquitto: Mosquitto) -> Iterator[OwnSite]:
    """Deployed; each test leaves it running and as its files say."""
    with deployed(tmp_path_factory.mktemp("own"), engine, mosquitto) as site:
        code, err = site.deploy()
        assert code == 0, err
        lines = [line.partition(" sitestream-")[0] for line in err.splitlines() if "shipping" not in line]
        assert lines[:5] == [
            "+4 ~0 -0  tiny to own",
            "broker: starting",
            "broker: healthy",
            lines[3],
            "upload: starting",
        ]
        assert lines[3].startswith("Kafka: ")
        assert lines[3].endswith(" rights granted")
        yield site
