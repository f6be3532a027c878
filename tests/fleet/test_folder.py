"""Reading a fleet folder: what a site becomes, and that every mistake is named where it stands, with its cure."""

from __future__ import annotations

import re
import time
from pathlib import Path

import msgspec
import pytest

from containers.fleet.folder import EXAMPLE, PROBLEMS_SHOWN_MAX, FleetError, load_fleet
from containers.site import EngineTls, Kafka, Networks, ServiceSettings, Site, load_site
from pipelines.errors import ConfigError
from tests.containers.kit import SITE, write_site
from tests.fleet.kit import FLEET, write_fleet

ROOT = Path(__file__).parent.parent.parent
MANY, SECONDS_MAX = 1_000, 10.0


def problems(folder: Path) -> list[str]:
    """Every mistake of a fleet, without the folder."""
    with pytest.raises(FleetError) as raised:
        load_fleet(folder)
    return [p.replace(f"{folder}/", "") for p in raised.value.problems]


def test_defaults_groups_and_the_site_are_laid_over_each_other(tmp_path: Path) -> None:
    own = 'groups = ["eu", "big"]\nengine = "ssh://me@{site}"\n[services.process]\nmemory = "4GiB"\n[hosts]\nedge = "10.0.0.2"'
    found = load_fleet(write_fleet(tmp_path, plant_1=own)).sites[0]
    assert found.groups == ("eu", "big")
    site = found.site
    assert (site.site, site.engine, site.brokers) == ("plant-1", "ssh://me@plant-1", "kafka.plant-1:9092")
    assert (site.partitions, site.store) == (16, "file:///srv/plant-1")
    assert site.hosts == {"kafka": "10.0.0.1", "edge": "10.0.0.2"}
    assert site.services.process == ServiceSettings(memory="4GiB", cpus=2.0)


def test_of_two_groups_the_later_one_wins(tmp_path: Path) -> None:
    fleet = FLEET + "[groups.small]\npartitions = 2\n"
    write_fleet(tmp_path, fleet, a='groups = ["big", "small"]', b='groups = ["small", "big"]')
    assert [s.site.partitions for s in load_fleet(tmp_path).sites] == [2, 16]


def test_a_site_in_a_fleet_is_the_same_as_one_that_stands_alone(tmp_path: Path) -> None:
    alone = load_site(write_site(tmp_path, SITE + "[services.upload]\nmemory = '2GiB'"))
    fleet = "[defaults]\nbrokers = 'kafka:9092'\n[defaults.services.upload]\nmemory = '2GiB'\n"
    own = "pipeline = 'tiny.py'\nstore = 'file:///srv/parquet'"
    found = load_fleet(write_fleet(tmp_path / "fleet", fleet, hall1=own)).sites[0]
    given = msgspec.to_builtins(found.site)
    assert given.pop("groups") == ()
    assert given == msgspec.to_builtins(alone.site)


def test_paths_are_relative_to_the_fleet_folder(tmp_path: Path) -> None:
    site = load_fleet(write_fleet(tmp_path)).sites[0]
    assert site.pipeline == f"{tmp_path}/tiny.py"
    assert site.folder == tmp_path
    assert site.resolve("secrets/x") == tmp_path / "secrets/x"


def test_sites_are_sorted_by_name_which_is_that_of_the_file_or_given(tmp_path: Path) -> None:
    fleet = load_fleet(write_fleet(tmp_path, b="", c="site = 'a'"))
    assert [(s.site.site, s.path.name, s.site.store) for s in fleet.sites] == [
        ("a", "c.toml", "file:///srv/a"),
        ("b", "b.toml", "file:///srv/b"),
    ]


