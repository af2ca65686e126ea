"""Commands about one machine: doctor, node-setup."""

import pathlib
from typing import Annotated

import typer

from agent.cli import options, output
from agent.model import keys

app = typer.Typer()


@app.command("node-setup")
@output.reported
def node_setup(
    config: options.ContainerdConfig = "",
    undo: Annotated[
        bool, typer.Option("--undo", help="Restore containerd's configuration as it was before.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show what would change in the files.")
    ] = False,
    restart: Annotated[
        bool,
        typer.Option(
            "--restart",
            help="Restart containerd if anything changed. Running containers are not affected.",
        ),
    ] = False,
    restart_command: Annotated[
        str,
        typer.Option(help="Command that restarts it, in place of systemctl; implies --restart."),
    ] = "",
    default_snapshotter: Annotated[
        bool,
        typer.Option(
            "--default-snapshotter",
            help="Make uimgacc containerd's default snapshotter: all pods use it, not only those"
            " of its runtime handlers.",
        ),
    ] = False,
    native: Annotated[
        bool,
        typer.Option(
            "--native",
            envvar="UIMGACC_NATIVE",
            help="Have the EROFS snapshotter of containerd 2.4 serve images in place of uimgacc's;"
            " the agent needs UIMGACC_NATIVE as well.",
        ),
    ] = False,
    native_folder: Annotated[
        str,
        typer.Option(
            envvar="UIMGACC_NATIVE_FOLDER",
            help="For --native: folder of the agent's links to layers.",
        ),
    ] = str(keys.NATIVE_FOLDER),
    former_handler: Annotated[
        bool,
        typer.Option(
            "--former-handler",
            help="Keep the runtime handler `without-uimgacc` that --default-snapshotter has added,"
            " on the way back from it.",
        ),
    ] = False,
    address: options.Address = options.SOCKET,
    root: options.Root = "",
    containerd_binary: options.ContainerdBinary = "",
    containerd_version: Annotated[
        str, typer.Option(help="containerd's release, as 2.1, in place of what it reports.")
    ] = "",
    host_root: Annotated[
        pathlib.Path,
        typer.Option(help="In a container: folder where the node's file system is mounted."),
    ] = pathlib.Path("/"),
    share: Annotated[
        list[str] | None,
        typer.Option(
            help="Folder of the node in which mounts of a container must be visible on the node:"
            " it is put on a shared mount if it is on none. Repeatable."
        ),
    ] = None,
    leave: Annotated[
        bool,
        typer.Option(
            "--leave",
            help="With --undo: first remove the images of uimgacc's snapshotter from containerd;"
            " refused while containers use them.",
        ),
    ] = False,
    clear: Annotated[
        bool,
        typer.Option(
            "--clear",
            help="With --undo: at the end unmount uimgacc's mounts and remove its files; where some"
            " are in use it fails and names the pods that use them.",
        ),
    ] = False,
    store: Annotated[
        str, typer.Option(envvar="UIMGACC_STORE", help="For --clear: folder of the store's mount.")
    ] = "/var/lib/uimgacc/store",
    state: Annotated[
        str, typer.Option(envvar="UIMGACC_STATE", help="For --clear: folder of the agent's state.")
    ] = "/var/lib/uimgacc/agent",
    keep: Annotated[
        str,
        typer.Option(
            metavar="FILE",
            help="Go on running, and set the node up again when another tool has changed"
            " containerd's configuration. FILE is created once the first set-up is done.",
        ),
    ] = "",
    every: Annotated[
        float,
        typer.Option(
            min=0.05,
            envvar=["UIMGACC_RECHECK_SECONDS", "UIMGACC_KEEP_SECONDS"],
            help="For --keep: seconds between two looks at the files.",
        ),
    ] = 10.0,
    node: Annotated[
        str,
        typer.Option(
            metavar="NODE",
            help="Name of this machine in its cluster: containerd is changed and restarted only"
            " while this node holds one of the cluster's slots, so that few nodes do it at once.",
        ),
    ] = "",
    slots: Annotated[
        str,
        typer.Option(
            envvar="UIMGACC_SETUP_SLOTS",
            help="For --node: how many nodes may do it at once: a number, or a percentage of the"
            " nodes, at least one. 0: none.",
        ),
    ] = "5%",
    slot_seconds: Annotated[
        float,
        typer.Option(
            min=1,
            envvar="UIMGACC_SETUP_SLOT_SECONDS",
            help="For --node: after which a node that is not back counts as lost. It keeps its"
            " slot.",
        ),
    ] = 300.0,
    new_node_seconds: Annotated[
        float,
        typer.Option(
            min=0,
            envvar="UIMGACC_SETUP_NEW_SECONDS",
            help="For --node: a node that has joined so recently needs no slot, unless it is of"
            " the control plane.",
        ),
    ] = 600.0,
    agent_address: Annotated[
        str,
        typer.Option(
            envvar="UIMGACC_LISTEN",
            help="For --node: HOST:PORT of the agent, which must be ready again.",
        ),
    ] = "",
    system: options.System = keys.NAMESPACE,
    daemon_set: Annotated[
        str, typer.Option(help="For --node: DaemonSet whose nodes are counted.")
    ] = keys.AGENTS,
    kubeconfig: options.Kubeconfig = "",
    again: Annotated[bool, typer.Option("--again", hidden=True)] = False,
    as_json: options.Json = False,
) -> None:
    """Configure containerd of this node to use uimgacc.

    Adds a runtime handler with the snapshotter of uimgacc for each one that the node has: `uimgacc`
    for the default one, `uimgacc-nvidia` for `nvidia`. Nothing else changes; repeat it at any time.
    --undo restores the files byte for byte. In a cluster the manifests run this on every node.
    """
    from agent.cli.machine import node_setup_command
    from agent.setup.slots import turns

    slot = turns.Settings(
        node=node,
        slots=slots,
        slot_seconds=slot_seconds,
        young_seconds=new_node_seconds,
        agent_address="" if undo else agent_address,
        namespace=system,
        daemon_set=daemon_set,
    )
    node_setup_command.node_setup(
        node_setup_command.Wanted(
            config=config,
            undo=undo,
            dry_run=dry_run,
            restart=restart or bool(restart_command),
            restart_command=restart_command,
            default_snapshotter=default_snapshotter,
            native=native,
            native_folder=native_folder,
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
            slot=slot if node else None,
            kubeconfig=kubeconfig,
        ),
        as_json=as_json,
    )


