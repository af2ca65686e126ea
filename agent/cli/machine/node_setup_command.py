"""`uimgacc node-setup`: containerd's configuration, and its restart."""

import asyncio
import contextlib
import dataclasses
import os
import pathlib
import shlex
import time
from collections.abc import Mapping

from agent import errors
from agent.cli import cluster_access, output
from agent.clients.containerd import rpc as clients
from agent.model import images, keys, reports
from agent.mounts import host_copies
from agent.node.images import containerd_images, image_removal
from agent.setup.config import containerd_binary, inputs, places, settings_view
from agent.setup.node import (
    apply,
    config_reader,
    containerd_restart,
    erofs_tools,
    host,
    image_refs,
    kernel_modules,
    shared_mounts,
    uninstall,
    upkeep,
    user_namespaces,
)
from agent.setup.slots import slot_rules, turns


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What the command line says; empty where it says nothing."""

    host_root: pathlib.Path
    config: str = ""
    undo: bool = False
    dry_run: bool = False
    restart: bool = False
    restart_command: str = ""
    default_snapshotter: bool = False
    native: bool = False
    native_folder: str = str(keys.NATIVE_FOLDER)
    address: str = ""
    root: str = ""
    containerd_binary: str = ""
    containerd_version: str = ""
    former_handler: bool = False
    share: tuple[str, ...] = ()
    leave: bool = False
    clear: bool = False
    store: str = ""
    state: str = ""
    keep: str = ""
    every: float = 10.0
    again: bool = False
    slot: turns.Settings | None = None
    kubeconfig: str = ""


class NotBackError(errors.TemporaryError):
    """The node is not as it was some time after containerd was restarted."""

    def __init__(self, problem: str) -> None:
        super().__init__(f"containerd was restarted, and {reports.SETUP_KEEPS}: {problem}")


class DefaultError(errors.TemporaryError):
    """uimgacc is containerd's default snapshotter, and containers run on it."""

    def __init__(self, in_use: image_removal.InUseError) -> None:
        super().__init__(
            "all containers of this node run on uimgacc as containerd's default snapshotter: go"
            f" back from that first, see docs/install/uninstall.md; {in_use}"
        )


def node_setup(wanted: Wanted, *, as_json: bool) -> None:
    """Set up, or undo; restart containerd where that is asked for and needed."""
    _check(wanted)
    machine = host.Host(wanted.host_root.absolute())
    config = settings_view.Path(wanted.config) if wanted.config else places.find_config(machine)
    main = places.main_of(config)
    turn = _turn(machine, main, wanted)
    rest = None
    if not wanted.again:
        rest = _once(machine, main, wanted, turn, as_json=as_json)
    if wanted.keep:
        _stay(machine, main, wanted, turn, rest, as_json=as_json)


def _turn(machine: host.Host, main: settings_view.Path, wanted: Wanted) -> turns.Turn:
    """What the restart of containerd waits for: in a cluster, for a slot."""
    if wanted.slot is None or wanted.dry_run or not wanted.restart:
        return turns.Alone()
    # 30 MB that a machine without a cluster does not need.
    from agent.clients.kube import rest_client  # noqa: PLC0415
    from agent.setup.slots import slot_turn  # noqa: PLC0415

    credentials = cluster_access.Target(kubeconfig=wanted.kubeconfig).credentials()

    def connect() -> rest_client.Client:
        return rest_client.Client(credentials, deadline=30.0, user_agent="uimgacc-node-setup")

    return slot_turn.SlotTurn(machine, main, wanted.slot, connect)


