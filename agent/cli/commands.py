"""The commands of a person, and what they take; each does its work in a module of its own.

Those modules are imported when their command runs, so that `--help` and tab
completion answer at once.
"""

import pathlib
import sys
from typing import Annotated

import typer

from agent.cli import output
from agent.model import keys

app = typer.Typer(
    name="uimgacc",
    help="Large container images start in a fraction of a pull.",
    epilog="Exit status: 0 done, 1 failed or found something wrong, 2 wrong use, 3 not found.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
store = typer.Typer(help="Make, verify and tidy a store.", no_args_is_help=True)
app.add_typer(store, name="store")

Store = Annotated[
    pathlib.Path,
    typer.Option(envvar="UIMGACC_STORE", help="The folder of the store.", show_default=False),
]
MaybeStore = Annotated[
    pathlib.Path | None,
    typer.Option(envvar="UIMGACC_STORE", help="A store's folder, instead of a cluster."),
]
Kubeconfig = Annotated[
    str, typer.Option(help="How to reach the cluster; as kubectl does by default.")
]
System = Annotated[
    str,
    typer.Option("--system-namespace", envvar="UIMGACC_NAMESPACE", help="Of the installation."),
]
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Follow it to its end.")]
Overlay = Annotated[
    str, typer.Option(help="runtimeclass, or default-snapshotter: every pod through us.")
]
Component = Annotated[
    list[str] | None, typer.Option(help="A folder of manifests/components; repeatable.")
]
Seconds = Annotated[float, typer.Option("--timeout", min=1, help="Seconds to wait for nodes.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Platform = Annotated[
    str, typer.Option(help="The node's platform, like linux/arm64; this machine's by default.")
]


def run() -> None:
    """Parse `sys.argv` and run the command that it names."""
    app()


@app.command()
@output.reported
def create(
    context: typer.Context,
    name: Annotated[
        str, typer.Argument(help="The name of the cache; or the original image, with TARGET.")
    ] = "",
    target: Annotated[
        str,
        typer.Argument(help="Another name for the original image, pushed as soon as it is built."),
    ] = "",
    store: MaybeStore = None,
    kubeconfig: Kubeconfig = "",
    system: System = keys.NAMESPACE,
    wait: Wait = True,
    image: Annotated[
        list[str] | None, typer.Option("--image", "-i", help="An image to hold; repeatable.")
    ] = None,
    file: Annotated[
        str,
        typer.Option("--file", "-f", help="ImageCache manifests of any dialect; - for stdin."),
    ] = "",
    size: Annotated[
        int | None, typer.Option(min=1, help="Limit of what it may take, in GiB.  [default: 20]")
    ] = None,
    secret: Annotated[
        list[pathlib.Path] | None,
        typer.Option(help="A docker config JSON with credentials; repeatable."),
    ] = None,
    namespace: Annotated[
        list[str] | None,
        typer.Option(
            help="A namespace whose pods may use it, * for all; repeatable. Without one: those of"
            " the pull secrets, with --secret only `default`; all without any."
        ),
    ] = None,
    pull_secret: Annotated[
        list[str] | None,
        typer.Option(help="NAMESPACE/NAME of a cluster's Secret with credentials; repeatable."),
    ] = None,
    plain_http: Annotated[
        list[str] | None,
        typer.Option(help="A registry (host:port) that is spoken to without TLS; repeatable."),
    ] = None,
    insecure: Annotated[
        list[str] | None,
        typer.Option(help="A registry whose certificate is not verified; repeatable."),
    ] = None,
    ca: Annotated[
        pathlib.Path | None, typer.Option(help="More certificate authorities, a PEM file.")
    ] = None,
    plugin_config: Annotated[
        pathlib.Path | None,
        typer.Option(
            "--image-credential-provider-config",
            help="The kubelet's file of credential plug-ins, to be asked here as well.",
        ),
    ] = None,
    plugin_folder: Annotated[
        pathlib.Path | None,
        typer.Option(
            "--image-credential-provider-bin-dir",
            help="Where the plug-ins are; beside that file by default.",
        ),
    ] = None,
    acr_instance: Annotated[
        list[str] | None,
        typer.Option(help="[REGION:]cri-... of Alibaba's Container Registry; repeatable."),
    ] = None,
    platform: Annotated[
        list[str] | None,
        typer.Option(help="A platform to build for; repeatable. This machine's by default."),
    ] = None,
    retention_days: Annotated[
        int | None, typer.Option(min=1, max=65536, help="Days to keep it; for ever by default.")
    ] = None,
    parallel: Annotated[int, typer.Option(min=1, max=32, help="Layers worked on at a time.")] = 3,
    mkfs: Annotated[
        str, typer.Option(envvar="UIMGACC_MKFS", help="The mkfs.erofs to use.")
    ] = "mkfs.erofs",
    as_json: Json = False,
) -> None:
    """Build an image cache, with progress: on a cluster, or into a --store (made on first use).

    uimgacc create tools --image registry.example.com/team/tools:1
    """
    from agent.cli.caches import create_command, create_flags

    if store is not None and target:
        raise output.UsageError("a TARGET is pushed by a cluster's controller, not to a --store")
    where = "a store" if store is not None else "a cluster"
    how = "TARGET" if target else "--file" if file else ""
    create_flags.refuse(context, where=where, how=how)
    wanted = create_command.Wanted(
        name=name,
        images=tuple(image or ()),
        file=file,
        size_gib=size,
        secrets=tuple(secret or ()),
        namespaces=tuple(namespace or ()),
        pull_secrets=tuple(pull_secret or ()),
        plain_http=frozenset(plain_http or ()),
        insecure=frozenset(insecure or ()),
        ca=ca,
        plugin_config=plugin_config,
        plugin_folder=plugin_folder,
        acr_instances=tuple(acr_instance or ()),
        platforms=tuple(platform or ()),
        retention_days=retention_days,
        parallel=parallel,
        mkfs=mkfs,
    )
    if store is not None:
        create_command.create(store, wanted, as_json=as_json)
        return
    from agent.cli import cluster_access
    from agent.cli.caches import cluster_caches

    cluster = cluster_access.Target(kubeconfig=kubeconfig, namespace=system)
    if target:
        cluster_caches.create_alias(cluster, target, wanted, wait=wait, as_json=as_json)
    else:
        cluster_caches.create(cluster, wanted, wait=wait, as_json=as_json)


@app.command()
@output.reported
def get(
    name: Annotated[str, typer.Argument(help="A cache's name or ID; all without one.")] = "",
    store: MaybeStore = None,
    kubeconfig: Kubeconfig = "",
    system: System = keys.NAMESPACE,
    as_json: Json = False,
) -> None:
    """Show the caches of a cluster or of a --store, or one with its images."""
    if store is None:
        from agent.cli import cluster_access
        from agent.cli.caches import cluster_caches

        cluster = cluster_access.Target(kubeconfig=kubeconfig, namespace=system)
        if name:
            cluster_caches.show_one(cluster, name, as_json=as_json)
        else:
            cluster_caches.show_all(cluster, as_json=as_json)
        return
    from agent.cli.caches import store_caches

    if name:
        store_caches.show_one(store, name, as_json=as_json)
    else:
        store_caches.show_all(store, as_json=as_json)


@app.command()
@output.reported
def delete(
    name: Annotated[str, typer.Argument(help="A cache's name or ID, or an original image.")],
    store: MaybeStore = None,
    kubeconfig: Kubeconfig = "",
    system: System = keys.NAMESPACE,
    wait: Wait = True,
    as_json: Json = False,
) -> None:
    """Delete a cache; its layers go when nobody reads them (of a --store: `store prune`)."""
    if store is None:
        from agent.cli import cluster_access
        from agent.cli.caches import cluster_caches

        cluster = cluster_access.Target(kubeconfig=kubeconfig, namespace=system)
        cluster_caches.delete(cluster, name, wait=wait, as_json=as_json)
        return
    from agent.cli.caches import store_caches

    store_caches.delete(store, name, as_json=as_json)


@app.command()
@output.reported
def enable(
    nfs: Annotated[
        str,
        typer.Option(
            envvar="UIMGACC_NFS",
            help="The store, as SERVER:/PATH; --component claim is for others.",
            show_default=False,
        ),
    ] = "",
    image: Annotated[str, typer.Option(help="Our image, where your nodes find it.")] = "",
    overlay: Overlay = "runtimeclass",
    component: Component = None,
    username: Annotated[str, typer.Option(help="Of a user of UHub who may push.")] = "",
    password_stdin: Annotated[
        bool, typer.Option("--password-stdin", help="Read that user's password from stdin.")
    ] = False,
    kubeconfig: Kubeconfig = "",
    wait: Wait = True,
    seconds: Seconds = 600,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only print what would be applied.")
    ] = False,
) -> None:
    """Install or update the acceleration of a cluster, and switch it on.

    uimgacc enable --nfs 10.0.0.5:/uimgacc --image registry.example.com/uimgacc:0.1.0
    """
    from agent.cli import cluster_access
    from agent.cli.install import installation

    if bool(username) is not password_stdin:
        raise output.UsageError("--username and --password-stdin go together")
    wanted = installation.Wanted(
        nfs=nfs,
        overlay=overlay,
        components=tuple(component or ()),
        image=image,
        username=username,
        password=sys.stdin.readline().rstrip("\n") if password_stdin else "",
    )
    cluster = cluster_access.Target(kubeconfig=kubeconfig)
    installation.enable(cluster, wanted, wait=wait, dry_run=dry_run, seconds=seconds)


@app.command()
@output.reported
def disable(
    uninstall: Annotated[
        bool,
        typer.Option("--uninstall", help="Also leave every node as it was. Caches stay."),
    ] = False,
    overlay: Overlay = "runtimeclass",
    component: Component = None,
    image: Annotated[
        str, typer.Option(help="Our image, for --uninstall; else the one that the agents have.")
    ] = "",
    kubeconfig: Kubeconfig = "",
    wait: Wait = True,
    seconds: Seconds = 600,
) -> None:
    """Switch the acceleration of a cluster off: no label, no pod accelerated, nothing held.

    Running pods notice nothing.
    """
    from agent.cli import cluster_access
    from agent.cli.install import installation

    cluster = cluster_access.Target(kubeconfig=kubeconfig)
    gone = None
    if uninstall:
        parts = tuple(component or ())
        # The address is not in what is taken away.
        nfs = "" if installation.CLAIM in parts else "none:/"
        gone = installation.Wanted(nfs=nfs, overlay=overlay, components=parts, image=image)
    installation.disable(cluster, gone, wait=wait, seconds=seconds)


@app.command()
@output.reported
def match(
    store: Store,
    file: Annotated[str, typer.Argument(help="Pods, Deployments, Jobs, ... as YAML; - for stdin.")],
    platform: Platform = "",
    as_json: Json = False,
) -> None:
    """Say which cache serves the pods of a manifest, and why."""
    from agent.cli.pods import match_command

    match_command.match(store, file, platform=platform, as_json=as_json)


@app.command("node-setup")
@output.reported
def node_setup(
    config: Annotated[
        str,
        typer.Option(
            envvar="UIMGACC_CONTAINERD_CONFIG",
            help="containerd's main file; found by itself, also that of k3s and RKE2.",
        ),
    ] = "",
    undo: Annotated[bool, typer.Option("--undo", help="Put everything back as it was.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show the difference.")] = False,
    restart: Annotated[
        bool, typer.Option("--restart", help="Restart containerd if anything changed.")
    ] = False,
    restart_command: Annotated[
        str, typer.Option(help="How to restart it, instead of systemctl; implies --restart.")
    ] = "",
    default_snapshotter: Annotated[
        bool,
        typer.Option("--default-snapshotter", help="All pods through it, not only our handlers'."),
    ] = False,
    former_handler: Annotated[
        bool,
        typer.Option(
            "--former-handler",
            help="Keep the handler without-uimgacc, which --default-snapshotter makes: for the way"
            " back from it.",
        ),
    ] = False,
    address: Annotated[
        str, typer.Option(envvar="UIMGACC_ADDRESS", help="The snapshotter's socket.")
    ] = "/run/uimgacc/snapshotter.sock",
    root: Annotated[
        str,
        typer.Option(
            envvar="UIMGACC_ROOT",
            help="The snapshotter's root; by default the folder containerd would name.",
        ),
    ] = "",
    containerd_binary: Annotated[
        str,
        typer.Option(
            envvar="UIMGACC_CONTAINERD_BINARY",
            help="The containerd program to ask, if not on PATH.",
        ),
    ] = "",
    containerd_version: Annotated[
        str, typer.Option(help="Its version, like 2.1, where it cannot be asked.")
    ] = "",
    host_root: Annotated[
        pathlib.Path, typer.Option(help="Where the node's file system is to be seen.")
    ] = pathlib.Path("/"),
    share: Annotated[
        list[str] | None,
        typer.Option(
            help="A folder to put on a shared mount if it is on none, for a container's mounts"
            " there to be seen; repeatable."
        ),
    ] = None,
    leave: Annotated[
        bool,
        typer.Option(
            "--leave",
            help="With --undo: first take our snapshotter's images out of containerd; refused"
            " while containers use it.",
        ),
    ] = False,
    clear: Annotated[
        bool,
        typer.Option(
            "--clear",
            help="With --undo: last of all unmount our mounts and remove our files; fails, and"
            " says who uses them, where some are in use.",
        ),
    ] = False,
    store: Annotated[
        str, typer.Option(envvar="UIMGACC_STORE", help="For --clear: where the store appears.")
    ] = "/var/lib/uimgacc/store",
    state: Annotated[
        str, typer.Option(envvar="UIMGACC_STATE", help="For --clear: the agent's state.")
    ] = "/var/lib/uimgacc/agent",
    keep: Annotated[
        str,
        typer.Option(
            metavar="FILE",
            help="Then stay, and set up again when another tool has changed containerd's"
            " configuration. FILE is made when the first set-up is done.",
        ),
    ] = "",
    every: Annotated[
        float,
        typer.Option(
            min=0.05,
            envvar=["UIMGACC_RECHECK_SECONDS", "UIMGACC_KEEP_SECONDS"],
            help="For --keep: seconds from one look at the files to the next.",
        ),
    ] = 10.0,
    again: Annotated[bool, typer.Option("--again", hidden=True)] = False,
    as_json: Json = False,
) -> None:
    """Plug the snapshotter into containerd: a twin for every runtime handler.

    Safe to repeat; changes nothing else; --undo gives back the same bytes.
    """
    from agent.cli.machine import node_setup_command

    node_setup_command.node_setup(
        node_setup_command.Wanted(
            config=config,
            undo=undo,
            dry_run=dry_run,
            restart=restart or bool(restart_command),
            restart_command=restart_command,
            default_snapshotter=default_snapshotter,
            former_handler=former_handler,
            address=address,
            root=root,
            containerd_binary=containerd_binary,
            containerd_version=containerd_version,
            host_root=host_root,
            share=tuple(share or ()),
            leave=leave,
            clear=clear,
            store=store,
            state=state,
            keep=keep,
            every=every,
            again=again,
        ),
        as_json=as_json,
    )


@app.command()
@output.reported
def doctor(
    store: Annotated[
        pathlib.Path | None, typer.Option(envvar="UIMGACC_STORE", help="The folder of the store.")
    ] = None,
    config: Annotated[
        str, typer.Option(envvar="UIMGACC_CONTAINERD_CONFIG", help="containerd's main file.")
    ] = "",
    containerd: Annotated[
        str, typer.Option(envvar="UIMGACC_CONTAINERD", help="containerd's socket.")
    ] = "",
    containerd_binary: Annotated[str, typer.Option(help="The containerd program to ask.")] = "",
    address: Annotated[
        str, typer.Option(envvar="UIMGACC_ADDRESS", help="The snapshotter's socket.")
    ] = "/run/uimgacc/snapshotter.sock",
    root: Annotated[str, typer.Option(envvar="UIMGACC_ROOT", help="The snapshotter's root.")] = "",
    mkfs: Annotated[
        str, typer.Option(envvar="UIMGACC_MKFS", help="The mkfs.erofs to look at.")
    ] = "mkfs.erofs",
    deadline: Annotated[
        float, typer.Option(min=0.1, help="Seconds that the store may take to answer.")
    ] = 5.0,
    as_json: Json = False,
) -> None:
    """Check this machine and say the fix for whatever is wrong."""
    from agent.cli.machine import doctor_command
    from agent.setup.doctor import examination

    patient = examination.Patient(
        store=store,
        config=config,
        containerd=containerd,
        containerd_binary=containerd_binary,
        address=address,
        root=root,
        mkfs=mkfs,
        deadline=deadline,
    )
    doctor_command.diagnose(patient, as_json=as_json)


@store.command("init")
@output.reported
def store_init(
    store: Store,
    compression: Annotated[
        str, typer.Option(help="Of all its layers: lz4, or none for containerd 2.4's own cache.")
    ] = "lz4",
    as_json: Json = False,
) -> None:
    """Make an empty folder a store."""
    from agent.cli.caches import store_command

    store_command.init(store, compression=compression, as_json=as_json)


@store.command("check")
@output.reported
def store_check(
    store: Store,
    quick: Annotated[
        bool, typer.Option("--quick", help="Do not read the layer files, only their sizes.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Verify every file of a store against its record."""
    from agent.cli.caches import store_command

    store_command.check(store, quick=quick, as_json=as_json)


@store.command("prune")
@output.reported
def store_prune(
    store: Store,
    older_than: Annotated[
        float, typer.Option(min=0, help="Hours that a file must have been left alone.")
    ] = 24.0,
    as_json: Json = False,
) -> None:
    """Free what no cache names; only while no node reads the store."""
    from agent.cli.caches import store_command

    store_command.prune(store, older_than=older_than, as_json=as_json)


@app.command()
@output.reported
def version(as_json: Json = False) -> None:
    """Say which version this is."""
    from importlib import metadata

    found = metadata.version("uimgacc")
    if as_json:
        output.show_json({"version": found})
    else:
        print(f"uimgacc {found}")


# Only for --help: agent.cli.entry starts these before typer is loaded.
@app.command(add_help_option=False)
def snapshotter() -> None:
    """Run the snapshotter that containerd talks to (a daemon)."""


@app.command(add_help_option=False)
def agent() -> None:
    """Run the node agent: match pods, mount ahead of the pull (a daemon)."""
