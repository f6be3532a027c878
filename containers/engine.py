"""The Docker engine of a site: executes commands and reads what is there. The only module that imports `docker`."""

from __future__ import annotations

import contextlib
import io
import json
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from email.utils import parsedate_to_datetime
from functools import singledispatchmethod
from pathlib import Path
from typing import IO, Any, NoReturn

import docker
import docker.errors
import docker.tls
import requests.exceptions

from containers import commands as c
from containers import described, drift, knock, names, oci
from containers.facts import Facts, facts
from containers.oci import archive
from containers.oci.layers import copy_tar, write_tar
from containers.profiles import ASK, CONFIG_DIR, PROBE, STOP_S, UID
from containers.python import Python
from containers.rollout import Actual, Container
from containers.site import EngineTls
from pipelines.errors import ConfigError, SitestreamError, Unavailable

_SOCKET_AT = "/run/docker.sock"
MASQUERADE = "com.docker.network.bridge.enable_ip_masquerade"
CALL_TIMEOUT_S = 120  # of one call; a build sends output all the while
_ASK_PYTHON = (
    "import json,platform,sys;"
    "print(json.dumps([sys.version_info[:2],platform.machine(),''.join(platform.libc_ver()[:2])]))"
)


class Engine:
    """A connected engine. Every method raises `Unavailable` if it does not answer and `ConfigError` if it refuses."""

    def __init__(self, url: str, tls: EngineTls | None = None, folder: Path = Path()) -> None:
        self.url = url
        if url.startswith("unix://"):
            knock.unix(url)
        with knock.by_ssh(url) if url.startswith("ssh:") else contextlib.nullcontext(), self._explained("connect"):
            config = tls and docker.tls.TLSConfig(
                client_cert=(str(folder / tls.cert), str(folder / tls.key)), ca_cert=str(folder / tls.ca), verify=True
            )
            self._docker = docker.DockerClient(
                base_url=url,
                version="auto",
                timeout=CALL_TIMEOUT_S,
                tls=config or False,
                use_ssh_client=url.startswith("ssh:"),
            )
        self._api: Any = self._docker.api  # the calls that mirror the Engine API, many of them untyped
        self.fence: Callable[[], None] = lambda: None  # raises if the site may not be changed any more; see `hold`

    def close(self) -> None:
        """Close the connection."""
        self._docker.close()

    # reading

    def actual(self, site: str) -> Actual:
        """Containers and records of a site."""
        label = {"label": f"{names.SITE}={site}"}
        with self._explained("list containers"):
            ids = [found["Id"] for found in self._api.containers(all=True, filters=label)]
            volumes = self._api.volumes(filters=label)["Volumes"] or []
        found = [self.container(i) for i in ids]
        records = [described.record(v["Labels"]) for v in volumes if names.RECORD in v["Labels"]]
        configs = [v["Name"] for v in volumes if names.CONFIG in v["Labels"]]
        return Actual(
            tuple(sorted((f for f in found if f), key=lambda f: (f.service, f.revision))),
            tuple(sorted(records, key=lambda r: r.revision)),
            tuple(sorted(configs)),
        )

    def container(self, name: str, *, probe: bool = True) -> Container | None:
        """One of our containers as it is; None if it is not there. Probes a running one itself until the engine has."""
        with self._explained("inspect a container"):
            try:
                seen = self._api.inspect_container(name)
            except docker.errors.NotFound:
                return None
            health = seen["State"].get("Health", {}).get("Status", "starting")
            if probe and health == "starting" and seen["State"]["Status"] == "running" and self._probe(name):
                health = "healthy"
        return described.container(seen, health)

    def said(self, name: str) -> str:
        """What the service in a container answers to `profiles.ASK`; empty if it does not answer."""
        with self._explained(f"ask {name} how it is"):
            done = self._execute(name, ASK)
        return done.output if done.well else ""

    def answers(self) -> bool:
        """Whether it does at all."""
        try:
            with self._explained("ping"):
                return bool(self._api.ping())
        except SitestreamError:
            return False

    def _probe(self, name: str) -> bool:
        return self._execute(name, PROBE).well

    def execute(self, name: str, words: Sequence[str]) -> c.Done:
        """Run a program in a container, as the container's user, to its end."""
        self.fence()
        with self._explained(f"run a program in {name}"):
            return self._execute(name, words)

    def _execute(self, name: str, words: Sequence[str]) -> c.Done:
        try:
            job = self._api.exec_create(name, list(words))["Id"]
            output, errors = self._api.exec_start(job, demux=True)  # returns when the program has ended
            texts = [(text or b"").decode(errors="replace") for text in (output, errors)]
            return c.Done(self._api.exec_inspect(job)["ExitCode"] == 0, *texts)
        except docker.errors.APIError:  # it does not run, or has just ended
            return c.Done(False)

    def attached(self, name: str, words: Sequence[str]) -> Any:
        """The line to stdin, stdout and stderr of a program that it starts in a container, see `attached.Attached`."""
        with self._explained(f"run a program in {name}"):
            return self._api.exec_start(self._api.exec_create(name, list(words), stdin=True)["Id"], socket=True)

    def logs(self, name: str, lines: int, *, since_s: int | None = None) -> str:
        """The last lines that a container wrote."""
        with self._explained(f"read the logs of {name}"):
            raw: bytes = self._api.logs(name, tail=lines, since=since_s)
        return raw.decode(errors="replace")

    def follow(self, name: str, lines: int, *, since_s: int | None = None) -> Iterator[str]:
        """The last lines that a container wrote and all that it will write, until it ends."""
        with self._explained(f"read the logs of {name}"):
            rest = b""
            for piece in self._api.logs(name, tail=lines, since=since_s, stream=True, follow=True):
                *whole, rest = (rest + piece).split(b"\n")
                yield from (line.decode(errors="replace") for line in whole)
            if rest:
                yield rest.decode(errors="replace")

    def facts(self) -> Facts:
        """What the engine says of itself and its machine."""
        with self._explained("ask the engine about itself"):
            info = self._api.info()
            answer = self._api._get(self._api._url("/system/df"), params={"type": "image"})  # volumes can take minutes
            used = self._api._result(answer, json=True).get("LayersSize") or 0
            version = self._api.version()
        return facts(info, version["ApiVersion"], used)

    def files(self, container: str, folder: str) -> dict[str, c.File]:
        """The files below a folder of a container, running or not, by their paths in there."""
        with self._explained(f"read {folder} of {container}"):
            try:
                pieces, _ = self._api.get_archive(container, folder)
            except docker.errors.NotFound:
                return {}
            content = io.BytesIO(b"".join(pieces))
        with tarfile.open(fileobj=content) as tar:
            found = [(m, m.name.partition("/")[2], tar.extractfile(m)) for m in tar if m.isfile()]
            return {path: c.File(path, data.read(), m.mode & 0o7777, m.uid) for m, path, data in found if data}

    def image_id(self, name: str) -> str | None:
        """Id of an image, None if the engine does not have it."""
        with self._explained(f"look up image {name}"):
            try:
                found: str = self._api.inspect_image(name)["Id"]
            except docker.errors.ImageNotFound:
                return None
        return found

    def gateway(self, network: str) -> str:
        """IP address of the engine's machine in a network; `ConfigError` if there is no such network."""
        with self._explained(f"look up network {network}"):
            try:
                subnets = self._api.inspect_network(network)["IPAM"]["Config"]
            except docker.errors.NotFound as e:
                raise ConfigError(
                    f"the engine has no network {network}: create it, or take its name out of [networks]"
                ) from e
        return next((s["Gateway"] for s in subnets or [] if s.get("Gateway")), "")

    def volumes(self, prefix: str) -> tuple[float, dict[str, dict[str, str]]]:
        """The engine's own time, in whole seconds since the epoch, and labels of all volumes whose names begin so."""
        url = f"{self._api.base_url}/v{self._api.api_version}/volumes"
        with self._explained("list volumes"):
            answer = self._api.get(url, params={"filters": json.dumps({"name": [prefix]})}, timeout=CALL_TIMEOUT_S)
            answer.raise_for_status()
        found = {v["Name"]: v["Labels"] or {} for v in answer.json()["Volumes"] or []}
        now = parsedate_to_datetime(answer.headers["Date"]).timestamp()
        return now, {name: labels for name, labels in found.items() if name.startswith(prefix)}

    def agents(self, site: str) -> dict[str, dict[str, str]]:
        """The containers that are agents of a site: by name their labels."""
        with self._explained("list containers"):
            found = self._api.containers(all=True, filters={"label": f"{names.AGENT}={site}"})
        return {name.lstrip("/"): one["Labels"] for one in found for name in one["Names"]}

    def state_of(self, name: str) -> str:
        """'running', 'restarting', 'exited', … of a container, ours or not; 'is gone' if it is not there."""
        with self._explained("inspect a container"):
            try:
                return str(self._api.inspect_container(name)["State"]["Status"])
            except docker.errors.NotFound:
                return "is gone"

    def of_agent(self, site: str) -> list[str]:
        """Names of volumes of a site's agent."""
        with self._explained("list volumes"):
            found = self._api.volumes(filters={"label": f"{names.AGENT}={site}"})["Volumes"] or []
        return sorted(v["Name"] for v in found)

    def labelled(self, site: str) -> Iterator[c.Command]:
        """Commands that remove every network and volume of a site, the volumes with data last."""
        label = {"label": f"{names.SITE}={site}"}
        with self._explained("list networks and volumes"):
            networks = [n["Name"] for n in self._api.networks(filters=label)]
            volumes = [v["Name"] for v in self._api.volumes(filters=label)["Volumes"] or []]
        yield from (c.RemoveNetwork(name) for name in networks)
        yield from (c.RemoveVolume(name) for name in sorted(volumes, key=lambda name: name.endswith(names.DATA_SUFFIX)))

    def unused_images(self) -> list[c.Command]:
        """Commands that remove every image of ours that no container of any site is built on."""
        with self._explained("list images"):
            made = self._api.images(filters={"label": names.IMAGE})
            users = self._api.containers(all=True, filters={"label": names.IMAGES})
        used = {tag for user in users for tag in json.loads(user["Labels"][names.IMAGES])}
        tags = sorted(tag for image in made for tag in image["RepoTags"] or [] if tag not in used)
        return [c.RemoveImage(tag) for tag in tags if tag.startswith(f"{names.PREFIX}/")]

    # images

    def pull(self, name: str) -> str:
        """Id of an image, which is fetched from its registry if the engine does not have it."""
        have = self.image_id(name)
        if have is None:
            repository, _, tag = name.partition("@") if "@" in name else name.rpartition(":")
            try:
                with self._explained(f"pull {name}"):
                    self._api.pull(repository or name, tag or "latest")
            except SitestreamError as e:
                raise Unavailable(
                    f"the engine does not have the base image {name} and cannot pull it ({e}): load it with  docker load  or "
                    "docker import, or name another as `base_image` in the site file"
                ) from e
        return have or self.image_id(name) or ""

    def python_of(self, image: str) -> Python:
        """What Python an image has, by asking it; `ConfigError` if it has none."""
        config = {
            "Image": image,
            "Entrypoint": ["python3", "-c", _ASK_PYTHON],
            "Cmd": None,
            "User": f"{UID}:{UID}",
            "HostConfig": {"NetworkMode": "none", "CapDrop": ["ALL"], "ReadonlyRootfs": True},
        }
        with self._explained(f"ask {image} for its Python"):
            failed, answer = self._asked(config)
        if failed:
            raise ConfigError(
                f"base image {image} has no python3 that runs ({answer.strip()[-200:]}): take one such as python:3.11-slim"
            )
        version, machine, libc = json.loads(answer)
        return Python(tuple(version), machine, libc.removeprefix("glibc") if libc.startswith("glibc") else "")

    def group_of(self, socket: str, image: str) -> int:
        """The group that may use a socket of the engine's machine, as a container sees it; `ConfigError` if none may."""
        ask = f"import os;s=os.stat('{_SOCKET_AT}');print(s.st_gid,s.st_mode>>3&6)"
        config = {
            "Image": image,
            "Entrypoint": ["python3", "-I", "-S", "-c", ask],
            "HostConfig": {
                "NetworkMode": "none", "CapDrop": ["ALL"], "ReadonlyRootfs": True,
                "Mounts": [{"Type": "bind", "Source": socket, "Target": _SOCKET_AT, "ReadOnly": True}],
            },
        }  # fmt: skip
        with self._explained(f"look at {socket} of its machine"):
            failed, answer = self._asked(config)
        if failed or not answer.split()[1:] == ["6"]:
            raise ConfigError(
                f"the group of {socket} may not use it ({answer.strip()[-200:]}): name the engine's own socket as agent.socket"
            )
        return int(answer.split()[0])

    def _asked(self, config: Mapping[str, Any]) -> tuple[bool, str]:
        """Whether a container that ends by itself failed, and what it said."""
        made = self._api.create_container_from_config(config)["Id"]
        try:
            self._api.start(made)
            failed = bool(self._api.wait(made)["StatusCode"])
            return failed, self._api.logs(made).decode()
        except docker.errors.APIError as e:
            return True, str(e.explanation)
        finally:
            self._api.remove_container(made, force=True)

    def base(self, name: str) -> oci.Base | None:
        """What an image is that others are to stand on; None if the engine does not have it."""
        with self._explained(f"look up image {name}"):
            try:
                seen = self._api.inspect_image(name)
            except docker.errors.ImageNotFound:
                return None
        machine = {goarch: m for m, goarch in oci.ARCHITECTURES.items()}.get(seen["Architecture"], seen["Architecture"])
        kept = {k: v for k in ("Env",) if (v := seen["Config"].get(k))}
        return oci.Base(tuple(map(oci.Layer, seen["RootFS"]["Layers"])), machine, kept)

    def export(self, name: str, base: oci.Base, store: oci.LayerStore) -> oci.Base:
        """The base image `name` with its layers in the store."""
        with tempfile.TemporaryFile() as file, self._explained(f"save image {name}"):
            for piece in self._api.get_image(name):
                file.write(piece)
            file.seek(0)
            with tarfile.open(fileobj=file) as tar:
                (about,) = json.load(_member(tar, "manifest.json"))
                layers = tuple(
                    store.made(f"layer-{layer.diff_id.removeprefix('sha256:')}", copy_tar(_member(tar, path)))
                    for layer, path in zip(base.layers, about["Layers"], strict=True)
                )
        if [layer.diff_id for layer in layers] != [layer.diff_id for layer in base.layers]:
            raise ConfigError(
                f"the engine at {self.url} saves image {name} in a form that is not known: take another engine"
            )
        return replace(base, layers=layers)

    def has(self, image: oci.Image) -> bool:
        """Whether the engine has this very image under its name."""
        return self.image_id(image.tag) == image.id

    def lacking(self, images: Sequence[oci.Image]) -> list[int]:
        """For each of these images, which stand on each other, how many of its uppermost layers the engine lacks."""
        with self._explained("list images"):
            ids = {i["Id"] for i in self._api.images(all=True)}
            chains = [tuple(self._api.inspect_image(i)["RootFS"].get("Layers") or ()) for i in ids]
        have = {chain[: n + 1] for chain in chains for n in range(len(chain))}
        counts = []
        for image in images:
            chain = image.diff_ids
            counts.append(next((n for n in range(len(chain)) if chain[: len(chain) - n] in have), len(chain)))
            have |= {chain[: n + 1] for n in range(len(chain))}
        return counts

    def load(self, image: oci.Image, store: oci.LayerStore, lacking: int) -> None:
        """Give the engine an image of which it lacks the uppermost `lacking` layers; nothing if it has it."""
        if self.has(image):
            return
        try:
            self._load(archive.pieces(image, store, lacking), image)
        except ConfigError:  # an engine that wants all layers, or has lost one
            if any(not layer.digest for layer in image.layers):
                raise
            self._load(archive.pieces(image, store, len(image.layers)), image)

    def _load(self, pieces: Iterable[bytes], image: oci.Image) -> None:
        with self._explained(f"load {image.tag}"):
            response = self._api._post(self._api._url("/images/load"), data=pieces, params={"quiet": "1"}, stream=True)
            self._api._raise_for_status(response)
            answers = [json.loads(line) for line in response.iter_lines() if line]
        errors = [a["error"] for a in answers if "error" in a]
        if errors or not self.has(image):
            _raise_refused(self.url, f"load {image.tag}", " ".join(errors) or "no reason given")

    # doing

    def run(self, command: c.Command, *, fenced: bool = True) -> None:
        """Execute one command, if the site is still ours to change (or the command is not `fenced`: it changes no service)."""
        if fenced:
            self.fence()
        with self._explained(str(command)):
            self._run(command)

    @singledispatchmethod
    def _run(self, command: c.Command) -> None:
        raise TypeError(command)

    @_run.register
    def _(self, command: c.CreateNetwork) -> None:
        if not self._api.networks(names=[f"^{command.name}$"]):
            options = {} if command.masquerade else {MASQUERADE: "false"}
            self._api.create_network(
                command.name, "bridge", options=options, internal=command.internal, labels=dict(command.labels)
            )

    @_run.register
    def _(self, command: c.RemoveNetwork) -> None:
        _if_there(self._api.remove_network, command.name)

    @_run.register
    def _(self, command: c.CreateVolume) -> None:
        self._api.create_volume(command.name, labels=dict(command.labels))

    @_run.register
    def _(self, command: c.FillVolume) -> None:
        mounts = [{"Type": "volume", "Source": command.name, "Target": CONFIG_DIR}]
        config = {"Image": command.image, "HostConfig": {"NetworkMode": "none", "Mounts": mounts}}
        made = self._api.create_container_from_config(config)["Id"]
        try:
            content = io.BytesIO()
            write_tar(command.files, content)
            self._api.put_archive(made, CONFIG_DIR, content.getvalue())
        finally:
            self._api.remove_container(made)

    @_run.register
    def _(self, command: c.RemoveVolume) -> None:
        _if_there(self._api.remove_volume, command.name)

    @_run.register
    def _(self, command: c.CreateContainer) -> None:
        image = self._api.inspect_image(command.config["Image"])
        networks = [command.config["HostConfig"]["NetworkMode"], *command.networks]
        told = drift.request(command.config, networks, image, self._api.info())
        config = {**command.config, "Image": image["Id"], "Labels": {**command.config["Labels"], **told}}
        made = self._api.create_container_from_config(config, command.name)["Id"]
        for network in command.networks:
            self._api.connect_container_to_network(made, network, aliases=[config["Hostname"]])

    @_run.register
    def _(self, command: c.StartContainer) -> None:
        self._api.start(command.name)

    @_run.register
    def _(self, command: c.StopContainer) -> None:
        self._api.stop(command.name, timeout=STOP_S)

    @_run.register
    def _(self, command: c.RemoveContainer) -> None:
        _if_there(self._api.remove_container, command.name, force=True)

    @_run.register
    def _(self, command: c.RenameContainer) -> None:
        self._api.rename(command.name, command.to)

    @_run.register
    def _(self, command: c.RemoveImage) -> None:
        with contextlib.suppress(
            docker.errors.ImageNotFound, docker.errors.APIError
        ):  # in use, here or by another site
            self._api.remove_image(command.tag)

    @contextlib.contextmanager
    def _explained(self, doing: str) -> Iterator[None]:
        """Turns the client library's errors into ours."""
        try:
            yield
        except docker.errors.APIError as e:
            _raise_refused(self.url, doing, str(e.explanation or e).strip(), e)
        except (docker.errors.DockerException, requests.exceptions.RequestException, OSError) as e:
            raise Unavailable(f"the Docker engine at {self.url} cannot be reached ({doing}): {e}") from e


def _raise_refused(url: str, doing: str, said: str, error: Exception | None = None) -> NoReturn:
    if "no space left on device" in said:
        raise Unavailable(
            f"no room is left on the disk of the site's machine ({doing}): make some, such as with  docker image prune  there, "
            "and deploy again; what ran before runs on"
        ) from error
    if "bind source path does not exist" in said:
        folder = said.rpartition(": ")[2]
        raise ConfigError(
            f"the folder {folder} of `store` does not exist on the site's machine: create it there for the services' user:  "
            f"install -d -o {UID} -g {UID} {folder}"
        ) from error
    raise ConfigError(f"the engine at {url} refused: {doing}: {said}") from error


def _member(tar: tarfile.TarFile, path: str) -> IO[bytes]:
    found = tar.extractfile(path)
    assert found is not None  # it is a file
    return found


def _if_there(remove: Callable[..., object], name: str, **options: Any) -> None:
    with contextlib.suppress(docker.errors.NotFound):
        remove(name, **options)
