"""Readings from an OPC UA server, by subscription. A description only: `collect` reads it (`connectors.opcua.reader`).

The server samples the nodes and keeps what changes between two publishes in a queue for each, so that nothing is lost as long as
the queue is long enough. Nothing is ever written: see `connectors.opcua.guard`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Generic, TypeVar
from urllib.parse import SplitResult, urlsplit

from connectors.columns import Layout
from connectors.conditions import Condition, check
from connectors.opcua.paths import NodePath
from connectors.options import duration, durations, login
from connectors.secrets import Secret
from pipelines.errors import PlanError
from pipelines.expr import Expr
from pipelines.schema import Schema
from pipelines.topics import named_after
from pipelines.urls import masked, parts_of

S = TypeVar("S", bound=Schema)
PORT = 4840
POLICIES = ("Basic256Sha256", "Aes128Sha256RsaOaep", "Aes256Sha256RsaPss")
MODES = ("Sign", "SignAndEncrypt")
QUEUE_MAX = 100_000


@dataclass(frozen=True)
class Deadband:
    """How far a value must move before the server tells of it: in the column's unit, or in percent of the node's EURange."""

    value: float
    percent: bool = False

    @classmethod
    def of(cls, column: str, text: float | str) -> Deadband:
        """From 0.5 or '2%'; `PlanError` if it is neither."""
        percent = isinstance(text, str) and text.endswith("%")
        try:
            value = (
                float(text[:-1])
                if isinstance(text, str) and percent
                else float(text if not isinstance(text, str) else "x")
            )
        except ValueError:
            value = -1
        if not 0 <= value < float("inf") or (percent and value > 100):
            raise PlanError(
                f"opcua deadband of {column}: {text!r} is neither a number in the column's unit nor a percentage such as '2%'"
            )
        return cls(value, percent)


@dataclass(frozen=True)
class Security:
    """How messages are protected: the policy, its mode, and the files of both sides."""

    policy: str
    mode: str
    certificate: Secret
    key: Secret
    server_certificate: Secret


@dataclass(frozen=True)
class Column:
    """Where the values of a column come from: one path for all devices, or a node for each."""

    name: str
    path: NodePath | None
    nodes: tuple[tuple[str, NodePath], ...] = ()
    deadband: Deadband | None = None

    def text(self) -> str:
        """For descriptions."""
        return self.path.text if self.path else ",".join(f"{device}={path.text}" for device, path in self.nodes)


@dataclass(frozen=True)
class OpcuaSource(Generic[S]):
    """See `source`."""

    reader: ClassVar[str] = "connectors.opcua.reader:OpcuaReader"
    speed: ClassVar[float] = 1.0

    schema: type[S]
    stream: str
    server: str
    columns: tuple[Column, ...]
    every: str
    sampling: str
    queue: int
    repeats: bool
    keep: str
    rebrowse: str
    future_max: str
    silence: str
    security: Security | None
    username: str | None
    password: Secret | None
    conditions: tuple[Condition, ...]
    stale: str | None

    @cached_property
    def address(self) -> SplitResult:
        """The server's URL in parts."""
        return urlsplit(self.server)

    def describe(self) -> dict[str, str]:
        """See `Source.describe`."""
        about = {"opcua": self.server, "every": self.every}
        about |= {column.name: column.text() for column in self.columns}
        return about | ({"security": f"{self.security.policy},{self.security.mode}"} if self.security else {})


