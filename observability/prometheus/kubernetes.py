"""The alert rules as Kubernetes' Prometheus operator takes them, made from ``alerts.yaml``.

    python -m observability.prometheus.kubernetes

writes the file; a test fails while it differs.
"""

from __future__ import annotations

from pathlib import Path
from textwrap import indent

RULES = Path(__file__).with_name("alerts.yaml")
FILE = Path(__file__).parents[2] / "k8s" / "components" / "monitoring" / "prometheusrule.yaml"

_HEAD = """\
# Made from observability/prometheus/alerts.yaml by python -m observability.prometheus.kubernetes; change that one.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: segue
spec:
"""


def text() -> str:
    rules = RULES.read_text()
    return _HEAD + indent(rules[rules.index("groups:") :], "  ")


if __name__ == "__main__":
    FILE.write_text(text())
