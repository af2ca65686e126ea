"""`uimgacc store`: create, verify and clean a store, and make the hash trees of its layers."""

import contextlib
import pathlib

import rich.progress

from agent.cli import output, progress
from agent.kits import units
from agent.mounts import mountinfo
from agent.store import integrity, layout, signatures, trusted_keys
from agent.store.gc import collection, prune_now
from agent.store.index import index_files
from agent.store.lookup import direct_reader
from agent.store.publish import layer_trees, ownership, source_migration, writer

_HOUR = 3600.0
_LOCAL = ("btrfs", "ext2", "ext3", "ext4", "overlay", "ramfs", "tmpfs", "xfs", "zfs")
_BAD = (integrity.Kind.DAMAGED, integrity.Kind.MISSING, integrity.Kind.UNSIGNED)


def init(store: pathlib.Path, *, compression: str, as_json: bool) -> None:
    """Make an empty folder a store; one that is one already is left as it is."""
    if compression not in writer.COMPRESSIONS:
        raise output.UsageError(f"--compression is one of {', '.join(writer.COMPRESSIONS)}")
    record = writer.create(store, compression=compression)
    if as_json:
        output.show_json(
            {"format": record.format, "id": record.id, "compression": record.compression}
        )
    else:
        print(f"{store} is a store (format {record.format}, {record.compression}, {record.id})")


def release(store: pathlib.Path, *, as_json: bool) -> None:
    """End the ownership of a cluster that is gone: the next controller takes the store."""
    cluster = ownership.release(layout.Layout(store))
    if as_json:
        output.show_json({"released": cluster})
    elif cluster:
        print(
            f"{store} belonged to cluster {cluster} and belongs to none now: the next controller"
            " that uses it takes it. Deletions wait for the nodes of that cluster for a day"
        )
    else:
        print(f"{store} belongs to no cluster: nothing to do")


def check(
    store: pathlib.Path, *, quick: bool, repair: bool, keys: pathlib.Path | None, as_json: bool
) -> None:
    """Verify a store; ends with status 1 where anything is damaged, missing or not signed.

    Damaged layers are marked: no node serves them, and the next build makes them again. With
    `repair`, layer records of earlier versions get their sources, and caches their entries.
    """
    place = layout.Layout(store)
    with progress.counted(
        "reading layers", rich.progress.DownloadColumn(binary_units=True), quiet=as_json or quick
    ) as bar:
        findings = list(
            integrity.check(
                place,
                content=not quick,
                mark=True,
                progress=bar,
                trust=_trust(store, keys) if keys else None,
            )
        )
    written = source_migration.write(place) if repair else 0
    indexed = index_files.complete(place) if repair else 0
    findings += [*integrity.without_sources(place), *integrity.index_faults(place)]
    bad = [finding for finding in findings if finding.kind in _BAD]
    if as_json:
        shown = [_as_json(finding) for finding in findings]
        more = {"sources_written": written, "index_changed": indexed} if repair else {}
        output.show_json({"ok": not bad, "findings": shown, **more})
    else:
        if written:
            print(f"{store}: wrote the sources of {written} layers")
        if indexed:
            print(f"{store}: put {indexed} entries of the index of caches right")
        if findings:
            _show(findings, store)
        else:
            print(f"{store}: all files match their records")
    if bad:
        count = f"{len(bad)} damaged, missing or not signed"
        output.fail(f"{store}: {count}", output.Status.FAILED)


def _as_json(finding: integrity.Finding) -> dict[str, str]:
    return {
        "kind": finding.kind.value,
        "path": str(finding.path),
        "reason": finding.reason,
        "fix": finding.fix,
    }


def _trust(store: pathlib.Path, keys: pathlib.Path) -> signatures.Trust:
    """The keys of a document or folder; raise UsageError where they are of another store."""
    trust = trusted_keys.policy_of(trusted_keys.read(keys), "auto").trust
    store_id = direct_reader.open_store(store).id
    if not any(key.store == store_id for key in trust.keys):
        raise output.UsageError(f"{keys} has no key of the store {store_id}, which is in {store}")
    return trust


def prune(store: pathlib.Path, *, older_than: float, as_json: bool) -> None:
    """Remove what no cache names."""
    direct_reader.open_store(store)
    settle = _settle_seconds(store)
    if settle and not as_json:
        output.say(f"a network file system: waiting {settle:g} s for builders before each deletion")
    pruned = prune_now.prune(layout.Layout(store), min_age=older_than * _HOUR, settle=settle)
    if as_json:
        output.show_json({"layers": pruned.layers, "bytes": pruned.freed})
    else:
        print(f"removed {pruned.layers} layers, {units.size(pruned.freed)}")


def verity(store: pathlib.Path, *, as_json: bool) -> None:
    """Make the hash trees that layers lack; ends with status 1 where one could not be made."""
    with progress.counted(
        "reading layers", rich.progress.DownloadColumn(binary_units=True), quiet=as_json
    ) as bar:
        made = list(layer_trees.make(layout.Layout(store), progress=bar))
    faults = [one for one in made if one.fault]
    if as_json:
        named = [{"layer": one.diff_id, "reason": one.fault} for one in faults]
        output.show_json({"ok": not faults, "made": len(made) - len(faults), "failed": named})
    else:
        for one in faults:
            output.say(f"{one.diff_id}: {one.fault}")
        size = units.size(sum(one.size for one in made if not one.fault))
        print(f"{store}: made {len(made) - len(faults)} hash trees, for {size} of layers")
        if len(made) > len(faults):
            output.say("Signatures of these layers do not count any more: run uimgacc store sign")
    if faults:
        output.fail(f"{store}: {len(faults)} layers without a hash tree", output.Status.FAILED)


def _settle_seconds(store: pathlib.Path) -> float:
    """How long another machine may see an older state of this file system."""
    path = store.resolve()
    below = [mount for mount in reversed(mountinfo.read()) if path.is_relative_to(mount.target)]
    kind = max(below, key=lambda mount: len(mount.target)).kind if below else ""
    return 0.0 if kind in _LOCAL else collection.SETTLE_SECONDS


def _show(findings: list[integrity.Finding], store: pathlib.Path) -> None:
    made = output.table("WHAT", "PATH", "REASON")
    for finding in findings:
        path = finding.path
        with contextlib.suppress(ValueError):
            path = path.relative_to(store)
        made.add_row(finding.kind.value, str(path), finding.reason)
    console = output.console()
    console.print(made)
    for fix in dict.fromkeys(finding.fix for finding in findings):
        console.print(f"Fix: {fix}")
