"""How a deployment is shown before it is carried out. Secrets by name only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from rich.filesize import decimal

from containers import rollout
from containers.console import Colour, coloured
from containers.deployer import Deployment
from containers.fleet.tables import listed
from containers.rollout import Change
from containers.wanted import Desired
from pipelines.errors import SitestreamError

MASK = "•••"
_MARKS: dict[str, Colour] = {"+": "green", "~": "yellow", "-": "red", "=": "cyan"}
_ACTIONS = {"+": "create", "~": "replace", "-": "remove", "=": "keep"}


def text(site: str, todo: Deployment) -> str:
    """For people: the summary first, then each service, what changes and why."""
    lines = [f"{rollout.summary(todo.changes)}  {site}, revision {todo.actual.revision}"]
    if rollout.repair(todo.actual):
        lines.append(
            "A deploy was broken off, or a container was stopped: first, what the last revision says is started again."
        )
    wanted = {d.service: d for d in todo.wanted}
    for change in todo.changes:
        lines.append(coloured(f"{change.mark} {change.service:8}", _MARKS[change.mark]) + "  " + ", ".join(change.why))
        lines += [f"      {line}" for line in _details(change, wanted.get(change.service), todo)]
    return "\n".join(lines)


def _details(change: Change, wanted: Desired | None, todo: Deployment) -> Iterator[str]:
    """For a service that changes: image, settings that differ, secrets (masked)."""
    if wanted is None or change.mark == "=":
        return
    yield from (f"state: {verdict}" for verdict in change.state)
    if change.state_of:
        yield (
            f"state: belongs to version {change.state_of}, so this one will refuse to start; to drop what is lost add under "
            f"[services.{change.service}.options]  discard_state = '{change.state_of}'"
        )
    have = todo.actual.current.get(change.service)
    yield f"image: {f'{have.image} → ' if have and have.image != wanted.tag else ''}{wanted.tag}"
    yield f"ships: {decimal(_ships(wanted, todo)) if wanted.images else 'known once its packages have been fetched'}"
    before = have.settings if have else {}
    for name, new in wanted.settings_shown.items():
        if before.get(name) != new:
            yield f"{name}: {f'{_show(before[name])} → ' if name in before else ''}{_show(new)}"
    if wanted.port:
        yield f"listens: {wanted.port}, published on the site's machine"
    yield from (f"asks: the schema registry {url}, on the network {wanted.networks[0]}" for url in wanted.asks)
    if wanted.secrets:
        yield f"secrets: {', '.join(f'{name} {MASK}' for name in wanted.secret_names)}"


def _ships(wanted: Desired, todo: Deployment) -> int:
    """Bytes to be shipped for a service; what several need counts for the first of them."""
    earlier = {tag for d in todo.wanted[: todo.wanted.index(wanted)] for tag in d.tags}
    return sum(todo.lacking.get(tag, 0) for tag in wanted.tags if tag not in earlier)


def _show(of: object) -> str:
    if isinstance(of, dict):
        return ", ".join(f"{k}={v}" for k, v in of.items()) or "none"
    return str(of) or "none"


def value(site: str, todo: Deployment) -> dict[str, object]:
    """For programs."""
    wanted = {d.service: d for d in todo.wanted}
    return {
        "site": site,
        "revision": todo.actual.revision,
        "summary": rollout.summary(todo.changes),
        "changes": todo.needed,
        "services": [_facts(change, wanted.get(change.service), todo) for change in todo.changes],
    }


def _facts(change: Change, wanted: Desired | None, todo: Deployment) -> dict[str, object]:
    facts: dict[str, object] = {"service": change.service, "action": _ACTIONS[change.mark], "why": list(change.why)}
    if change.state_of:
        facts["state_of"] = change.state_of
    if change.drift:
        facts["drift"] = [{"what": d.what, "is": d.now, "should": d.should} for d in change.drift]
    if change.state:
        facts["state"] = [{"step": v.step, "what": v.what, "why": v.why} for v in change.state]
    if wanted is not None:
        facts |= {
            "image": wanted.tag,
            "ships_bytes": _ships(wanted, todo) if wanted.images else None,
            "settings": wanted.settings_shown,
            "secrets": dict.fromkeys(wanted.secret_names, MASK),
        }
        facts |= {} if wanted.port is None else {"listens": str(wanted.port)}
        facts |= {"asks": list(wanted.asks)} if wanted.asks else {}
    return facts


def fleet_text(found: Mapping[str, Deployment | SitestreamError]) -> str:
    """Many sites: the summary first; then sites to which the same is to happen, together; then those that are offline."""
    alike: dict[str, list[str]] = {}
    counts: Counter[str] = Counter()
    for name, todo in found.items():
        word = "offline" if isinstance(todo, SitestreamError) else "to change" if todo.needed else "up to date"
        counts[word] += 1
        if isinstance(todo, SitestreamError):
            alike.setdefault(f"offline: {' '.join(str(todo).replace(name, 'SITE').split())}", []).append(name)
        elif todo.needed:
            alike.setdefault(text("SITE", todo).replace(name, "SITE"), []).append(name)
    summary = ", ".join(f"{counts[word]:,} {word}" for word in ("to change", "up to date", "offline") if counts[word])
    lines = [f"{len(found):,} site{'s' * (len(found) > 1)}: {summary}"]
    for what, sites in sorted(alike.items(), key=lambda item: -len(item[1])):
        lines += ["", f"{len(sites):,} × {listed(sites)}", *(f"  {line}" for line in what.splitlines())]
    return "\n".join(lines)


def fleet_value(found: Mapping[str, Deployment | SitestreamError]) -> dict[str, object]:
    """Many sites for programs: each as `value` has it, or with `offline` and why."""
    return {
        "sites": [
            {"site": name, "offline": str(todo)} if isinstance(todo, SitestreamError) else value(name, todo)
            for name, todo in found.items()
        ]
    }
