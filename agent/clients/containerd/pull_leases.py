"""Leases of pulls whose containerd was killed.

A pull takes a lease for a day, and ends it when it is over. Where containerd is killed meanwhile,
the lease keeps what was pulled so far until that day is over: layers stay mounted that no image
has, and deletions from the store wait for them. The kubelet's next attempt has a lease of its own.

The pulls of the running containerd are left alone, and so is what other clients lease: a lease is
ended only if its ID is of containerd's own random form, if it expires by itself, if it is older
than the socket at which containerd listens, and if it keeps snapshots of the uimgacc snapshotter.
Nothing is ended while another pull goes on, which may rely on a snapshot that it has found.
"""

import datetime
import pathlib
import re

from agent.clients.containerd import objects, rpc
from agent.model import keys, times

_RANDOM_ID = re.compile(r"[0-9]{1,9}-[A-Za-z0-9_-]{4}")
"""leases.WithRandomID of containerd's client: nanoseconds, and three bytes in base64."""


class BusyError(rpc.UnavailableError):
    """There are such leases, and a pull goes on that may rely on what they keep."""


async def end_abandoned(client: rpc.Client, *, snapshotter: str) -> int:
    """End the leases of killed pulls; how many there were. Raises BusyError to be asked again."""
    started = _listening_since(client.address)
    pulls = [lease for lease in await client.leases() if _is_of_pull(lease)]
    old = [lease.id for lease in pulls if lease.created < started]
    keeping = [lease for lease in old if await client.leased_snapshots(lease, snapshotter)]
    if keeping and len(old) < len(pulls):
        raise BusyError("leases of killed pulls are left until no pull goes on")
    return await client.delete_leases(keeping)


def _is_of_pull(lease: objects.Lease) -> bool:
    return bool(_RANDOM_ID.fullmatch(lease.id)) and keys.GC_EXPIRE in lease.labels


def _listening_since(address: str) -> datetime.datetime:
    """When containerd made its socket, which it does at each start, before it serves anything."""
    try:
        made = pathlib.Path(address).stat().st_mtime
    except OSError as error:
        raise rpc.UnavailableError(f"containerd's socket is gone: {error}") from error
    moment = datetime.datetime.fromtimestamp(made, datetime.UTC)
    if moment > times.now():
        # The clock was set back, and says nothing about what came first.
        return datetime.datetime.min.replace(tzinfo=datetime.UTC)
    return moment
