"""What is left of a library that could write to devices: enough to read from a real server, and nothing that writes."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import asyncua
import pytest
from asyncua import ua

from connectors.opcua import guard
from containers import images, packages, prune
from containers.profiles import PROFILES
from containers.python import Python
from pipelines.errors import ConfigError
from tests.bed.opcua import PASSWORD, USERNAME, OpcuaServer, papers

PYTHON = Python(sys.version_info[:2], "x86_64", "2.36")
PIPELINE = """
from connectors import opcua
from connectors.secrets import secret
from pipelines import Col, Key, Pipeline, Schema

class Vibration(Schema):
    device = Key[str]()
    rms = Col[float]("mm/s")

def described(server, path, **more):
    return opcua.source(Vibration, server=server, nodes={Vibration.rms: path}, every="20ms", sampling="20ms", **more)

plant = Pipeline("plant")
readings = plant.read(described("opc.tcp://server", "Objects/Plant/{device}/RMS"))
"""
READ = """
import asyncio, sys
from pathlib import Path
sys.path.insert(0, "PIPELINE")
from plant import described
from connectors.base import Context
from connectors.opcua.reader import OpcuaReader
from connectors.secrets import secret
from pipelines.clock import SystemClock
import asyncua

async def main(server, path, secrets):
    safe = dict(
        security="Basic256Sha256,SignAndEncrypt", certificate=secret("cert"), key=secret("key"),
        server_certificate=secret("server"),
        username=sys.argv[4], password=secret("password"),
    )
    for more in ({}, safe):
        reader = OpcuaReader(described(server, path, **more), Context("s", "1", Path(secrets), SystemClock()))
        await reader.connect()
        got = await reader.read(rows_max=10, linger_s=3)
        print(got.batch.keys, got.batch.columns["Vibration.rms"].tolist())
        await reader.close()
    print(asyncua.__file__)

asyncio.run(main(*sys.argv[1:4]))
"""
WRITES = re.compile(
    "(Write|Call|HistoryUpdate|AddNodes|AddReferences|DeleteNodes|DeleteReferences|RegisterServer2?)(Request|Parameters|Item)"
    "(_Encoding_DefaultBinary)?|WriteValue|CallMethodRequest"
)
FUNCTIONS = re.compile(
    r"(set_value|write(_\w+)?|call(_method)?|history_update|add_(nodes|references|\w+variable|object|method)|"
    r"delete_(nodes|references)|register_server2?)"
)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of a `collect` that reads OPC UA: `code`, `pipeline` and `extra`, as its image has them."""
    folder = tmp_path_factory.mktemp("image")
    (folder / "plant.py").write_text(PIPELINE)
    with pytest.MonkeyPatch.context() as patched:  # what this tree declares, whatever is installed
        project = packages._project()
        patched.setattr(packages, "_declared", lambda: (project["dependencies"], project["optional-dependencies"]))
        packages.pins.cache_clear()
        readers = ["connectors.opcua.reader:OpcuaReader"]
        what = images.contents(PROFILES["collect"], str(folder / "plant.py"), readers, images.Base("b", PYTHON))
    assert what.extras == ("opcua",)
    for file in what.files:
        path = folder / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.content)
    made = packages.installed(what.extra, PYTHON, "/opt/sitestream/extra", tmp_path_factory.mktemp("cache"))
    shutil.copytree(made, folder / "opt/sitestream/extra")
    return folder / "opt/sitestream"


@pytest.fixture(scope="module")
def sources(image: Path) -> list[tuple[str, ast.Module]]:
    """Every file of ours and of the library, by its path."""
    files = sorted([*image.glob("code/**/*.py"), *image.glob("extra/asyncua/**/*.py"), *image.glob("pipeline/*.py")])
    return [(str(file.relative_to(image)), ast.parse(file.read_text())) for file in files]