def _once(
    machine: host.Host,
    main: settings_view.Path,
    wanted: Wanted,
    turn: turns.Turn,
    *,
    as_json: bool,
) -> upkeep.Rest | None:
    """Set up or undo; returns how long to wait where it is not this node's turn yet."""
    has_waited = upkeep.waits(machine) and not wanted.undo
    if wanted.keep and not has_waited:
        pathlib.Path(wanted.keep).unlink(missing_ok=True)
    # Only where that is needed: what others have in these files may be in no order.
    here = places.of(machine, main) if wanted.leave or wanted.clear else None
    root = _begun(machine, wanted, here, has_waited=has_waited)
    _ready(machine, wanted)
    pods = _leave(machine, here) if wanted.leave and here and not wanted.dry_run else {}
    rest = None
    try:
        outcome, restarted = _in_turn(machine, main, wanted, turn)
    except turns.NotYet as error:
        output.say(f"note: {error}")
        outcome, restarted = apply.Outcome(changes={}), False
        rest = upkeep.wait_for_turn(machine, error.delay or 0.0, is_first=True)
    if machine.enter:
        # Whatever runs in this container later, the node's mounts are not held by it.
        but = [str(machine.root / path.relative_to("/")) for path in _needed(machine, main, wanted)]
        host_copies.detach_below(str(machine.root), but=but)
    if not wanted.keep and wanted.slot and (problem := turn.settle(wanted.slot.slot_seconds)):
        raise NotBackError(problem)
    if root:
        store, state = settings_view.Path(wanted.store), settings_view.Path(wanted.state)
        links = settings_view.Path(wanted.native_folder)
        uninstall.clear(machine, uninstall.Places(root, store, state, links), pods)
        uninstall.forget_root(machine)
    if rest is None:
        if has_waited:
            upkeep.report(machine, "")
        _report(wanted, main, outcome, restarted=restarted, as_json=as_json)
    if wanted.keep:
        # Also while it waits: agent and snapshotter start, and say so.
        pathlib.Path(wanted.keep).touch()
    return rest


def _in_turn(
    machine: host.Host, main: settings_view.Path, wanted: Wanted, turn: turns.Turn
) -> tuple[apply.Outcome, bool]:
    """Change the configuration and, where that is asked for, restart containerd.

    Waits for this node's turn, except where the command stays: then it raises NotYet.
    """
    if not wanted.restart or wanted.dry_run:
        return _changed(machine, main, wanted), False
    while True:
        try:
            return _with_restart(machine, main, wanted, turn)
        except turns.NotYet as error:
            if wanted.keep:
                raise
            output.say(f"note: {error}")
            time.sleep(error.delay or 1.0)


def _begun(
    machine: host.Host, wanted: Wanted, here: places.Places | None, *, has_waited: bool
) -> settings_view.Path | None:
    """Note what a later run needs to know; returns the folder that is to be cleared."""
    if wanted.dry_run:
        return None
    if not has_waited:
        upkeep.begin(machine)
    if not wanted.undo:
        uninstall.forget_root(machine)
    if not wanted.clear or here is None:
        return None
    return (
        settings_view.Path(wanted.root) if wanted.root else uninstall.noted_root(machine, here.root)
    )


def _stay(
    machine: host.Host,
    main: settings_view.Path,
    wanted: Wanted,
    turn: turns.Turn,
    rest: upkeep.Rest | None,
    *,
    as_json: bool,
) -> None:
    """Set the node up again whenever a file has changed; does not return."""
    while True:
        watched = upkeep.watched(machine, main)
        seen = upkeep.seen(watched)
        if rest is None:
            rest = _look(machine, main, wanted, turn, as_json=as_json)
            if rest is not None and not upkeep.waits(machine):
                rest = _settled(machine, wanted, turn) or rest
        if rest is not None:
            upkeep.wait(watched, seen, rest, every=wanted.every)


def _settled(machine: host.Host, wanted: Wanted, turn: turns.Turn) -> upkeep.Rest | None:
    """Leave the node's turn when it is back; where it is not, how long to wait."""
    seconds = wanted.slot.slot_seconds if wanted.slot else 0.0
    problem = turn.settle(min(seconds, upkeep.RETURN.seconds) if wanted.again else seconds)
    if not problem:
        return None
    error = NotBackError(problem)
    output.say(f"warning: {error}")
    upkeep.report_not_back(machine, str(error))
    return upkeep.RETURN


def _look(
    machine: host.Host,
    main: settings_view.Path,
    wanted: Wanted,
    turn: turns.Turn,
    *,
    as_json: bool,
) -> upkeep.Rest | None:
    """Set the node up again where that is needed and its turn; None where that was done."""
    set_ups = upkeep.Turns(machine)
    wanted = dataclasses.replace(wanted, again=True)
    try:
        planned = _changed(machine, main, dataclasses.replace(wanted, dry_run=True))
        if not planned.changed and not containerd_restart.Due(machine).already:
            upkeep.report(machine, "")
            output.say("note: nothing is missing")
            return upkeep.Rest()
        if set_ups.is_over:
            raise upkeep.EnoughError
        if set_ups.pause:
            output.say(f"note: something is missing; set up again in {set_ups.pause:.0f} s")
            return set_ups.rest
        turn.take()
        set_ups.take()
        outcome, restarted = _with_restart(machine, main, wanted, turn)
    except turns.NotYet as error:
        output.say(f"note: {error}")
        return upkeep.wait_for_turn(machine, error.delay or 0.0, is_first=False)
    except apply.UndoneError as error:
        output.say(f"note: {error}")
        return upkeep.Rest()
    except errors.AgentError as error:
        output.say(f"warning: {error}")
        upkeep.report(machine, str(error))
        return set_ups.rest if set_ups.is_over else upkeep.RETRY
    _report(wanted, main, outcome, restarted=restarted, as_json=as_json)
    return None


