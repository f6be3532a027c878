"""A site that pulls, for real: enrolled, published to, lied to, cut off, killed in the middle; it runs what is signed for it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from containers.embedded import EmbeddedKafka
from tests.agent.plant import Plant
from tests.bed.engine import Engine

pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory, engine: Engine, kafka: EmbeddedKafka) -> Iterator[Plant]:
    """See `Plant.enrolled`."""
    with Plant.enrolled(tmp_path_factory.mktemp("pull"), engine, kafka) as plant:
        yield plant


def test_what_is_published_runs(plant: Plant) -> None:
    release = plant.publish()
    said = plant.applied(release)
    assert said.trouble == ""
    print(plant.log())
