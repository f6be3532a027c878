"""Laying tables over each other, and placeholders."""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from containers.fleet.tables import Table, filled, listed, merged, nearest, strange_placeholders

NAMES = st.sampled_from("abc")
TABLES: st.SearchStrategy[Table] = st.recursive(
    st.dictionaries(NAMES, st.integers() | st.just("at {site}") | st.lists(st.integers(), max_size=2), max_size=3),
    lambda inner: st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)


def leaves(table: Table, at: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """Every value that is no table, by its path."""
    found: dict[tuple[str, ...], Any] = {}
    for name, value in table.items():
        found |= leaves(value, (*at, name)) if isinstance(value, dict) else {(*at, name): value}
    return found


def expected(under: Any, over: Any) -> Any:
    """What merging means, one field at a time."""
    if not (isinstance(under, dict) and isinstance(over, dict)):
        return over
    return {
        name: expected(under[name], over[name]) if name in under and name in over else (over | under)[name]
        for name in {*under, *over}
    }


@given(TABLES, TABLES)
def test_what_is_over_wins_and_the_rest_stays(under: Table, over: Table) -> None:
    before = copy.deepcopy((under, over))
    made = merged(under, over)
    assert made == expected(under, over)
    assert before == (under, over)
    assert leaves(over).items() <= leaves(made).items()


@given(TABLES)
def test_nothing_over_a_table_changes_nothing(table: Table) -> None:
    assert merged(table, {}) == merged({}, table) == merged(table, table) == table


def test_a_table_and_a_value_replace_each_other() -> None:
    assert merged({"a": {"b": 1}}, {"a": 2}) == {"a": 2}
    assert merged({"a": 2}, {"a": {"b": 1}}) == {"a": {"b": 1}}
    assert merged({"a": [1, 2]}, {"a": [3]}) == {"a": [3]}


def test_the_name_is_filled_in_wherever_text_stands() -> None:
    table = {"store": "s3://{site}/{site}", "list": ["{site}", 1], "in": {"a": "x"}, "n": 4}
    assert filled(table, "hall1") == {"store": "s3://hall1/hall1", "list": ["hall1", 1], "in": {"a": "x"}, "n": 4}
    assert table["store"] == "s3://{site}/{site}"


def test_a_placeholder_that_stands_for_nothing_is_found_with_its_field() -> None:
    table = {"brokers": "{site}:9092", "store": "s3://{stie}", "services": {"upload": {"memory": "{x}{y}"}}}
    assert list(strange_placeholders(table)) == [
        ("store", "{stie}"),
        ("services.upload.memory", "{x}"),
        ("services.upload.memory", "{y}"),
    ]


def test_a_near_name_is_suggested_and_a_far_one_is_not() -> None:
    assert nearest("plnt", ["plant", "hall"]) == ": did you mean 'plant'?"
    assert nearest("zzz", ["plant", "hall"]) == ""


def test_long_lists_are_cut_short() -> None:
    assert listed([]) == "none"
    assert listed("abc") == "a, b, c"
    assert listed(map(str, range(1200))) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 1,190 more"
