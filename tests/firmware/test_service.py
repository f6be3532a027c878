"""The service with a real Kafka, a real Mosquitto, a real web server, and devices that lose power."""

from __future__ import annotations

import asyncio
import http.client
import signal
from datetime import datetime
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from connectors.firmware import audit
from connectors.firmware.delivery import Store
from connectors.firmware.windows import is_open, parse
from pipelines.errors import ConfigError
from pipelines.runtime.serve import serve_app
from tests.bed import until
from tests.firmware.device import STEPS, Device, living
from tests.firmware.plant import IMAGE, Site, publish

QUIET = {"COMMITTED", "ROLLED_BACK", "STALLED", "WAITING_WINDOW"}  # the last: those that a halt has spared


def where(site: Site) -> tuple[str, int]:
    """Host and port of the MQTT broker."""
    url = urlsplit(site.mqtt)
    return str(url.hostname), url.port or 1883


async def test_devices_that_lose_power_at_each_step_all_commit(site: Site) -> None:
    path = publish(site.shelf, site.folder)
    site.campaign("c1", path, quota=20)
    devices = [Device(f"{site.name}-{i}", site.root, cut={step}) for i, step in enumerate(STEPS)]
    devices.append(Device(f"{site.name}-garbled", site.root, garble=5))
    async with site.service() as service, living(devices, *where(site)):
        await site.settled(lambda s: len(s) == len(devices) and set(s.values()) == {"COMMITTED"}, 40)
        assert not any(d.cut for d in devices)
        assert all(d.flash.slots[d.flash.active] == IMAGE for d in devices)
        service.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(service.wait(), 15) == 0
    assert "Traceback" not in site.log.read_text()


async def test_a_service_that_is_killed_goes_on_and_bad_hardware_stops_the_rest(site: Site) -> None:
    site.campaign("c1", publish(site.shelf, site.folder), quota=3)
    kinds = ["good", "good", "good", "good", "weak", "bricks", "rots"]
    devices = [Device(f"{site.name}-{i}-{kind}", site.root, kind) for i, kind in enumerate(kinds)]
    late = Device(f"{site.name}-late", site.root)
    async with living(devices, *where(site)):
        for _ in range(3):
            async with site.service():  # which kills it at the end
                await site.settled(lambda s: len(s) == len(devices), 20)
                await asyncio.sleep(1)
        async with site.service():
            bad = {
                devices[4].name: "ROLLED_BACK", devices[5].name: "STALLED", devices[6].name: "ROLLED_BACK",
            }  # fmt: skip
            found = await site.settled(lambda s: bad.items() <= s.items() and QUIET.issuperset(s.values()), 60)
            assert {e.state.value for e in found.values() if "good" in e.device} >= {"COMMITTED"}
            async with living([late], *where(site)):
                await site.settled(lambda s: len(s) == len(devices) + 1)
                status, _ = await site.status()
                assert status is not None
                assert status.campaigns["c1"].halted
                await asyncio.sleep(1)
                assert late.flash.result[0] == "IDLE"
        records = [(r.device, r.state) for r in await audit.read(site.brokers, site.name)]
    once = [
        (d, s) for d, s in records if s not in ("INSTALLING", "OFFERED")
    ]  # these may be said again to one that restarted
    ends = [(e.device, e.state.value) for e in found.values() if e.state.value in QUIET - {"WAITING_WINDOW"}]
    assert sorted(once) == sorted([("", "BEGUN"), ("", "HALTED"), *ends])
    for device, _ in ends:
        assert list(dict.fromkeys(s for d, s in records if d == device))[:2] == ["OFFERED", "INSTALLING"]
    assert devices[4].running == devices[4].flash.active == "A"
    assert "Traceback" not in site.log.read_text()