@app.command()
@output.reported
def doctor(
    store: Annotated[
        pathlib.Path | None,
        typer.Option(envvar="UIMGACC_STORE", help="Folder of the store; it is checked, too."),
    ] = None,
    config: options.ContainerdConfig = "",
    containerd: Annotated[
        str,
        typer.Option(
            envvar="UIMGACC_CONTAINERD",
            help="containerd's socket; by default the one that its configuration names.",
        ),
    ] = "",
    containerd_binary: options.ContainerdBinary = "",
    address: options.Address = options.SOCKET,
    root: options.Root = "",
    mkfs: options.Mkfs = options.MKFS,
    verify: Annotated[
        str,
        typer.Option(
            envvar="UIMGACC_VERIFY",
            help="Setting of this machine's snapshotter: with `always`, dm-verity is checked, too.",
        ),
    ] = "off",
    selinux_context: Annotated[
        str,
        typer.Option(
            envvar="UIMGACC_SELINUX_CONTEXT",
            help="Setting of this machine's snapshotter: the label that layers are mounted with.",
        ),
    ] = "auto",
    trusted_keys: Annotated[
        pathlib.Path | None,
        typer.Option(
            envvar="UIMGACC_TRUSTED_KEYS",
            help="Keys of this machine's snapshotter and agent: caches must be signed by one.",
        ),
    ] = None,
    native: Annotated[
        bool,
        typer.Option(
            "--native",
            envvar="UIMGACC_NATIVE",
            help="Setting of this machine's agent: containerd's own snapshotter serves images.",
        ),
    ] = False,
    native_folder: Annotated[
        str, typer.Option(envvar="UIMGACC_NATIVE_FOLDER", help="The same: folder of its links.")
    ] = str(keys.NATIVE_FOLDER),
    deadline: Annotated[
        float, typer.Option(min=0.1, help="Seconds that the store may take for one answer.")
    ] = 5.0,
    as_json: options.Json = False,
) -> None:
    """Check this machine and name the fix of each problem.

    Looks at kernel, containerd, snapshotter and store; changes nothing. Checks the release of
    the cluster as well, where there is a kubeconfig.
    """
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
        verify=verify == "always",
        selinux_context=selinux_context,
        trusted_keys=trusted_keys,
        native=native_folder if native else "",
        deadline=deadline,
    )
    doctor_command.diagnose(patient, as_json=as_json)
