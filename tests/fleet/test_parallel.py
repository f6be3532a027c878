"""Many sites at once: in order, so many at a time, each with a time of its own."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from containers.fleet.parallel import AT_ONCE_MAX, each
from containers.site import Site, SiteFile
from pipelines.errors import Unavailable


def sites(n: int) -> list[SiteFile]:
    return [SiteFile(Path("x.toml"), Site(site=f"s{i}", pipeline="p.py", brokers="b:1")) for i in range(n)]


def test_results_are_in_the_order_of_the_sites() -> None:
    def slower_first(site: SiteFile) -> str:
        time.sleep(0.1 if site.site.site == "s0" else 0)
        return site.site.site

    assert each(sites(5), slower_first, timeout_s=10) == ["s0", "s1", "s2", "s3", "s4"]
    assert each([], slower_first, timeout_s=10) == []


def test_so_many_run_at_a_time_and_no_more() -> None:
    now, most, lock = 0, 0, threading.Lock()

    def counted(_: SiteFile) -> None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.02)
        with lock:
            now -= 1

    each(sites(3 * AT_ONCE_MAX), counted, timeout_s=10)
    assert 2 <= most <= AT_ONCE_MAX


def test_an_error_of_one_is_its_result() -> None:
    def read(site: SiteFile) -> int:
        if site.site.site == "s1":
            raise Unavailable("it is away")
        return 1

    first, error, last = each(sites(3), read, timeout_s=10)
    assert (first, last) == (1, 1)
    assert isinstance(error, Unavailable)
    assert str(error) == "it is away"


def test_those_that_hang_hold_up_nobody_and_are_named() -> None:
    go_on = threading.Event()

    def read(site: SiteFile) -> str:
        if site.site.site != f"s{AT_ONCE_MAX}":
            go_on.wait(60)
        return "read"

    begin = time.monotonic()
    found = each(sites(AT_ONCE_MAX + 1), read, timeout_s=0.3)
    go_on.set()
    assert time.monotonic() - begin < 10
    assert found[-1] == "read", "the last one had to wait for a place, and had its own time from then on"
    assert {type(f) for f in found[:-1]} == {Unavailable}
    assert str(found[3]) == (
        "site s3: unix:///var/run/docker.sock gave no answer within 0.3 s: see whether the way there is open, or wait longer "
        "with --timeout"
    )


def test_a_mistake_of_ours_is_not_hidden() -> None:
    def wrong(_: SiteFile) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        each(sites(2), wrong, timeout_s=10)