def _needed(
    machine: host.Host, main: settings_view.Path, wanted: Wanted
) -> list[settings_view.Path]:
    """The folders of the node that are looked into again, each perhaps on a disk of its own."""
    program = wanted.containerd_binary
    with contextlib.suppress(settings_view.ConfigError):
        program = program or _program(machine, main)
    # Without its note a slot is never freed; the snapshotter's folder has the one of image_refs.
    notes = [turns.NOTE.parent, _root(machine, main, wanted)]
    return [*host.SYSTEM, main.parent, settings_view.Path("/", program).parent, *notes]


def _report(
    wanted: Wanted,
    main: settings_view.Path,
    outcome: apply.Outcome,
    *,
    restarted: bool,
    as_json: bool,
) -> None:
    if not as_json:
        _show(wanted, main, outcome, restarted=restarted)
        return
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


def _check(wanted: Wanted) -> None:
    names = ("config", "address", "root", "store", "state", "keep", "native_folder")
    paths = [(name, getattr(wanted, name)) for name in names]
    for name, value in [*paths, *(("share", folder) for folder in wanted.share)]:
        if value and not value.startswith("/"):
            flag = name.replace("_", "-")
            raise output.UsageError(f"--{flag} {value}: give an absolute path")
    if wanted.native and wanted.default_snapshotter and not wanted.undo:
        raise output.UsageError("--native does not go with --default-snapshotter")
    if (wanted.leave or wanted.clear) and not wanted.undo:
        raise output.UsageError("--leave and --clear go with --undo")
    if wanted.keep and (wanted.undo or wanted.dry_run or not wanted.restart):
        raise output.UsageError("--keep goes with --restart, and not with --undo or --dry-run")
    if wanted.slot:
        try:
            slot_rules.check(wanted.slot.slots)
        except ValueError as error:
            raise output.UsageError(f"UIMGACC_SETUP_SLOTS {wanted.slot.slots}: {error}") from error


def _ready(machine: host.Host, wanted: Wanted) -> None:
    """What the pod of the node needs besides containerd: modules, and shared mounts."""
    if wanted.dry_run or wanted.undo:
        return
    kernel_modules.load(machine)
    folders = [settings_view.Path(folder) for folder in wanted.share]
    for folder in shared_mounts.share(folders, in_container=bool(machine.enter)):
        output.say(f"note: {folder} is on a shared mount now")


def _leave(machine: host.Host, here: places.Places) -> Mapping[str, str]:
    """Remove the snapshotter's images from containerd; returns the pods' names by their UID."""
    try:
        left = asyncio.run(_left(str(machine.place(here.socket))))
    except image_removal.InUseError as error:
        if here.is_default:
            raise DefaultError(error) from error
        raise
    for name in left.removed:
        output.say(f"note: removed the image {name}")
    return left.pods


async def _left(address: str) -> image_removal.Left:
    async with clients.Client(address) as client:
        platform = images.platform_of_machine(os.uname().machine)
        own = await image_removal.leave(
            containerd_images.of(client, platform, snapshotter=keys.SNAPSHOTTER)
        )
        try:
            linked = await client.snapshots_with(keys.NATIVE_SNAPSHOTTER, keys.NATIVE_LAYER)
        except clients.RefusedError:
            linked = {}
        if not linked:
            return own
        native = await image_removal.leave(
            containerd_images.of(client, platform, snapshotter=keys.NATIVE_SNAPSHOTTER),
            among=linked.keys(),
        )
        return image_removal.Left([*own.removed, *native.removed], own.pods)


