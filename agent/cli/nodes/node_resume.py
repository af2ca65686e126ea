"""`uimgacc node resume`: the slot of a node that did not come back is freed."""

import contextlib

from agent import errors
from agent.cli import cluster_access, output
from agent.cli.nodes import node_table
from agent.clients.kube import refusals, rest_client
from agent.kits import units
from agent.setup.slots import slot_leases, slot_rules


class StillAtIt(errors.TemporaryError):
    """The node has time left to come back; `slot` is the one that it holds."""

    def __init__(self, slot: slot_rules.Slot) -> None:
        left = units.span(slot.limit - slot.seconds)
        super().__init__(
            f"{slot.holder} restarts containerd since {units.span(slot.seconds)}, and has {left}"
            " left to come back: wait that long"
        )
        self.slot = slot


def resume(target: cluster_access.Target, name: str) -> None:
    """Free what a node holds; raise NotFound, StillAtIt."""

    async def work(client: rest_client.Client) -> list[str]:
        held = [each for each in await node_table.slots(client, target) if each[1].holder == name]
        if not held:
            raise output.NotFound(f"the node {name} holds no slot", name=name)
        gone = True
        with contextlib.suppress(refusals.NotFound):
            await client.get(rest_client.NODES, name)
            gone = False
        for namespace, slot in held:
            if not (slot.is_stuck or gone):
                raise StillAtIt(slot)
            await slot_leases.SlotLeases(client, namespace=namespace).release(slot.name, node=name)
        return [slot.name for _, slot in held]

    for slot in cluster_access.run(target, work):
        print(f"{slot} is free: the next node begins")
