"""`pipeline rollout` and `pipeline history`, and the options that say how a rollout goes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from containers import cli_rollout
from containers.cli_rollout import policy_options
from containers.cli_shared import Context, Root, shared
from containers.fleet import journal
from containers.fleet.drive import Attempt
from containers.fleet.events import Aborted, Finished, Outcome, Started
from containers.fleet.journal import Journal
from containers.fleet.policy import Policy, Share
from tests.fleet.rollouts import close_all, create

A_SECOND_LATER_S = 1_772_359_201.0


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    yield
    close_all()


@contextmanager
def attempt_of(context: Context, of: Journal) -> Iterator[Attempt]:
    """What brings a site up to date: it says which release that was; sites called after an outcome have it."""

    def attempt(site: str, report: Callable[[str], None]) -> Outcome:
        return Outcome(
            "offline" if site == "away" else "done", f"{of.header.release} {of.header.options.get('soak', '')}"
        )

    yield attempt


@click.command()
@policy_options
@shared
@click.pass_obj
def deploy(context: Context, policy: Policy, wait_s: float) -> int:
    """As the real one begins a rollout."""
    return cli_rollout.begin(
        context, attempt_of, release="r7", note="press 7", sites=["a", "away", "b"], policy=policy, wait_s=wait_s,
        options={"soak": "5m"},
    )  # fmt: skip


def pipeline(*words: str) -> Result:
    root = Root()
    for command in (cli_rollout.group(attempt_of), cli_rollout.history, deploy):
        root.add_command(command)
    return CliRunner().invoke(root, list(words), prog_name="pipeline")


def begun(*done: str, sites: str = "a b c") -> str:
    """A rollout that was broken off after some sites were done."""
    made = create(Path(), sites)
    for site in done:
        made.record(Started(A_SECOND_LATER_S, site))
        made.record(Finished(A_SECOND_LATER_S, site, Outcome("done", revision=8)))
    close_all()
    return made.header.id


def test_a_deploy_begins_a_rollout_and_leaves_who_is_away() -> None:
    said = pipeline("deploy")
    assert said.exit_code == 5
    name = journal.find(Path(), None)
    assert said.stdout.startswith(f"rollout {name}: pending; 1 pending, 2 done\n")
    assert said.stderr.endswith(f"sites that are offline are left; to try again: pipeline rollout resume {name}\n")
    assert ("a: done after 0 s: r7 5m  [") in said.stderr
    assert journal.read(Path(), name).header.options == {"soak": "5m"}


def test_programs_get_lines_of_json_the_last_of_which_is_the_result() -> None:
    lines = [json.loads(line) for line in pipeline("deploy", "-o", "json").stdout.splitlines()]
    assert {line["version"] for line in lines} == {1}
    assert [line["event"] for line in lines].count("started") == 3
    assert lines[-1]["event"] == "result"
    assert lines[-1]["counts"] == {"done": 2, "pending": 1}


def test_the_options_make_a_policy() -> None:
    words = "--canary 1 --waves 5%,25%,100% --max-failures 3 --max-parallel 9 --wave-soak 10ms"
    pipeline("deploy", *words.split())
    policy = journal.read(Path(), journal.find(Path(), None)).header.policy
    assert policy == Policy(canary=1, waves=(5, 25, 100), max_failures=Share(3), max_parallel=9, soak_s=0.01)
    pipeline("deploy", "--max-failures", "20%")
    assert journal.read(Path(), journal.find(Path(), None)).header.policy == Policy(
        max_failures=Share(20, percent=True)
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--waves 25%,5%", "'25%,5%': write growing percentages up to 100%, such as 5%,25%,100%"),
        ("--waves 5,25", "'5,25': write growing percentages up to 100%, such as 5%,25%,100%"),
        ("--waves nan%", "'nan%': write growing percentages up to 100%, such as 5%,25%,100%"),
        ("--max-failures some", "'some': write a number of sites, such as 3, or a percentage, such as 10%"),
        ("--max-failures 101%", "'101%': write a number of sites, such as 3, or a percentage, such as 10%"),
        ("--max-failures -1", "'-1': write a number of sites, such as 3, or a percentage, such as 10%"),
        ("--max-parallel 0", "0 is not in the range 1<=x<=1000"),
        ("--canary -1", "-1 is not in the range x>=0"),
        ("--wave-soak long", "'long' is not a duration"),
    ],
)
def test_an_option_that_makes_no_sense_says_what_to_write(words: str, message: str) -> None:
    said = pipeline("deploy", *words.split())
    assert (said.exit_code, journal.ids(Path())) == (64, [])
    assert message in said.stderr


def test_status_tells_how_a_rollout_stands() -> None:
    name = begun("a")
    said = pipeline("rollout", "status")
    assert said.exit_code == 0
    assert said.stdout.splitlines()[:2] == [
        "press 7 by ann@desk, 2026-03-01T10:00:00+00:00",
        f"rollout {name}: interrupted; 2 waiting, 1 done",
    ]
    facts = json.loads(pipeline("rollout", "status", name, "-o", "json").stdout)
    assert (facts["who"], facts["driven"], facts["sites"]["a"]["state"]) == ("ann@desk", False, "done")


def test_a_rollout_is_paused_taken_up_with_what_it_was_begun_with_and_then_over() -> None:
    name = begun("a")
    assert pipeline("rollout", "pause").stdout == f"rollout {name}: paused\n"
    assert "paused" in pipeline("rollout", "status").stdout
    said = pipeline("rollout", "resume")
    assert (said.exit_code, said.stdout.splitlines()[0]) == (0, f"rollout {name}: done; 3 done")
    assert "b: done after 0 s: sha256:3f2a51c07b" in said.stderr
    for word in ("pause", "resume", "abort"):
        said = pipeline("rollout", word)
        assert said.exit_code == 1
        assert said.stderr == f"error: rollout {name} is over (done): to change the sites again, deploy\n"


def test_a_rollout_is_aborted() -> None:
    name = begun("a")
    said = pipeline("rollout", "abort", "-o", "json")
    assert json.loads(said.stdout) == {"version": 1, "rollout": name, "result": "aborted", "driven": False}
    assert json.loads(pipeline("rollout", "status", "-o", "json").stdout)["counts"] == {"done": 1, "skipped": 2}


def test_a_rollout_that_is_halted_for_good_is_not_taken_up() -> None:
    made = create(Path(), policy=Policy(max_failures=Share(0), max_parallel=2))
    for site in "ab":
        made.record(Started(A_SECOND_LATER_S, site))
    made.record(Finished(A_SECOND_LATER_S, "a", Outcome("failed")))
    close_all()
    said = pipeline("rollout", "resume")
    assert said.stderr == f"error: rollout {made.header.id} is halted, for good: to go on, deploy again\n"


def test_without_a_rollout_the_cure_is_named() -> None:
    said = pipeline("rollout", "status")
    assert (said.exit_code, said.stderr[:36]) == (1, "error: .: there is no rollout: name ")
    assert pipeline("history").stdout == ".: there was no rollout yet\n"


def test_history_tells_who_when_what_and_how_it_went() -> None:
    begun("a", "b", sites="a b c")
    name = journal.find(Path(), None)
    journal.wish(Path(), name, Aborted(A_SECOND_LATER_S + 89))
    pipeline("deploy")
    head, new, old = pipeline("history").stdout.splitlines()
    assert head.split() == ["ID", "WHEN", "WHO", "WHAT", "TOOK", "RESULT", "SITES"]
    assert new.split()[5:] == ["-", "pending", "1", "pending,", "2", "done"]
    assert old.split() == [
        name, "2026-03-01T10:00:00+00:00", "ann@desk", "press", "7", "90s", "aborted", "1", "skipped,", "2", "done",
    ]  # fmt: skip
    (entry,) = json.loads(pipeline("history", "-n", "1", "-o", "json").stdout)["rollouts"]
    assert (entry["release"], entry["result"], entry["ended"]) == ("r7", "pending", None)


def test_the_fleet_folder_can_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = begun("a")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert name in pipeline("rollout", "status", "--fleet", "..").stdout