def _changed(machine: host.Host, main: settings_view.Path, wanted: Wanted) -> apply.Outcome:
    """Change the configuration, and note for the snapshotter what that says of images."""
    is_trial = wanted.dry_run and not wanted.keep
    root = _root(machine, main, wanted)  # What is undone does not name it any more.
    try:
        outcome = _apply(machine, main, wanted)
    except errors.AgentError:
        # A person or another tool has changed it: nothing is known of it any more.
        if not is_trial:
            image_refs.forget(machine, root)
        raise
    if is_trial or (wanted.dry_run and outcome.changed):
        return outcome
    if outcome.names_images:
        image_refs.note(machine, _root(machine, main, wanted), make=not wanted.again)
    else:
        image_refs.forget(machine, root)
    return outcome


def _root(machine: host.Host, main: settings_view.Path, wanted: Wanted) -> settings_view.Path:
    """The snapshotter's folder."""
    if wanted.root:
        return settings_view.Path(wanted.root)
    try:
        return places.of(machine, main).root
    except settings_view.ConfigError:
        # Another tool's file is in no order; what is undone need not wait for that.
        return places.default_root(main) / f"{keys.SNAPSHOTTER_PLUGINS}.{keys.SNAPSHOTTER}"


def _apply(machine: host.Host, main: settings_view.Path, wanted: Wanted) -> apply.Outcome:
    if wanted.undo:
        return apply.undo(machine, main, dry_run=wanted.dry_run)
    if wanted.native and (lacking := erofs_tools.problem(machine)):
        raise settings_view.ConfigError(main, lacking)
    problem = user_namespaces.obstacle(machine.place(_root(machine, main, wanted)))
    asked = inputs.Wanted(
        address=wanted.address,
        root=wanted.root,
        default_snapshotter=wanted.default_snapshotter,
        former_handler=wanted.former_handler,
        maps_ids=not problem,
        native=wanted.native_folder if wanted.native else "",
        platform=str(images.platform_of_machine(os.uname().machine)),
    )
    target = _target(machine, main, wanted)
    outcome = apply.set_up(machine, target, asked, dry_run=wanted.dry_run, again=wanted.again)
    if not problem:
        return outcome
    note = f"for pods with hostUsers: false containerd copies images: {problem}"
    return dataclasses.replace(outcome, notes=[*outcome.notes, note])


def _with_restart(
    machine: host.Host, main: settings_view.Path, wanted: Wanted, turn: turns.Turn
) -> tuple[apply.Outcome, bool]:
    """Raises NotYet, and has changed nothing, where containerd would restart out of turn."""
    due = containerd_restart.Due(machine)
    if (
        wanted.slot
        and not due.already
        and not _changed(machine, main, dataclasses.replace(wanted, dry_run=True)).changed
    ):
        # Also where containerd reads it otherwise than it was written, which this raises.
        return _changed(machine, main, wanted), False
    turn.take()
    try:
        with due.noted():
            outcome = _changed(machine, main, wanted)
    except errors.AgentError:
        if not due.already:
            turn.drop()
        raise
    needed = outcome.changed or due.already
    if needed:
        own = shlex.split(wanted.restart_command)
        try:
            containerd_restart.restart(own or containerd_restart.command_for(machine, main))
        except containerd_restart.RestartError as error:
            turn.fail(str(error))
            raise
    else:
        turn.drop()
    due.clear()
    return outcome, needed


def _target(machine: host.Host, main: settings_view.Path, wanted: Wanted) -> config_reader.Target:
    binary = wanted.containerd_binary or _program(machine, main)
    try:
        release = containerd_binary.release_of(binary, enter=machine.enter)
    except containerd_binary.ContainerdError as error:
        raise output.UsageError(
            f"a configuration that containerd cannot check is not written ({error});"
            " give the node's containerd with --containerd-binary PROGRAM"
        ) from error
    if wanted.containerd_version:
        release = containerd_binary.parse_release(wanted.containerd_version)
    return config_reader.Target(main, release, binary)


def _program(machine: host.Host, main: settings_view.Path) -> str:
    """The program of the running containerd; where none runs, the one that the node would run."""
    socket = places.of(machine, main).socket
    return containerd_binary.running(str(machine.place(socket))) or places.find_binary(main)


def _show(
    wanted: Wanted, main: settings_view.Path, outcome: apply.Outcome, *, restarted: bool
) -> None:
    for warning in outcome.warnings:
        output.say(f"warning: {warning}")
    for note in outcome.notes:
        output.say(f"note: {note}")
    if wanted.dry_run:
        print(outcome.diff(), end="")
        return
    if not outcome.changed and not restarted:
        what = "has nothing from node-setup" if wanted.undo else "is set up already"
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
