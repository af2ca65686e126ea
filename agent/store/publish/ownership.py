"""Which cluster a store belongs to: the one whose controller deletes from it.

A deletion waits for the nodes that the collector knows, and those are of one cluster. So a store
belongs to one: the first controller that uses it writes its cluster into `store.json`, and
controllers and nodes of another cluster refuse the store.
"""

import msgspec

from agent.kits import files
from agent.model import records
from agent.store import decoding, layout
from agent.store.gc import generations
from agent.store.lookup import direct_reader
from agent.store.publish import writer


def claim(place: layout.Layout, cluster: str) -> records.StoreRecord:
    """Have the store belong to a cluster; raise ForeignStore where it belongs to another.

    Raises CollectorBusy while another controller claims it or collects.
    """
    record = direct_reader.open_store(place.root)
    if record.cluster:
        decoding.check_cluster(record, str(place.root), cluster)
        return record
    with generations.locked(place):
        # Another controller may have been first.
        record = direct_reader.open_store(place.root)
        if not record.cluster:
            record = msgspec.structs.replace(record, cluster=cluster)
            writer.write_record(place, place.store_record, record)
    decoding.check_cluster(record, str(place.root), cluster)
    return record


def release(place: layout.Layout) -> str:
    """End a cluster's ownership: the next controller takes the store; the UID that it had.

    The nodes of that cluster are waited for as those that have left: for a grace period, by
    names that no node of another cluster has.
    """
    with generations.locked(place):
        record = direct_reader.open_store(place.root)
        if not record.cluster:
            return ""
        known = generations.nodes(place)
        renamed = {
            name if "/" in name else f"{record.cluster}/{name}": node
            for name, node in known.items()
        }
        if renamed != known:
            data = msgspec.json.encode(records.NodesRecord(nodes=renamed))
            files.write(place.nodes_record, data, tmp=place.tmp)
        writer.write_record(place, place.store_record, msgspec.structs.replace(record, cluster=""))
        return record.cluster


def verify(place: layout.Layout, cluster: str) -> None:
    """Raise ForeignStore where the store does not belong to this cluster (any more)."""
    record = direct_reader.open_store(place.root)
    if record.cluster != cluster:
        raise decoding.ForeignStore(str(place.root), record.cluster, cluster)