def test_no_file_of_the_image_can_write_to_a_server(image: Path, sources: list[tuple[str, ast.Module]]) -> None:
    """Neither a class of such a request nor a function that would send one, nor anything that could make them."""
    assert (image / "extra/asyncua/client/ua_client.py").is_file()
    for name, tree in sources:
        classes = [n.name for n in ast.walk(tree) if isinstance(n, ast.ClassDef)]
        assert not [c for c in classes if WRITES.fullmatch(c)], name
        used = [n.id for n in ast.walk(tree) if isinstance(n, ast.Name)] + [
            n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute)
        ]
        assert not [u for u in used if WRITES.fullmatch(u)], name
        if "asyncua" in name:
            functions = [n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
            assert not [f for f in functions if FUNCTIONS.fullmatch(f)], name
    compiled = list(image.glob("extra/asyncua/**/*.pyc"))
    assert compiled
    assert not [p for p in compiled if b"WriteRequest" in p.read_bytes()]
    assert not list(image.glob("extra/asyncua/server*"))
    assert not list(image.glob("code/connectors/opcua/discover*"))
    assert not list(image.glob("code/connectors/control/*"))


def test_every_import_of_what_is_left_is_there(sources: list[tuple[str, ast.Module]]) -> None:
    """Also those that only run when a function does."""
    left = {
        name.removeprefix("extra/").removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        for name, _ in sources
    }
    for name, tree in sources:
        module = name.removeprefix("extra/").removesuffix(".py").replace("/", ".")
        if "asyncua" not in name:
            continue
        checked = [n for n in ast.walk(tree) if isinstance(n, ast.If) and ast.unparse(n.test).endswith("TYPE_CHECKING")]
        hidden = {id(n) for block in checked for n in ast.walk(block)}
        for node in (n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and id(n) not in hidden):
            parent = ".".join(module.split(".")[: -node.level]) if node.level else ""
            wanted = ".".join(p for p in (parent, node.module) if p)
            if wanted.startswith("asyncua"):
                assert wanted in left, f"{name} imports {wanted}"


def test_what_is_left_reads_from_a_real_server(
    image: Path, opcua_server: OpcuaServer, unique: str, tmp_path: Path
) -> None:
    opcua_server.variable(f"{unique}/a/RMS", 4.0)
    ours = papers("urn:test:image")
    for name, content in (("cert", ours.certificate), ("key", ours.key), ("server", opcua_server.papers.certificate)):
        (tmp_path / name).write_bytes(content)
    (tmp_path / "password").write_text(PASSWORD)
    installed = [p for p in sys.path if p.endswith("site-packages")]
    paths = [image / "code", image / "extra", *installed]
    done = subprocess.run(
        [sys.executable, "-P", "-S", "-c", READ.replace("PIPELINE", str(image / "pipeline")), opcua_server.url,
         f"Objects/{unique}/{{device}}/RMS", str(tmp_path), USERNAME],
        env={"PYTHONPATH": ":".join(map(str, paths)), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["['a'] [4.0]", "['a'] [4.0]", str(image / "extra/asyncua/__init__.py")]


def test_what_is_not_needed_is_not_installed(image: Path) -> None:
    packages_there = {p.name.partition("-")[0] for p in (image / "extra").glob("*.dist-info")}
    assert {"asyncua", "cryptography"} <= packages_there
    assert not packages_there & {"aiosqlite", "anyio", "pytz", "python_dateutil", "sortedcontainers"}
    size = sum(f.stat().st_size for f in image.glob("extra/asyncua/**/*") if f.is_file())
    assert size < 2 * 10**6, "the whole library has 28 MB"
    assert "Cut by sitestream" in (image / "extra/asyncua/ua/uaprotocol_auto.py").read_text()[:200]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The library as it is installed here."""
    shutil.copytree(
        Path(asyncua.__file__).parent,
        tmp_path / "asyncua",
        ignore=shutil.ignore_patterns("__pycache__", "standard_address*"),
    )
    return tmp_path


@pytest.mark.parametrize(
    ("file", "old", "new", "says"),
    [
        ("ua/uaprotocol_auto.py", "WriteRequest", "SetRequest", "ua/uaprotocol_auto.py has no WriteRequest"),
        ("ua/uaprotocol_auto.py", "class QueryNext", "class EraseRequest: ...\n\n\nclass QueryNext", "has EraseRequest"),
        ("ua/uaprotocol_auto.py", "class CancelRequest", "class StopRequest", "uaprotocol_auto.py lacks CancelRequest"),
        ("ua/object_ids.py", "class ObjectIds:", "class ObjectIds(IntEnum):", "ua/object_ids.py is not one class of numbers"),
        ("client/ua_client.py", "class UaClient:", "class NewClient:", "client/ua_client.py has no UaClient"),
        ("client/ua_client.py", "class UASocketState", "default = UaClient()\n\n\nclass UASocketState", "still uses UaClient"),
        ("client/ua_client.py", "StateSubscription", "", "client/ua_client.py has no StateSubscription"),
    ],
)  # fmt: skip
def test_a_version_of_the_library_that_nobody_has_looked_at_ends_the_build(
    copy: Path, file: str, old: str, new: str, says: str
) -> None:
    path = copy / "asyncua" / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new) if new else re.sub(r"\bStateSubscription\b", "StatesSubscription", text))
    with pytest.raises(
        ConfigError, match=rf"the installed version of asyncua is not one .* cut to what reads: .*{re.escape(says)}"
    ):
        prune.prune(copy)


def test_a_file_that_is_gone_ends_the_build(copy: Path) -> None:
    (copy / "asyncua/common/connection.py").unlink()
    with pytest.raises(ConfigError, match=r"common/connection.py is not there"):
        prune.prune(copy)


def test_cutting_gives_the_same_every_time(copy: Path, image: Path) -> None:
    prune.prune(copy)
    one, two = (
        {str(p.relative_to(f)): p.read_bytes() for p in f.rglob("*.py")}
        for f in (copy / "asyncua", image / "extra/asyncua")
    )
    assert one == two


WRITE = """
import asyncio, sys
from pathlib import Path
import msgspec, asyncua
from connectors.control.commands import Command
from connectors.control.devices import Devices
from connectors.control.opcua import Opcua
from pipelines.clock import SystemClock

async def main(document):
    writer, now = Opcua(msgspec.json.decode(document, type=Devices), "s", Path("."), SystemClock()), SystemClock().now_ns()
    for verb in ("open", "reset"):
        while not writer.reachable("v1"):
            await asyncio.sleep(0.05)
        command = Command(id=verb, device="v1", verb=verb, issuer="me", issued_at_ns=now, expires_at_ns=now + 30 * 10**9)
        print(*await writer.deliver(command))
    await writer.close()
    print(asyncua.__file__)

asyncio.run(main(sys.argv[1]))
"""


def test_beside_what_writes_anyway_it_keeps_what_control_sends_and_no_more(
    copy: Path, opcua_server: OpcuaServer, unique: str
) -> None:
    (copy / "pymodbus").mkdir()
    prune.prune(copy)
    tree = ast.parse((copy / "asyncua/ua/uaprotocol_auto.py").read_text())
    left = {n.name for n in tree.body if isinstance(n, ast.ClassDef) and WRITES.fullmatch(n.name)}
    kept = set(prune.CUTS["asyncua"].writes)
    assert left == kept
    opcua_server.do(opcua_server.variable(f"{unique}/v1/Open", False, ua.VariantType.Boolean).set_writable())
    opcua_server.method(f"{unique}/v1/Reset", lambda _: [], [], [])
    at = f"Objects/{unique}/{{device}}"
    verbs = {
        "open": {"set": {"node": f"{at}/Open", "type": "Boolean", "value": True}},
        "reset": {"call": {"object": at, "method": "Reset"}},
    }
    document = {"profiles": {"valve": {"devices": ["v*"], "opcua": {"server": opcua_server.url}, "verbs": verbs}}}
    installed = [p for p in sys.path if p.endswith("site-packages")]
    done = subprocess.run(
        [sys.executable, "-P", "-S", "-c", WRITE, json.dumps(document)],
        env={"PYTHONPATH": ":".join([str(copy), str(Path(prune.__file__).parents[1]), *installed])},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        f"succeed Objects/{unique}/v1/Open reads True", "succeed Reset returned nothing", str(copy / "asyncua/__init__.py"),
    ]  # fmt: skip


def test_the_guard_and_the_cut_leave_the_same() -> None:
    assert set(guard.ALLOWED.values()) == set(prune.READS) - {"MonitoredItemCreate", "MonitoredItemModify"}, (
        "these are parts of requests"
    )


def test_other_packages_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "numpy").mkdir()
    prune.prune(tmp_path)
    assert list(tmp_path.iterdir()) == [tmp_path / "numpy"]
    assert prune.needed("numpy", "anyio")
