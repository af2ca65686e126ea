"""`uimgacc node-setup`: containerd's configuration, and its restart."""

import asyncio
import dataclasses
import os
import pathlib
import shlex
from collections.abc import Sequence

from agent.cli import output
from agent.clients import containerd as clients
from agent.model import images
from agent.mounts import copies
from agent.node import chains, inventory, leaving
from agent.setup import config, containerd, host, modules, node, planning, restarting, sharing


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What the command line says; empty where it says nothing."""

    config: str
    undo: bool
    dry_run: bool
    restart: bool
    restart_command: str
    default_snapshotter: bool
    address: str
    root: str
    containerd_binary: str
    containerd_version: str
    host_root: pathlib.Path
    share: tuple[str, ...] = ()
    leave: str = ""
    unmount: tuple[str, ...] = ()


def node_setup(wanted: Wanted, *, as_json: bool) -> None:
    """Set up, or undo; restart containerd where that is asked for and needed."""
    _check(wanted)
    machine = host.Host(wanted.host_root.absolute())
    main = node.main_of(config.Path(wanted.config) if wanted.config else node.find_config(machine))
    _ready(machine, wanted)
    if wanted.leave and not wanted.dry_run:
        for name in asyncio.run(_left(wanted.leave)):
            output.say(f"note: removed the image {name}")
    if wanted.restart and not wanted.dry_run:
        outcome, restarted = _with_restart(machine, main, wanted)
    else:
        outcome, restarted = _changed(machine, main, wanted), False
    for found in leaving.unmount(() if wanted.dry_run else wanted.unmount):
        output.say(f"warning: {found}")
    if machine.enter:
        # Whatever runs in this container later, the node's mounts are not held by it.
        copies.detach_below(str(machine.root))
    if as_json:
        output.show_json(
            {
                "config": str(main),
                "changed": outcome.changed,
                "dryRun": wanted.dry_run,
                "files": [str(path) for path in outcome.changes],
                "handlers": dict(outcome.twins),
                "notes": list(outcome.notes),
                "warnings": list(outcome.warnings),
                "restarted": restarted,
            }
        )
    else:
        _show(wanted, main, outcome, restarted=restarted)


def _check(wanted: Wanted) -> None:
    paths = [(name, getattr(wanted, name)) for name in ("config", "address", "root")]
    for name, value in [*paths, *(("share", folder) for folder in wanted.share)]:
        if value and not value.startswith("/"):
            raise output.UsageError(f"--{name} {value}: give an absolute path")
    if (wanted.leave or wanted.unmount) and not wanted.undo:
        raise output.UsageError("--leave and --unmount go with --undo")


def _ready(machine: host.Host, wanted: Wanted) -> None:
    """What the pod of the node needs besides containerd: modules, and shared mounts."""
    if wanted.dry_run or wanted.undo:
        return
    modules.load(machine)
    folders = [config.Path(folder) for folder in wanted.share]
    for folder in sharing.share(folders, in_container=bool(machine.enter)):
        output.say(f"note: {folder} is on a shared mount now")


async def _left(address: str) -> Sequence[str]:
    async with clients.Client(address) as client:
        stock = inventory.Inventory(client, images.platform_of_machine(os.uname().machine))
        known = chains.Chains(client, snapshotter=planning.SNAPSHOTTER)
        return await leaving.leave(client, stock, known)


def _changed(machine: host.Host, main: config.Path, wanted: Wanted) -> node.Outcome:
    if wanted.undo:
        return node.undo(machine, main, dry_run=wanted.dry_run)
    asked = planning.Wanted(
        address=wanted.address,
        root=wanted.root,
        default_snapshotter=wanted.default_snapshotter,
    )
    target = _target(machine, main, wanted)
    return node.set_up(machine, target, asked, dry_run=wanted.dry_run)


def _with_restart(
    machine: host.Host, main: config.Path, wanted: Wanted
) -> tuple[node.Outcome, bool]:
    due = restarting.Due(machine)
    with due.noted():
        outcome = _changed(machine, main, wanted)
    needed = outcome.changed or due.already
    if needed:
        own = shlex.split(wanted.restart_command)
        restarting.restart(own or restarting.command_for(machine, main))
    due.clear()
    return outcome, needed


def _target(machine: host.Host, main: config.Path, wanted: Wanted) -> node.Target:
    if wanted.containerd_version:
        release = containerd.parse_release(wanted.containerd_version)
        return node.Target(main, release, wanted.containerd_binary or None)
    binary = wanted.containerd_binary or node.find_binary(main)
    try:
        release = containerd.release_of(binary, enter=machine.enter)
        return node.Target(main, release, binary)
    except containerd.ContainerdError as error:
        raise output.UsageError(
            f"containerd's version is not known ({error});"
            " give --containerd-binary PROGRAM or --containerd-version 2.1"
        ) from error


def _show(wanted: Wanted, main: config.Path, outcome: node.Outcome, *, restarted: bool) -> None:
    for warning in outcome.warnings:
        output.say(f"warning: {warning}")
    for note in outcome.notes:
        output.say(f"note: {note}")
    if wanted.dry_run:
        print(outcome.diff(), end="")
        return
    if not outcome.changed and not restarted:
        what = "has nothing of ours" if wanted.undo else "is set up already"
        print(f"{main} {what}; nothing changed")
        return
    for path, (_, after) in outcome.changes.items():
        print(f"{'removed' if after is None else 'wrote'} {path}")
    if outcome.twins:
        made = output.table("HANDLER", "LIKE")
        for twin, copied in outcome.twins.items():
            made.add_row(twin, copied)
        output.console().print(made)
    if restarted:
        print("containerd is restarted; running containers went on")
    else:
        print("restart containerd for it to take effect (running containers go on)")
