"""Bills of materials know what is in Kafka's jars, and a release carries them to where no network leads."""

from __future__ import annotations

import json

from containers.fetch import kafka_jars
from containers.jars import jar_parts
from containers.sbom import licences, sbom


def test_every_jar_is_a_part_with_its_publisher_and_licence() -> None:
    found = {p.name: p for p in jar_parts(kafka_jars(), "/opt/sitestream/kafka")}
    assert len(found) == len(list(kafka_jars().glob("*.jar")))
    assert all(p.version and len(p.sha256) == 64 for p in found.values())
    server, zstd, slf4j = found["kafka-server"], found["zstd-jni"], found["slf4j-api"]
    assert str(server.purl) == f"pkg:maven/org.apache.kafka/kafka-server@{server.version}"
    assert (server.licence, zstd.licence, zstd.version[:4]) == ("Apache-2.0", "BSD-2-Clause", "1.5.")
    assert str(slf4j.purl).startswith("pkg:maven/org.slf4j/slf4j-api@")
    assert "/opt/sitestream/kafka/kafka_2.13-" in licences([found["kafka_2.13"]]).splitlines()[1]
    bill = json.loads(sbom("sitestream/broker:1", found.values()))
    assert len(bill["components"]) == len(found)
