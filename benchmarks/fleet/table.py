"""The figures of a fleet by its size, and what they come to with 5,000 nodes.

What is extrapolated is said to be: by a straight line through the sizes that were measured where a
figure grows with the fleet, and by a product where it is one of each node.
"""

from collections.abc import Mapping, Sequence

import rich.console
import rich.table

from benchmarks import report

TARGET = 5000

_BY_SIZE = (
    ("API server, memory (MiB)", "server_rss_mib"),
    ("etcd, memory (MiB)", "etcd_rss_mib"),
    ("open watches of the server", "watches"),
    ("API server, quiet (% of a core)", "server_percent"),
    ("etcd, quiet (% of a core)", "etcd_percent"),
    ("all agents of the benchmark, memory (MiB)", "agents_rss_mib"),
)
_OF_JOINS = (
    ("joining: seconds until all are ready", "join_s"),
    ("joining: requests of a node", "join_requests"),
    ("joining: bytes to a node", "join_received"),
    ("joining: patches of a node's object", "join_node_patches"),
    ("joining: patches of its status", "join_node_status_patches"),
    ("joining: API server (% of a core)", "join_server_percent"),
)
_SCENES = (
    ("pods: made a second", "fleet_pods_per_s"),
    ("pods: agents' requests for each", "fleet_pod_requests"),
    ("pods: bytes to agents for each", "fleet_pod_received"),
    ("pods: API server (% of a core)", "fleet_pod_server_percent"),
    ("idle: requests a node and minute", "fleet_idle_requests"),
    ("idle: bytes to a node and minute", "fleet_idle_received"),
    ("idle: changes of nodes seen by a watcher", "fleet_idle_node_changes"),
    ("idle: API server (% of a core)", "fleet_idle_server_percent"),
    ("deletion: requests of a node", "fleet_deletion_requests"),
    ("deletion: patches of a node's object", "fleet_deletion_node_patches"),
    ("deletion: requests a second", "fleet_deletion_requests_per_s"),
    ("deletion: API server (% of a core)", "fleet_deletion_server_percent"),
    ("roll-out: requests of a node", "fleet_roll_out_requests"),
    ("roll-out: requests a second", "fleet_roll_out_requests_per_s"),
    ("roll-out: changes of nodes seen by a watcher", "fleet_roll_out_node_changes"),
    ("roll-out: API server (% of a core)", "fleet_roll_out_server_percent"),
    ("a change of a node: bytes to each watcher of nodes", "fleet_node_change_bytes"),
    ("server's restart: agents that noticed", "fleet_restart_unwell"),
    ("server's restart: seconds until all watch again", "fleet_restart_s"),
    ("server's restart: requests of a node", "fleet_restart_requests"),
    ("controller, memory (MiB)", "fleet_controller_rss_mib"),
)


def show(flat: Mapping[str, float]) -> None:
    """Print both tables of what was measured."""
    sizes = _sizes(flat)
    grown = rich.table.Table(box=None, title="A fleet by its size", title_justify="left")
    grown.add_column("FIGURE")
    for size in sizes:
        grown.add_column(f"{size} AGENTS", justify="right")
    grown.add_column(f"{TARGET} (EXTRAPOLATED)", justify="right")
    for name, key in (*_BY_SIZE, *_OF_JOINS):
        values = [flat.get(f"fleet_{size}_{key}") for size in sizes]
        known = [value for value in values if value is not None]
        if len(known) == len(sizes):
            straight = (name, key) in _BY_SIZE
            further = f"{_line(sizes, known):.4g}" if straight and len(sizes) > 1 else ""
            grown.add_row(name, *(f"{value:.4g}" for value in known), further)
    seen = rich.table.Table(box=None, title=f"With {sizes[-1]} agents", title_justify="left")
    seen.add_column("FIGURE")
    seen.add_column("MEASURED", justify="right")
    for name, key in _SCENES:
        if key in flat:
            seen.add_row(name, f"{flat[key]:.4g}")
    for name, value in extrapolated(flat).items():
        seen.add_row(f"{TARGET} nodes, extrapolated: {name}", f"{value:.4g}")
    console = rich.console.Console()
    for table in (grown, seen):
        wide = console if console.is_terminal else rich.console.Console(width=report.WIDTH)
        wide.print(table)


def extrapolated(flat: Mapping[str, float]) -> dict[str, float]:
    """What one node's figures come to: products, for nodes know nothing of each other."""
    found = {}
    if (idle := flat.get("fleet_idle_requests")) is not None:
        found["idle requests a second"] = idle * TARGET / 60
    if (once := flat.get("fleet_roll_out_requests")) is not None:
        found["requests a second, a tenth restarted each minute"] = once * TARGET / 10 / 60
    if (joined := flat.get(f"fleet_{_sizes(flat)[-1]}_join_requests")) is not None:
        found["requests a second, all join within a minute"] = joined * TARGET / 60
    if (deleted := flat.get("fleet_deletion_requests")) is not None:
        found["requests a second while a deletion is acknowledged"] = deleted * TARGET / 30
    return found


def _sizes(flat: Mapping[str, float]) -> Sequence[int]:
    parts = (name.split("_") for name in flat)
    return sorted({int(words[1]) for words in parts if len(words) > 1 and words[1].isdigit()})


def _line(sizes: Sequence[int], values: Sequence[float]) -> float:
    """The value at TARGET of the straight line with the least squares."""
    count = len(sizes)
    middle, mean = sum(sizes) / count, sum(values) / count
    slope = sum((size - middle) * (value - mean) for size, value in zip(sizes, values, strict=True))
    slope /= sum((size - middle) ** 2 for size in sizes)
    return mean + slope * (TARGET - middle)
