"""A pipeline's graph as a picture (SVG) and as plain values: steps, keys, columns, units, topics."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from pipelines.plan import SOURCES, Plan, Step

SITE = "{site}"  # stands in names of topics
_CHAR, _LINE, _PAD, _GAP_X, _GAP_Y = 6.6, 17, 12, 70, 28  # pixels
_WRAP = 44  # characters
_COLOURS = {"source": "#2a6f97", "table": "#2a6f97", "dimension": "#2a6f97", "window": "#7b2d8b", "sink": "#3a7d44"}


def values(plan: Plan) -> dict[str, Any]:
    """For programs."""
    steps = []
    for s in plan.steps:
        columns = [{"name": f.name, "type": _type(f.dtype), "unit": f.unit} for f in s.row.fields]
        steps.append({
            "name": s.name, "kind": s.kind, "from": list(s.ups), "does": s.describe(), "schema": s.row.name, "key": s.row.key,
            "columns": columns, "topic": _topic(plan, s), "state": plan.versions.get(s.name, ("",))[0],
        })  # fmt: skip
    sinks = [{"step": step, "kind": sink.kind, **sink.describe()} for step, sink in plan.sinks]
    return {"pipeline": plan.pipeline, "fingerprint": plan.fingerprint, "steps": steps, "sinks": sinks}


def _type(dtype: str) -> str:
    return "text" if dtype == "T" else dtype


def _topic(plan: Plan, step: Step) -> str:
    return plan.topic(SITE, step.name) if step.kind in SOURCES or step.name in plan.outputs else ""


@dataclass
class _Box:
    title: str
    kind: str
    lines: Sequence[str]
    layer: int
    x: float = 0
    y: float = 0

    @property
    def width(self) -> float:
        return max(len(text) for text in (self.title, *self.lines)) * _CHAR + 2 * _PAD

    @property
    def height(self) -> float:
        return (len(self.lines) + 1) * _LINE + _PAD


def svg(plan: Plan) -> str:
    """The graph from left to right; readable on white and on dark."""
    boxes, edges = _boxes(plan)
    x, bottom = 0.0, 0.0
    for layer in range(max(b.layer for b in boxes.values()) + 1):
        column = [b for b in boxes.values() if b.layer == layer]
        y = 0.0
        for box in column:
            box.x, box.y = x, y
            y += box.height + _GAP_Y
        bottom = max(bottom, y - _GAP_Y)
        x += max(b.width for b in column) + _GAP_X
    drawn = [_edge(boxes[a], boxes[b]) for a, b in edges] + [_drawn(box) for box in boxes.values()]
    width, height = x - _GAP_X + 2, bottom + 2
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-1 -1 {width:.0f} {height:.0f}" width="{width:.0f}" '
        f'height="{height:.0f}" font-family="ui-monospace, Menlo, Consolas, monospace" font-size="11">'
    )
    return "\n".join([head, *drawn, "</svg>"])


def _boxes(plan: Plan) -> tuple[dict[str, _Box], list[tuple[str, str]]]:
    boxes: dict[str, _Box] = {}
    edges = [(up, s.name) for s in plan.steps for up in s.ups]
    for s in plan.steps:
        layer = 1 + max((boxes[up].layer for up in s.ups), default=-1)
        boxes[s.name] = _Box(s.name.rpartition("|")[2] or s.name, s.kind, _lines(plan, s), layer)
    for i, (step, sink) in enumerate(plan.sinks):
        name = f"sink {i}"
        text = [f"{k}: {v}" for k, v in sink.describe().items()]
        boxes[name] = _Box(
            sink.kind, "sink", [part for t in text for part in textwrap.wrap(t, _WRAP)], boxes[step].layer + 1
        )
        edges.append((step, name))
    return boxes, edges


def _lines(plan: Plan, step: Step) -> list[str]:
    lines = textwrap.wrap(f"{step.kind}: {step.describe()}" if step.describe() else step.kind, _WRAP)
    if topic := _topic(plan, step):
        lines.append(f"topic {topic}")
    if step.kind in (*SOURCES, "dimension") or step.name in plan.outputs:
        lines.append(f"{step.row.key}  key")
        lines += [f"{f.name}  {_type(f.dtype)}{f' {f.unit}' if f.unit else ''}" for f in step.row.fields]
    return lines


def _drawn(box: _Box) -> str:
    colour = _COLOURS.get(box.kind, "#5c677d")
    rows = [
        f'<text x="{box.x + _PAD:.0f}" y="{box.y + _LINE * (i + 2):.0f}" fill="#33415c">{escape(line)}</text>'
        for i, line in enumerate(box.lines)
    ]
    return "\n".join([
        f'<rect x="{box.x:.0f}" y="{box.y:.0f}" width="{box.width:.0f}" height="{box.height:.0f}" rx="6" fill="#fdfdfd" '
        f'stroke="{colour}" stroke-width="1.5"/>',
        f'<text x="{box.x + _PAD:.0f}" y="{box.y + _LINE:.0f}" font-weight="bold" fill="{colour}">{escape(box.title)}</text>',
        *rows,
    ])  # fmt: skip


def _edge(a: _Box, b: _Box) -> str:
    x1, y1, x2, y2 = a.x + a.width, a.y + _LINE, b.x, b.y + _LINE
    bend = max(_GAP_X / 2, (x2 - x1) / 2)
    return (
        f'<path d="M{x1:.0f},{y1:.0f} C{x1 + bend:.0f},{y1:.0f} {x2 - bend:.0f},{y2:.0f} {x2:.0f},{y2:.0f}" fill="none" '
        'stroke="#8d99ae" stroke-width="1.5"/>'
    )