def test_files_that_are_hidden_or_no_toml_are_no_sites(tmp_path: Path) -> None:
    write_fleet(tmp_path, a="")
    (tmp_path / "sites" / ".a.toml").write_text("= an editor's own")
    (tmp_path / "sites" / "a.toml~").write_text("= a copy")
    assert [s.site.site for s in load_fleet(tmp_path).sites] == ["a"]


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ("partitons = 3", r"sites/a.toml:1: .*unknown field `partitons`: did you mean `partitions`\?"),
        ("\npartitions = 'many'", r"sites/a.toml:2: Expected `int`, got `str`"),
        ("partitions = 0", r"sites/a.toml:1: partitions = 0: write a number from 1 to"),
        ("[services.process]\nmemory = 'much'", r"sites/a.toml:2: services.process.memory: 'much' is not a size"),
        ("[services.proces]\ncpus = 1.0", r"sites/a.toml:1: .*unknown field `proces`.*did you mean `process`\?"),
        ("groups = ['bigg']", r"sites/a.toml:1: groups: there is no group 'bigg': did you mean 'big'\?"),
        ("groups = ['zzz']", r"sites/a.toml:1: groups: there is no group 'zzz': add \[groups.zzz\] to fleet.toml"),
        ("groups = 'eu'", r"sites/a.toml:1: Expected `array`, got `str`"),
        ("groups = [3]", r"sites/a.toml:1: Expected `str`, got `int`"),
        ("site = 'Hall A'", r"sites/a.toml:1: site name 'Hall A' cannot be used: write lower-case"),
        ("store = 's3://cold/{stie}'", r"sites/a.toml:1: store: \{stie\} stands for nothing: the only placeholder is \{site\}"),
        ("engine = 'tcp://a:2376'\n[engine_tls]\nca = 'ca.pem'\nkey = 'x'", r".*:2: .*missing .* `cert`.*: write it there"),
        ("x = = 1", r"sites/a.toml: is not TOML: .*line 1"),
        ("site = 7", r"sites/a.toml:1: Expected `str`, got `int`"),
        ("brokers = 7", r"sites/a.toml:1: Expected `str`, got `int`"),
        ("[services.upload.secrets]\nkey = 'hunter2'", r".*:2: services.upload.secrets.key is not a reference: write 'file:"),
        ("'odd`key' = 1", r"sites/a.toml:1: .*unknown field `odd`key`"),
        ("[services.upload]\n'dotted.key' = 1", r"sites/a.toml:2: .*unknown field `dotted.key`"),
    ],
)  # fmt: skip
def test_a_mistake_of_a_site_is_named_with_line_field_and_cure(tmp_path: Path, own: str, message: str) -> None:
    (found,) = problems(write_fleet(tmp_path, a=own))
    assert re.match(message, found), found
    assert "hunter2" not in found


@pytest.mark.parametrize(
    ("fleet", "message"),
    [
        ("partitions = 0\n", r"fleet.toml:\d+: partitions = 0: write a number.* \(3 sites\)$"),
        ("partitons = 1\n", r"fleet.toml:\d+: .*unknown field `partitons`: did you mean `partitions`\? \(3 sites\)$"),
        ("partitions = 'x'\n", r"fleet.toml:\d+: Expected `int`, got `str`.* \(3 sites\)$"),
        ("groups = ['eu']\n", r"fleet.toml:\d+: groups: every site has its own: write it in the site's file"),
        ("site = 'x'\n", r"fleet.toml:\d+: site: every site has its own: write it in the site's file"),
        ("engine = 'ssh://{sit}'\n", r"fleet.toml:\d+: engine: \{sit\} stands for nothing: the only placeholder"),
    ],
)
def test_a_mistake_in_fleet_toml_is_told_once_for_all_sites(tmp_path: Path, fleet: str, message: str) -> None:
    text = FLEET.replace("[defaults]\n", f"[defaults]\n{fleet}")
    (found,) = problems(write_fleet(tmp_path, text, a="", b="", c=""))
    assert re.match(message, found), found
    assert found.startswith("fleet.toml:2: ")


def test_a_mistake_in_a_group_is_told_though_no_site_is_in_it(tmp_path: Path) -> None:
    fleet = FLEET + "[groups.idle]\nstoer = 'x'\n"
    assert re.match(
        r"fleet.toml:13: .*unknown field `stoer`: did you mean `store`\?", problems(write_fleet(tmp_path, fleet))[0]
    )


@pytest.mark.parametrize(
    ("fleet", "message"),
    [
        ("[default]\n", r"fleet.toml:1: .*unknown field `default`: did you mean `defaults`\?"),
        ("[groups]\neu = 3\n", r"fleet.toml:1: Expected `object`, got `int`"),
        ("[groups", r"fleet.toml: is not TOML: "),
        ("[groups.'E U']\n", r"fleet.toml:1: group name 'E U' cannot be used: write lower-case"),
    ],
)
def test_a_fleet_toml_that_is_none(tmp_path: Path, fleet: str, message: str) -> None:
    write_fleet(tmp_path, fleet, a="pipeline = 'tiny.py'\nbrokers = 'kafka:9092'")
    with pytest.raises(ConfigError, match=message):
        load_fleet(tmp_path)


def test_what_is_missing_is_to_be_written_in_one_of_two_places(tmp_path: Path) -> None:
    write_fleet(tmp_path, "[defaults]\nbrokers = 'kafka:9092'\n", a="")
    found = problems(tmp_path)
    cure = "write it there, or in fleet.toml under [defaults]"
    assert found == [f"sites/a.toml: Object missing required field `pipeline`: {cure}"]


def test_a_file_whose_name_is_no_sites_name(tmp_path: Path) -> None:
    write_fleet(tmp_path, Hall="")
    assert re.match(r"sites/Hall.toml: site name 'Hall' cannot be used: write lower-case", problems(tmp_path)[0])


def test_two_sites_of_one_name_are_refused_even_if_one_is_wrong_otherwise(tmp_path: Path) -> None:
    write_fleet(tmp_path, a="partitions = 0", b="\nsite = 'a'")
    wrong, twice = problems(tmp_path)
    assert wrong.startswith("sites/a.toml:1: partitions")
    assert twice.startswith(
        "sites/b.toml:2: site 'a' is also in sites/a.toml: its topics and containers would be the other's"
    )
    assert twice.endswith("give one another name")


