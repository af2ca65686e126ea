"""Commands about a store: store init, check, prune, verity, keygen, sign."""

import pathlib
from typing import Annotated

import typer

from agent.cli import options, output
from agent.model import keys

app = typer.Typer(help="Create, verify, sign and clean a store.", no_args_is_help=True)


@app.command("init")
@output.reported
def store_init(
    store: options.Store,
    compression: Annotated[
        str,
        typer.Option(
            help="Compression of all its layers: lz4, or none, which the layer cache of containerd"
            " 2.4 itself can read."
        ),
    ] = "lz4",
    as_json: options.Json = False,
) -> None:
    """Make an empty folder a store. A store is left as it is."""
    from agent.cli.caches import store_maintenance

    store_maintenance.init(store, compression=compression, as_json=as_json)


@app.command("release")
@output.reported
def store_release(store: options.Store, as_json: options.Json = False) -> None:
    """Let another cluster take a store whose cluster is gone for good.

    A store belongs to the cluster whose controller deletes from it; others refuse it. Only where
    no node of that cluster reads the store any more.
    """
    from agent.cli.caches import store_maintenance

    store_maintenance.release(store, as_json=as_json)


@app.command("check")
@output.reported
def store_check(
    store: options.Store,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="Compare only the sizes of layer files, do not read them."),
    ] = False,
    repair: Annotated[
        bool,
        typer.Option(
            "--repair",
            help="Write into layer records of earlier versions which repositories the layers came"
            " from, as the images of the store prove it, and complete the index of caches.",
        ),
    ] = False,
    trusted: Annotated[
        pathlib.Path | None,
        typer.Option(
            "--keys",
            help="Verify signatures, too, by the keys in this document, or in those of a folder.",
        ),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Verify every file of a store against its record, and name what is damaged or missing.

    A damaged layer is marked: no node uses it, and the next build of its image makes it again.
    """
    from agent.cli.caches import store_maintenance

    store_maintenance.check(store, quick=quick, repair=repair, keys=trusted, as_json=as_json)


@app.command("keygen")
@output.reported
def store_keygen(
    store: options.Store,
    key: Annotated[
        pathlib.Path,
        typer.Option(help="New file for the private key; keep it away from the store and nodes."),
    ],
    document: Annotated[
        pathlib.Path,
        typer.Option(
            "--keys",
            help="Document for nodes, in the folder of UIMGACC_TRUSTED_KEYS; a key is added to one"
            " that exists.",
        ),
    ],
) -> None:
    """Make a key for the signatures of a store without a cluster.

    In a cluster the controller has made one.
    """
    from agent.cli.caches import store_signing

    store_signing.keygen(store, key=key, keys=document)


@app.command("sign")
@output.reported
def store_sign(
    store: options.Store,
    key: Annotated[
        pathlib.Path | None,
        typer.Option(
            help="File of the private key. By default the key of the controller's Secret, by the"
            " service account of this pod or by a kubeconfig."
        ),
    ] = None,
    kubeconfig: options.Kubeconfig = "",
    system: options.System = keys.NAMESPACE,
    as_json: options.Json = False,
) -> None:
    """Sign all records of a store as they are now: for a store that is older than its key.

    You vouch for what is in it: run `uimgacc store check` before, and do it while few can write.
    """
    from agent.cli import cluster_access
    from agent.cli.caches import store_signing

    target = cluster_access.Target(kubeconfig=kubeconfig, namespace=system)
    store_signing.sign(store, key=key, target=target, as_json=as_json)


@app.command("rotate-key")
@output.reported
def store_rotate_key(
    kubeconfig: options.Kubeconfig = "", system: options.System = keys.NAMESPACE
) -> None:
    """Replace the controller's key by a new one, without a gap.

    The new key is published at once and signs after ten minutes. The controller then signs the
    store again, and ends the former key when that is done.
    """
    from agent.cli import cluster_access
    from agent.cli.caches import store_signing

    store_signing.rotate(cluster_access.Target(kubeconfig=kubeconfig, namespace=system))


@app.command("prune")
@output.reported
def store_prune(
    store: options.Store,
    older_than: Annotated[
        float,
        typer.Option(min=0, help="Keep files that were written in the last so many hours."),
    ] = 24.0,
    as_json: options.Json = False,
) -> None:
    """Remove layers and images that no cache of a store names.

    Only while no node reads the store: in a cluster, the controller does this safely by itself.
    """
    from agent.cli.caches import store_maintenance

    store_maintenance.prune(store, older_than=older_than, as_json=as_json)


@app.command("verity")
@output.reported
def store_verity(store: options.Store, as_json: options.Json = False) -> None:
    """Make the hash trees of layers that an earlier version built, for UIMGACC_VERIFY=always.

    Reads every such layer. One whose bytes are not those of its record is marked as damaged, as by
    `store check`. Nodes may use the store meanwhile.
    """
    from agent.cli.caches import store_maintenance

    store_maintenance.verity(store, as_json=as_json)
