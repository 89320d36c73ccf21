"""Makes segue.json, the Grafana dashboard, from its rows of panels.

    python -m observability.grafana.dashboard

writes it anew. A test fails while the two differ, and checks queries by the names that are exported.
"""

from __future__ import annotations

import json
from itertools import count
from pathlib import Path
from typing import Any

from observability.grafana.fleet_rows import FLEET_ROWS
from observability.grafana.queries import Panel
from observability.grafana.request_rows import REQUEST_ROWS

FILE = Path(__file__).with_name("segue.json")

_DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
_COLUMNS = 24


def dashboard() -> dict[str, Any]:
    """Grafana's JSON model."""
    panels: list[dict[str, Any]] = []
    ids, y = count(1), 0
    for row in (*REQUEST_ROWS, *FLEET_ROWS):
        panels.append(
            {
                "id": next(ids),
                "type": "row",
                "title": row.title,
                "collapsed": False,
                "panels": [],
                "gridPos": {"h": 1, "w": _COLUMNS, "x": 0, "y": y},
            }
        )
        x, y, height = 0, y + 1, 0
        for panel in row.panels:
            if x + panel.width > _COLUMNS:
                x, y = 0, y + height
            height = 4 if panel.kind == "stat" else 8
            panels.append(_panel(panel, next(ids), {"h": height, "w": panel.width, "x": x, "y": y}))
            x += panel.width
        y += height
    return {
        "uid": "segue",
        "title": "Segue",
        "tags": ["segue", "llm"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "10s",
        "time": {"from": "now-30m", "to": "now"},
        "timezone": "browser",
        "templating": {"list": _variables()},
        "panels": panels,
    }


def _panel(panel: Panel, panel_id: int, place: dict[str, int]) -> dict[str, Any]:
    targets = [
        {
            "datasource": _DATASOURCE,
            "editorMode": "code",
            "expr": query,
            "legendFormat": legend or "__auto",
            "range": True,
            "refId": chr(ord("A") + index),
        }
        for index, (legend, query) in enumerate(panel.queries.items())
    ]
    drawn = {"lineWidth": 1, "fillOpacity": 20 if panel.stacked else 0, "showPoints": "never"}
    if panel.stacked:
        drawn["stacking"] = {"mode": "normal"}  # type: ignore[assignment]
    return {
        "id": panel_id,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.about,
        "datasource": _DATASOURCE,
        "gridPos": place,
        "targets": targets,
        "fieldConfig": {
            "defaults": {"unit": panel.unit, "custom": {} if panel.kind == "stat" else drawn},
            "overrides": [],
        },
        "options": {"reduceOptions": {"calcs": ["lastNotNull"]}} if panel.kind == "stat" else {},
    }


def _variables() -> list[dict[str, Any]]:
    return [
        {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus", "refresh": 1},
        _labels("router", "Router", "label_values(segue_router_info, instance)"),
        _labels("slo_class", "Class", "label_values(segue_requests_total, slo_class)"),
    ]


def _labels(name: str, label: str, query: str) -> dict[str, Any]:
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": _DATASOURCE,
        "query": {"query": query, "refId": name},
        "refresh": 2,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }


def text() -> str:
    return json.dumps(dashboard(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FILE.write_text(text())