def test_names_that_are_no_text_are_not_taken_for_one_name(tmp_path: Path) -> None:
    found = problems(write_fleet(tmp_path, a="site = 1", b="site = 2"))
    assert [p.partition(":")[0] for p in found] == ["sites/a.toml", "sites/b.toml"]


def test_a_mistake_is_told_of_the_layer_that_wins(tmp_path: Path) -> None:
    fleet = FLEET + "[groups.one]\nstore = 'x'\n[groups.two]\nstore = 'y'\n"
    (found,) = problems(write_fleet(tmp_path, fleet, a="groups = ['one', 'two']"))
    assert found.startswith("fleet.toml:15: store = 'y': write 's3://")


def test_all_mistakes_of_all_sites_are_found_at_once_and_the_first_are_shown(tmp_path: Path) -> None:
    two = "partitons = 3\nstore = 'nowhere'\n"
    write_fleet(tmp_path, **{f"s{n:02}": two for n in range(15)})
    with pytest.raises(FleetError) as raised:
        load_fleet(tmp_path)
    assert len(raised.value.problems) == 30
    first, *shown, last = str(raised.value).splitlines()
    assert first == f"fleet {tmp_path}: 30 mistakes"
    assert len(shown) == PROBLEMS_SHOWN_MAX
    assert "s00.toml:1: " in shown[0]
    assert "s00.toml:2: store = 'nowhere': write 's3://" in shown[1]
    assert last == "  and 10 more"


def test_a_folder_without_fleet_toml(tmp_path: Path) -> None:
    cure = r"no such file: name the fleet folder with --fleet DIR, or begin with a copy of .*example"
    with pytest.raises(ConfigError, match=cure):
        load_fleet(tmp_path)


def test_a_site_file_that_cannot_be_read(tmp_path: Path) -> None:
    write_fleet(tmp_path, a="")
    (tmp_path / "sites" / "b.toml").mkdir()
    (tmp_path / "sites" / "c.toml").write_bytes(b"\xff")
    found = problems(tmp_path)
    assert [p.partition(": ")[::2][1].startswith("cannot be read: ") for p in found] == [True, True]
    assert [p.partition(":")[0] for p in found] == ["sites/b.toml", "sites/c.toml"]


def test_many_sites_load_in_seconds(tmp_path: Path) -> None:
    write_fleet(tmp_path, **{f"s{n}": "groups = ['eu', 'big']\n[hosts]\nedge = '10.0.0.2'\n" for n in range(MANY)})
    begin = time.perf_counter()
    assert len(load_fleet(tmp_path).sites) == MANY
    assert time.perf_counter() - begin < SECONDS_MAX  # less than a second where nothing else runs


# the example


def test_the_example_loads() -> None:
    hall1, plant7 = load_fleet(EXAMPLE).sites
    assert hall1.site.store == "s3://plant-cold/hall1"
    assert (hall1.site.partitions, hall1.site.services.process.memory) == (16, "4GiB")
    assert plant7.site.engine_tls == EngineTls(ca="tls/ca.pem", cert="tls/plant-7/cert.pem", key="tls/plant-7/key.pem")
    assert plant7.site.services.upload.secrets["s3_secret_key"] == "env:PLANT_7_S3_SECRET_KEY"


def test_the_example_explains_every_setting() -> None:
    text = "".join(p.read_text() for p in (EXAMPLE / "fleet.toml", EXAMPLE / "sites" / "hall1.toml"))
    structs = (Site, ServiceSettings, Networks, EngineTls, Kafka)
    for field in ("groups", *(f.name for s in structs for f in msgspec.structs.fields(s))):
        assert re.search(rf"^#? ?(\[defaults\.(services\.\w+\.)?)?{field}\b", text, re.MULTILINE), field


def test_what_the_example_comments_out_is_right(tmp_path: Path) -> None:
    fleet = (EXAMPLE / "fleet.toml").read_text()
    on = re.sub(r"^# (?=\[|\w+ = )", "", fleet, flags=re.MULTILINE)
    assert on.count("\n#") < fleet.count("\n#") - 10
    write_fleet(tmp_path, on, a="engine = 'ssh://a'")
    assert load_fleet(tmp_path).sites[0].site.networks == Networks(
        ot="plant-ot", bus="plant-bus", wan="plant-wan", ingress="plant-in"
    )


def test_the_chapter_on_fleets_shows_what_loads(tmp_path: Path) -> None:
    fleet, site = re.findall(r"```toml\n(.*?)```", (ROOT / "docs" / "fleet.md").read_text(), re.DOTALL)
    hall1 = load_fleet(write_fleet(tmp_path, fleet, hall1=site)).sites[0].site
    assert hall1.services.upload.secrets["s3_secret_key"] == "file:secrets/hall1/s3_secret_key"
    assert hall1.services.upload.options == {"s3_endpoint": "https://s3.eu.plant.example"}
