"""Commands about start profiles: profile show, record, forget."""

import pathlib
from typing import Annotated

import typer

from agent.cli import options, output

app = typer.Typer(help="What is read when images start.", no_args_is_help=True)

Image = Annotated[str, typer.Argument(metavar="IMAGE", help="Image as pods name it.")]
NodeRoot = Annotated[
    pathlib.Path | None,
    typer.Option(
        "--root",
        envvar="UIMGACC_ROOT",
        help="Local folder of the snapshotter of this machine, for the profiles that it has made.",
    ),
]
Store = Annotated[
    pathlib.Path | None,
    typer.Option(envvar="UIMGACC_STORE", help="Folder of the store.", show_default=False),
]


@app.command("show")
@output.reported
def profile_show(
    image: Annotated[str, typer.Argument(metavar="[IMAGE]", help="By default all of them.")] = "",
    store: Store = None,
    root: NodeRoot = None,
    as_json: options.Json = False,
) -> None:
    """Show which parts of an image's layers its start reads, as nodes have observed it."""
    from agent.cli.machine import profile_actions

    profile_actions.show(image, store=store, root=root, as_json=as_json)


@app.command("record")
@output.reported
def profile_record(
    image: Image,
    store: options.Store,
    root: NodeRoot = None,
    as_json: options.Json = False,
) -> None:
    """Make a profile of what of an image's layers is in this machine's memory now.

    Start the image on a machine that has not used it since it was booted, and do this when it is
    ready. Without --root the profile goes into the store, which must then be writable.
    """
    from agent.cli.machine import profile_actions

    profile_actions.record(image, store=store, root=root, as_json=as_json)


@app.command("forget")
@output.reported
def profile_forget(
    image: Image, store: Store = None, root: NodeRoot = None, as_json: options.Json = False
) -> None:
    """Remove an image's profile from a store or a machine: its next first start is observed."""
    from agent.cli.machine import profile_actions

    profile_actions.forget(image, store=store, root=root, as_json=as_json)
