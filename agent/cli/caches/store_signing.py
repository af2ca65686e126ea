"""`uimgacc store keygen` and `store sign`: keys and signatures by hand."""

import os
import pathlib

import msgspec
import rich.progress

from agent.cli import cluster_access, output, progress
from agent.clients.kube import rest_client
from agent.control.signing import key_objects, key_ring
from agent.kits import files
from agent.model import times
from agent.store import layout, signatures, signing_keys, trusted_keys
from agent.store.lookup import direct_reader
from agent.store.publish import record_signing

_KEY_LIMIT = 1 << 16


def keygen(store: pathlib.Path, *, key: pathlib.Path, keys: pathlib.Path) -> None:
    """Make a private key, and add the public one to the document for nodes."""
    identity = direct_reader.open_store(store).id
    made = signing_keys.generate()
    entry = trusted_keys.entry_of(signatures.PublicKey(made.value, identity, times.now()))
    document = trusted_keys.Document(store=identity, keys=[entry])
    if keys.exists():
        document = trusted_keys.decode(keys.read_bytes(), str(keys))
        if document.store != identity:
            raise output.UsageError(f"{keys} has the keys of another store, {document.store}")
        document = msgspec.structs.replace(document, keys=[*document.keys, entry])
    try:
        descriptor = os.open(key, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise output.UsageError(f"{key} exists: a key is never overwritten") from error
    with os.fdopen(descriptor, "wb") as file:
        file.write(made.pem())
    files.write(keys, trusted_keys.encode(document))
    print(f"key {made.id} of the store {identity}: {key} signs, {keys} is for nodes")


def sign(
    store: pathlib.Path,
    *,
    key: pathlib.Path | None,
    target: cluster_access.Target,
    as_json: bool,
) -> None:
    """Sign all records of a store; ends with status 1 where some could not be."""
    identity = direct_reader.open_store(store).id
    signer = record_signing.Signer(
        key=_key_of_file(key) if key else _key_of_cluster(target, identity), store=identity
    )
    with progress.counted(
        "signing records", rich.progress.TaskProgressColumn(), quiet=as_json
    ) as bar:
        results = record_signing.sign_all(layout.Layout(store), signer, progress=bar)
    if as_json:
        counts = {result.name.lower(): results[result] for result in record_signing.Result}
        output.show_json({"key": signer.key.id, **counts})
    else:
        signed, kept = (
            results[each] for each in (record_signing.Result.SIGNED, record_signing.Result.KEPT)
        )
        print(
            f"{store}: {signed} records signed by key {signer.key.id}, {kept} were signed already"
        )
    left = (record_signing.Result.UNREADABLE, record_signing.Result.CHANGED)
    if count := sum(results[each] for each in left):
        what = f"{count} records are damaged, or were changed meanwhile: run `uimgacc store check`"
        output.fail(f"{store}: {what}, then this again", output.Status.FAILED)


def rotate(target: cluster_access.Target) -> None:
    """Have the controller's key replaced: make the next one."""

    async def work(client: rest_client.Client) -> str:
        objects = key_objects.KeyObjects(client, namespace=target.namespace)
        ring = await objects.read()
        if ring is None:
            raise output.UsageError("there is no key yet: the controller makes it when it starts")
        now = times.now()
        if ring.is_rotating(now):
            raise output.UsageError("a rotation is under way already")
        key = signing_keys.generate()
        await objects.write(key_ring.rotated(ring, now, key))
        return key.id

    minutes = int(key_ring.ANNOUNCED.total_seconds() / 60)
    made = cluster_access.run(target, work)
    print(f"key {made} is made; the controller publishes it, and signs by it in {minutes} minutes")


def _key_of_file(path: pathlib.Path) -> signing_keys.SigningKey:
    with path.open("rb") as file:
        return signing_keys.from_pem(file.read(_KEY_LIMIT), str(path))


def _key_of_cluster(target: cluster_access.Target, identity: str) -> signing_keys.SigningKey:
    """The controller's key; raise UsageError where there is none, or it is of another store."""

    async def work(client: rest_client.Client) -> key_ring.Ring | None:
        return await key_objects.KeyObjects(client, namespace=target.namespace).read()

    ring = cluster_access.run(target, work)
    key = None if ring is None else ring.current(times.now())
    if ring is None or key is None:
        raise output.UsageError(
            "the cluster has no key: the controller makes it when it starts; or give --key FILE"
        )
    if ring.store != identity:
        raise output.UsageError(f"the cluster's key is for the store {ring.store}, not {identity}")
    return key
