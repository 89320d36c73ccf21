"""Routers of several processes, ``--processes N``: each has the ports that aren't shared for itself, one behind the
other."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

from segue.operator.names import Manifest

# components/networkpolicy opens as many ports.
MOST_PROCESSES = 64
METRICS_PORT = 9400


def processes_of(containers: Iterable[Manifest]) -> int:
    """As the router in these was told, ``--processes=4`` or in two words; what it would refuse counts as 1."""
    args = [arg for one in containers for arg in one.get("args", [])]
    for arg, following in pairwise([*args, ""]):
        name, given, value = arg.partition("=")
        if name == "--processes":
            told = value if given else following
            return int(told) if told.isdecimal() and 1 <= int(told) <= MOST_PROCESSES else 1
    return 1


def name_metrics_ports(pod: Manifest) -> None:
    """Add to a router's pod the ports of its further processes' metrics, ``metrics-1`` and so on: Prometheus finds in a
    pod what is named. Those that the pod has already stay."""
    processes = processes_of(pod["containers"])
    router = next(one for one in pod["containers"] if one["name"] == "router")
    known = {port["containerPort"] for port in router["ports"]}
    router["ports"] += [
        {"name": f"metrics-{process}", "containerPort": METRICS_PORT + process}
        for process in range(1, processes)
        if METRICS_PORT + process not in known
    ]
