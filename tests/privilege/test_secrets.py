"""A secret is a file that its service alone can read, and stands nowhere else; an image holds its own service's code only."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from docker.models.containers import Container

from containers.acls import bearer
from containers.profiles import UID
from pipelines.runtime.identity import CA_FILE, CERT_FILE, KEY_FILE
from tests.privilege.parts import MQTT_USERS, GuardedS3
from tests.privilege.site import NAME, SERVICES, LeastSite, ask

FILES = {
    "collect": {"mqtt"},
    "process": set(),
    "upload": {"s3_access_key", "s3_secret_key"},
    "control": {"mqtt"},
    "firmware": {"mqtt_password", "firmware-root.json"},
}
ENTRIES = {
    "collect": "connectors.collect",
    "process": "pipelines.runtime.worker",
    "upload": "connectors.upload.service",
    "control": "connectors.control.service",
    "firmware": "connectors.firmware.service",
}
LIBRARIES = {"upload": {"obstore"}, "control": {"aiomqtt", "faust"}, "firmware": {"aiomqtt", "tuf"}}
LOOK_UP = """
import importlib.util as util, json, sys
def has(module):
    try: return bool(util.find_spec(module))
    except ModuleNotFoundError: return False
print(json.dumps([m for m in json.loads(sys.argv[1]) if has(m)]))
"""


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_has_its_own_secrets_as_files_that_it_alone_can_read(site: LeastSite, service: str) -> None:
    found = ask(site.container(service), {"say": 1})["secrets"]
    assert found == {name: [0o400, UID] for name in {CA_FILE, CERT_FILE, KEY_FILE} | FILES[service]}


def test_secrets_that_others_can_read_would_be_seen(too_free: Container) -> None:
    found = ask(too_free, {"say": int(too_free.attrs["State"]["Pid"])})["secrets"]
    assert [0o400, UID] not in found.values()


def texts(site: LeastSite, container: Container) -> Iterator[str]:
    """All that the engine tells of a container, and what stands in its image and environment."""
    api: Any = site.engine.client.api
    yield json.dumps(container.attrs)
    yield json.dumps(api.history(container.attrs["Image"])) + json.dumps(api.inspect_image(container.attrs["Image"]))
    yield container.logs().decode()
    environment: Any = container.exec_run(["python3", "-c", "print(open('/proc/self/environ').read())"])
    assert environment.exit_code == 0
    yield environment.output.decode()
    yield json.dumps(api.volumes()["Volumes"])


def secrets(site: LeastSite) -> list[str]:
    """Passwords, and each line of each key."""
    assert isinstance(site.s3, GuardedS3)
    issued = [site.fleet.authority.find(bearer(NAME, service)) for service in (*SERVICES, "admin")]
    lines = [line for i in issued if i for line in i.key.decode().splitlines()[1:-1]]
    assert len(lines) >= len(SERVICES)
    return [site.s3.password, *MQTT_USERS.values(), *lines]


@pytest.mark.parametrize("service", SERVICES)
def test_no_secret_is_in_environment_image_label_history_or_log(site: LeastSite, service: str) -> None:
    known = secrets(site)
    assert not [secret for text in texts(site, site.container(service)) for secret in known if secret in text]


def test_one_in_the_environment_would_be_found(site: LeastSite, too_free: Container) -> None:
    known = secrets(site)
    assert [secret for text in texts(site, too_free) for secret in known if secret in text]


@pytest.mark.parametrize("words", [("plan",), ("plan", "-o", "json"), ("status",), ("status", "-o", "json")])
def test_no_secret_is_shown(site: LeastSite, words: tuple[str, ...]) -> None:
    site_file = site.folder / "site.toml"
    plain = site_file.read_text()
    site_file.write_text(plain + '[services.process]\nlog_level = "DEBUG"\n')  # so that there is something to be shown
    try:
        shown = repr(site.run(*words))
    finally:
        site_file.write_text(plain)
    assert not [secret for secret in secrets(site) if secret in shown]


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_holds_no_code_of_another(site: LeastSite, service: str) -> None:
    others = ["aiomqtt", "obstore", "faust", "tuf", "docker", "containers"]
    found = ask(site.container(service), [*ENTRIES.values(), *others], program=LOOK_UP)  # type: ignore[arg-type]
    assert set(found) == {ENTRIES[service], *LIBRARIES.get(service, set())}
