"""Commands about a store without a cluster: store init, check, prune, verity."""

from typing import Annotated

import typer

from agent.cli import options, output

app = typer.Typer(help="Create, verify and clean a store without a cluster.", no_args_is_help=True)


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
            " from, as the images of the store prove it.",
        ),
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Verify every file of a store against its record, and name what is damaged or missing.

    A damaged layer is marked: no node uses it, and the next build of its image makes it again.
    """
    from agent.cli.caches import store_maintenance

    store_maintenance.check(store, quick=quick, repair=repair, as_json=as_json)


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