def source(
    schema: type[S],
    *,
    server: str,
    nodes: Mapping[Expr[Any], str | Mapping[str, str]],
    every: str = "1s",
    sampling: str = "500ms",
    queue: int = 100,
    deadband: Mapping[Expr[Any], float | str] | None = None,
    repeats: bool = False,
    keep: str = "1m",
    rebrowse: str = "5m",
    security: str | None = None,
    certificate: Secret | None = None,
    key: Secret | None = None,
    server_certificate: Secret | None = None,
    username: str | None = None,
    password: Secret | None = None,
    future_max: str = "1m",
    silence: str = "5s",
    stream: str | None = None,
    conditions: Sequence[Condition] = (),
    stale: str | None = None,
) -> OpcuaSource[S]:
    """Readings of `schema` from an OPC UA server.

    `server`: 'opc.tcp://host[:4840][/path]'.
    `nodes`: for each column where its values are: a path of browse names from the Root folder on, in which the level `{device}`
    is the key (`device` being the schema's Key), `*` any level that is ignored, and `2:Name` a name of namespace 2; or, device by
    device, a path or a NodeId: `{"press-1": "ns=2;s=Press1.RMS"}`.
    `every`: the publishing interval. `sampling`: how often the server looks at its nodes. `queue`: how many values of each node
    it keeps for us; more are dropped there, oldest first, and counted as `overflow`.
    `deadband`: for a column, how far a value must move before the server tells of it: 0.5 in the column's unit, or '2%' of the
    node's range. `repeats`: also values that are as before, if their source timestamp is new.
    `keep`: how long the server keeps our session and its queues when the link breaks. `rebrowse`: how often new nodes are sought.
    `security`: 'Basic256Sha256,SignAndEncrypt' (also Aes128Sha256RsaOaep, Aes256Sha256RsaPss; Sign), with `certificate`, `key`,
    `server_certificate`, secrets in PEM or DER form. `username`, and `password=secret("name")`.
    `future_max`: how far the server's clock may be ahead. `silence`: the longest that a healthy fleet says nothing; after it the
    watermark goes on with the clock. `stream`: last part of the Kafka topic's name; by default the schema's name, kebab-case.
    `conditions`, `stale`: what is reported of the readings, and when a silent device is stale; as in every source.

    Event time is the source timestamp, else the server's, else the time of arrival. `PlanError` says what cannot be.
    """
    if parts_of(server, "opc.tcp") is None:
        raise PlanError(
            f"opcua server {masked(server)!r}: write 'opc.tcp://host:4840/path', and username= and password= apart"
        )
    durations("opcua", every=every, sampling=sampling, keep=keep, rebrowse=rebrowse, future_max=future_max, stale=stale)
    duration("opcua", "silence", silence, zero=True)
    if not 1 <= queue <= QUEUE_MAX:
        raise PlanError(f"opcua queue={queue}: 1 to {QUEUE_MAX} values")
    if duration("opcua", "keep", keep) < 3 * duration("opcua", "every", every):
        raise PlanError(
            f"opcua keep={keep!r}: at least three times every={every!r} is needed, or the server gives up a healthy session"
        )
    if repeats and deadband:
        raise PlanError("opcua repeats=True with deadband=: a dead-band holds back what repeats; give one of them")
    login("opcua", username, password)
    sealed = _security(security, certificate, key, server_certificate)
    return OpcuaSource(
        schema, stream or named_after(schema.__name__), server, _columns(schema, nodes, deadband or {}), every, sampling, queue,
        repeats, keep, rebrowse, future_max, silence, sealed, username, password, check("opcua", schema, conditions), stale,
    )  # fmt: skip


def _columns(
    schema: type[Schema], nodes: Mapping[Expr[Any], str | Mapping[str, str]], deadband: Mapping[Expr[Any], float | str]
) -> tuple[Column, ...]:
    row, absent = schema.sent(), Layout.of(schema).absent
    mine = {f.qualified: f.name for f in row.fields}
    for option, columns in (("nodes", nodes), ("deadband", deadband)):
        if wrong := [c for c in columns if not isinstance(c, Expr) or c.qualified not in mine]:
            raise PlanError(
                f"opcua {option}: {wrong[0]} is not a column of {schema.__name__}: it has {', '.join(mine)}"
            )
    bands = {c.qualified: Deadband.of(c.qualified, text) for c, text in deadband.items()}
    found = {
        c.qualified: _column(mine[c.qualified], where, row.key, bands.get(c.qualified)) for c, where in nodes.items()
    }
    for qualified, name in mine.items():
        if qualified not in found and name not in absent:
            raise PlanError(f"opcua nodes: {qualified} has none: say where it is, or give the column absent=")
    if not found:
        raise PlanError(f"opcua nodes: none of {schema.__name__}'s columns has a node")
    if banded := bands.keys() - found.keys():
        raise PlanError(f"opcua deadband: {min(banded)} has no node")
    return tuple(found.values())


def _column(name: str, where: str | Mapping[str, str], key: str, deadband: Deadband | None) -> Column:
    if isinstance(where, str):
        path = NodePath.of(where, key)
        if not path.has_key:
            example = f'{{"press-1": {where!r}}}'
            raise PlanError(
                f"opcua node {where!r} of {name}: no level is {{{key}}}; write one, or say whose it is: {example}"
            )
        return Column(name, path, (), deadband)
    if not where:
        raise PlanError(f"opcua nodes of {name}: there are none")
    parsed = tuple((device, NodePath.of(text, key)) for device, text in where.items())
    if wrong := [path.text for _, path in parsed if path.has_key]:
        raise PlanError(f"opcua node {wrong[0]!r} of {name}: it is given for one device, and has a level {{{key}}}")
    return Column(name, None, parsed, deadband)


def _security(
    text: str | None, certificate: Secret | None, key: Secret | None, server: Secret | None
) -> Security | None:
    given = {"certificate": certificate, "key": key, "server_certificate": server}
    if text is None:
        if wrong := [name for name, value in given.items() if value is not None]:
            raise PlanError(f"opcua {wrong[0]}: it is of no use without security='{POLICIES[0]},{MODES[1]}'")
        return None
    policy, _, mode = text.replace(" ", "").partition(",")
    if policy not in POLICIES or mode not in MODES:
        raise PlanError(f"opcua security {text!r}: write 'policy,mode' of {', '.join(POLICIES)} and {', '.join(MODES)}")
    if not (isinstance(certificate, Secret) and isinstance(key, Secret) and isinstance(server, Secret)):
        missing = next(name for name, value in given.items() if not isinstance(value, Secret))
        raise PlanError(f'opcua security needs {missing}=secret("name of a file in secrets_dir")')
    return Security(policy, mode, certificate, key, server)
