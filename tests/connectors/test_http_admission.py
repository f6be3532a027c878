"""Who may post how much, against a reference that remembers everything and has no buckets."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from connectors.bucket import Bucket, Buckets
from connectors.http import push
from connectors.http.admission import BYTES_MAX, Admission, Head, Load
from connectors.http.guard import Guard
from connectors.secrets import secret
from tests.connectors.schemas import Vibration

GUARD = Guard.of(
    "a token of many characters\n".replace(" ", "-") + "another-one-of-many-characters\n", "gate:its long password\n"
)
BEARERS = ("Bearer a-token-of-many-characters", "Bearer another-one-of-many-characters",
           "Basic " + base64.b64encode(b"gate:its long password").decode())  # fmt: skip
KEPT_S = 2.0**-7  # steps of time that a float has exactly, as it has 2**n posts a second


@dataclass(frozen=True)
class Try:
    """A post that somebody tries to make."""

    at_s: float
    device: str
    bearer: str
    nbytes: int
    full: bool  # whether Kafka has no room for more

    @property
    def cost(self) -> int:
        return max(1, -(-self.nbytes // 4096))


def left(taken: Sequence[Try], at_s: float, rate_per_s: float, burst: int) -> float:
    """What may be taken: since none of the earlier ones, beginning with a full bucket, more than was allowed in that time."""
    since = (burst + rate_per_s * (at_s - one.at_s) - sum(t.cost for t in taken[i:]) for i, one in enumerate(taken))
    return min([float(burst), *since])


@st.composite
def tries(draw: st.DrawFn) -> list[Try]:
    steps = draw(st.lists(st.tuples(
        st.integers(0, 200), st.sampled_from("ab"), st.sampled_from(BEARERS), st.integers(1, 20_000), st.integers(0, 9),
    ), max_size=60))  # fmt: skip
    made, at_s = [], 0.0
    for step, device, bearer, nbytes, full in steps:
        at_s += step * KEPT_S
        made.append(Try(at_s, device, bearer, nbytes, full=full == 0))
    return made


def outcome(admission: Admission, t: Try) -> tuple[int, str]:
    head = {"Authorization": t.bearer, "Content-Type": "application/json", "Content-Length": str(t.nbytes)}
    load = Load(0, BYTES_MAX if t.full else 0)
    no = admission.refusal(Head("POST", head, t.device), load, retry_s=3, now_s=t.at_s)
    return (200, "") if no is None else (no.status, no.headers["Retry-After"])


@given(tries())
def test_nobody_posts_more_than_is_allowed_and_nobody_less(made: list[Try]) -> None:
    source = push(Vibration, path="/{device}", tokens=secret("t"), device_rate="8/4s", token_rate="16/1s")
    admission = Admission(source, GUARD)
    taken: list[Try] = []
    for t in made:
        device = left([x for x in taken if x.device == t.device], t.at_s, 2.0, 8)
        bearer = left([x for x in taken if x.bearer == t.bearer], t.at_s, 16.0, 16)
        wait_s = max((1 - device) / 2.0, (1 - bearer) / 16.0)
        expected = (429, str(-int(-wait_s // 1))) if wait_s > 0 else (503, "3") if t.full else (200, "")
        assert outcome(admission, t) == expected
        if expected[0] == 200:
            taken.append(t)


def test_strangers_and_what_is_no_body_cost_nothing() -> None:
    source = push(Vibration, path="/r", tokens=secret("t"), token_rate="1/1h")
    admission = Admission(source, GUARD)
    good = {"Authorization": BEARERS[0], "Content-Type": "application/json", "Content-Length": "1"}
    for bad in (
        {"Authorization": "Bearer x"},
        {"Content-Type": "text/plain"},
        {"Content-Length": "x"},
        {"Content-Length": "9" * 9},
    ):
        no = admission.refusal(Head("POST", good | bad, ""), Load(), retry_s=3, now_s=0)
        assert no is not None
        assert no.status in (401, 413, 415, 411)
    assert admission.refusal(Head("POST", good, ""), Load(), retry_s=3, now_s=0) is None
    assert admission.refusal(Head("POST", good, ""), Load(), retry_s=3, now_s=0) is not None


def test_a_clock_that_goes_back_gives_nothing() -> None:
    bucket = Bucket(1.0, 2)
    bucket.take(2)
    assert [bucket.wait_s(now_s) for now_s in (10.0, 5.0, 10.0)] == [0, 0, 0]
    bucket.take(2)
    assert [bucket.wait_s(now_s) for now_s in (5.0, 10.0, 11.0)] == [1, 1, 0]


def test_so_many_names_are_known_and_no_more() -> None:
    buckets = Buckets(1.0, 1, names_max=2)
    for name in "ab":
        buckets.of(name).take()
    assert buckets.of("a").wait_s(0.0)  # asked for since, so b goes
    buckets.of("c")
    assert [buckets.of(name).wait_s(0.0) > 0 for name in "ab"] == [True, False]
