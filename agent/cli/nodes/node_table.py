"""`uimgacc node list`."""

import dataclasses
from collections.abc import Sequence

from agent.cli import cluster_access, output
from agent.cli.nodes import node_rows
from agent.clients.kube import rest_client
from agent.kits import units
from agent.model import keys
from agent.setup.slots import slot_leases, slot_rules

UNDOING = "uimgacc-uninstall"
"""Where an uninstallation has its slots."""


async def slots(
    client: rest_client.Client, target: cluster_access.Target
) -> Sequence[tuple[str, slot_rules.Slot]]:
    """All slots that are held, each with its namespace."""
    return [
        (namespace, slot)
        for namespace in (target.namespace, UNDOING)
        for slot in await slot_leases.SlotLeases(client, namespace=namespace).all()
        if slot.holder
    ]


def show(target: cluster_access.Target, *, as_json: bool) -> None:
    """Print all nodes."""

    async def read(client: rest_client.Client) -> Sequence[node_rows.Row]:
        held = [slot for _, slot in await slots(client, target)]
        nodes = [node async for page in client.pages(rest_client.NODES) for node in page.items]
        return node_rows.rows(nodes, held)

    rows = cluster_access.run(target, read)
    if as_json:
        output.show_json([_for_programs(row) for row in rows])
        return
    table = output.table("NODE", "ENABLED", "STATE", "CONTAINERD", "SLOT", "CHANGED", "WHY NOT")
    for row in rows:
        number = row.slot.removeprefix(keys.SETUP_SLOT)
        slot = f"{number} ({units.age(row.slot_seconds)})" if row.slot else units.UNKNOWN
        table.add_row(
            row.name,
            "yes" if row.enabled else "no",
            row.state,
            row.containerd or units.UNKNOWN,
            slot,
            row.changed or units.UNKNOWN,
            row.reason,
        )
    output.console().print(table)


def _for_programs(row: node_rows.Row) -> dict[str, object]:
    names = {"slot_seconds": "slotSeconds"}
    return {names.get(key, key): value for key, value in dataclasses.asdict(row).items()}