async def test_kafka_can_hold_an_update_back_and_cannot_begin_one(site: Site) -> None:
    path = publish(site.shelf, site.folder)
    device, over_http = Device(f"{site.name}-d", site.root), Device(f"{site.name}-h", site.root, hardware="Z")
    await site.hint(7)
    async with site.service(), living([device, over_http], *where(site)):
        made = site.campaign("c1", path, quota=2)
        await until(lambda: _held(site, "plan 7 is said to exist, and the mirror has 1"), 20)
        await asyncio.sleep(1)
        assert device.flash.result[0] == "IDLE"
        await site.hint(1)
        await site.settled(lambda s: sorted(s.values()) == ["COMMITTED", "IDLE"])
        assert over_http.flash.result[0] == "IDLE"  # of hardware for which it is not
        site.change(state="paused", reason="test")
        assert made.state == "running"


async def _held(site: Site, why: str) -> bool:
    status, _ = await site.status()
    return status is not None and status.held == why


def test_devices_fetch_images_over_http_with_their_token_and_ranges(tmp_path: Path) -> None:
    digest, place, counted = "ab" * 32, tmp_path / "image", list[int]()
    place.write_bytes(IMAGE)
    store = Store(b"k" * 32, counted.append)
    store.offer({digest: place})
    server = serve_app(0, store, "http", "127.0.0.1")

    def ask(path: str, token: str, span: str = "") -> tuple[int, bytes]:
        link = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
        link.request("GET", path, headers={"Authorization": f"Bearer {token}"} | ({"Range": span} if span else {}))
        answer = link.getresponse()
        body = answer.read()
        link.close()
        return answer.status, body

    token = store.token("d", digest)
    assert ask(f"/d/{digest}", token) == (200, IMAGE)
    assert ask(f"/d/{digest}", token, "bytes=1048570-") == (206, IMAGE[1048570:])
    assert ask(f"/d/{digest}", token, "bytes=3-5") == (206, IMAGE[3:6])
    assert ask(f"/d/{digest}", token, f"bytes={len(IMAGE)}-")[0] == 416
    assert ask(f"/other/{digest}", token)[0] == 401
    assert ask(f"/d/{digest}", "")[0] == 401
    assert ask(f"/d/{'cd' * 32}", store.token("d", "cd" * 32))[0] == 404
    assert ask("/../etc/passwd", token)[0] == 404
    assert sum(counted) == len(IMAGE) + 6 + 3
    server.stop()


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"repository": "ftp://x"}, "write 'https://host/folder'"),
        ({"window": "always"}, "maintenance window 'always'"),
        ({"mqtt": "x"}, "write 'mqtt://host:1883'"),
        ({"wimdow": ""}, "did you mean `window`"),
    ],
)
async def test_a_mistake_in_the_settings_ends_it_with_one_line(site: Site, options: dict[str, str], why: str) -> None:
    wrong = Site(site.name, site.brokers, site.mqtt, site.folder, site.shelf, site.web, options)
    async with wrong.service() as service:
        assert await asyncio.wait_for(service.wait(), 20) == 1
    assert why in wrong.log.read_text().splitlines()[-1]


@pytest.mark.parametrize(
    ("text", "times"),
    [
        ("", {"2026-03-03T12:00+00:00": True}),
        ("22:00-04:00", {"2026-03-03T23:00+00:00": True, "2026-03-03T04:00+00:00": False, "2026-03-03T03:59+00:00": True}),
        ("Fri-Sat 22:00-04:00 Europe/Berlin", {
            "2026-03-06T20:59+00:00": False, "2026-03-06T21:00+00:00": True, "2026-03-08T02:59+00:00": True,
            "2026-03-08T22:00+00:00": False,
        }),
        ("Sun 08:00-18:00; Sat-Sun 20:00-21:00", {"2026-03-08T09:00+00:00": True, "2026-03-07T20:30+00:00": True,
                                                  "2026-03-08T19:00+00:00": False}),
    ],
)  # fmt: skip
def test_maintenance_windows_are_of_their_zone_and_go_past_midnight(text: str, times: dict[str, bool]) -> None:
    windows = parse(text)
    assert {t: is_open(windows, datetime.fromisoformat(t).timestamp()) for t in times} == times


@pytest.mark.parametrize("text", ["25:00-26:00", "Mon 22:00-04:00 Mars/Base", "Abc 10:00-11:00", "10-11"])
def test_what_is_no_window_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"maintenance window"):
        parse(text)
