"""What may be wrong with a machine, one finding each; used by the doctor.

Each check answers within its deadline, changes nothing, and names a fix for
whatever is not well.
"""

import dataclasses
import enum
import os
import pathlib
import shutil
import subprocess
import time

from agent import errors
from agent.clients.containerd import sockets
from agent.kits import units
from agent.kits.processes import workers
from agent.matching import runtimes
from agent.model import images, keys
from agent.model.erofs import mkfs_release, superblock
from agent.mounts.devices import device_mapper, kernel_support
from agent.setup.config import containerd_binary, inputs, places, settings_view
from agent.setup.node import apply, config_reader, host, image_refs
from agent.store import decoding, layout, trusted_keys
from agent.store.lookup import catalog

TRIES = "agent.setup.doctor.trial_mounts"

_MKFS_SECONDS = 10.0
_SLOW_STORE = 0.25
_IMAGE_VOLUMES = (2, 1)
_SUB_PATHS = (2, 2)


class Level(enum.Enum):
    """How bad a finding is."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check: what was observed, and what to do where that is not OK."""

    check: str
    level: Level
    what: str
    fix: str = ""


def ok(check: str, what: str) -> Finding:
    """It works."""
    return Finding(check, Level.OK, what)


def warn(check: str, what: str, fix: str) -> Finding:
    """It works, but not as well as it could, or not for all pods."""
    return Finding(check, Level.WARN, what, fix)


def bad(check: str, what: str, fix: str) -> Finding:
    """It does not work."""
    return Finding(check, Level.FAIL, what, fix)


def privileges() -> Finding:
    """Whether this process may mount; much cannot be looked at without that."""
    if os.geteuid() != 0:
        return warn("privileges", "not root: mounts were not tried", "run it with sudo")
    return ok("privileges", "root")


async def kernel(pool: workers.Pool, folder: pathlib.Path, *, deadline: float) -> list[Finding]:
    """Whether the kernel has EROFS and overlayfs, by mounting some."""
    release = os.uname().release
    if os.geteuid() != 0:
        return [_known("erofs", release), _known("overlay", release)]
    findings = []
    try:
        backing = await pool.call("try_erofs", str(folder), deadline=deadline)
    except (OSError, errors.AgentError) as error:
        fix = "load the module (modprobe erofs); Debian, Ubuntu, RHEL 9 and AL2023 have it"
        findings.append(bad("erofs", f"an EROFS image cannot be mounted in {folder}: {error}", fix))
    else:
        if problem := kernel_support.problem():
            fix = f"use kernel {superblock.KERNEL_MINIMUM} or newer; until then images are pulled"
            findings.append(bad("erofs", problem, fix))
        elif backing == "file":
            findings.append(ok("erofs", f"mounts from files (kernel {release})"))
        else:
            what = f"mounts through loop devices (kernel {release}; from files since 6.12)"
            findings.append(ok("erofs", what))
    try:
        answer = await pool.call("try_overlay", str(folder), deadline=deadline)
    except (OSError, errors.AgentError) as error:
        answer = str(error)
    if answer == "ok":
        findings.append(ok("overlay", f"works in {folder}"))
    else:
        fix = "load the module (modprobe overlay), or put the root on ext4 or xfs (ftype=1)"
        findings.append(bad("overlay", f"an overlay cannot be mounted in {folder}: {answer}", fix))
    return findings


def verity() -> Finding:
    """Whether the kernel can verify each block of a layer."""
    try:
        device_mapper.check()
    except OSError as error:
        fix = "load the module (modprobe dm_verity), or do without: UIMGACC_VERIFY=off"
        return bad("dm-verity", f"layers cannot be verified as they are read: {error}", fix)
    return ok("dm-verity", "layers can be verified as they are read")


def _known(kind: str, release: str) -> Finding:
    names = pathlib.Path("/proc/filesystems").read_text(encoding="ascii").split()
    if kind in names:
        return ok(kind, f"known to kernel {release}")
    module = pathlib.Path("/lib/modules", release)
    if any(module.rglob(f"{kind}.ko*")):
        return ok(kind, "can be loaded as a module")
    fix = f"load it (modprobe {kind}), or use a kernel that has it"
    return warn(kind, f"not among the file systems of kernel {release}", fix)


def propagation(root: pathlib.Path) -> Finding:
    """Whether mounts made below the root in a container would be seen by containerd."""
    table = pathlib.Path("/proc/self/mountinfo").read_text(errors="surrogateescape")
    target, shared = mount_of(root, table)
    if shared:
        return ok("propagation", f"mounts below {root} are shared")
    return warn(
        "propagation",
        f"{target} is a private mount: a snapshotter in a container cannot show its mounts to"
        " containerd (one that runs on the host can)",
        f"mkdir -p {root}; mount --bind {root} {root}; mount --make-rshared {root}",
    )


def mount_of(folder: pathlib.Path, table: str) -> tuple[str, bool]:
    """The mount that a folder is on, by /proc/self/mountinfo, and whether it is shared."""
    best, shared = "/", False
    for line in table.splitlines():
        fields = line.partition(" - ")[0].split(" ")
        target = fields[4]
        if folder.is_relative_to(target) and len(target) >= len(best):
            best, shared = target, any(field.startswith("shared:") for field in fields[6:])
    return best, shared


def space(name: str, folder: pathlib.Path) -> Finding:
    """Whether there is room where containers write."""
    try:
        usage = shutil.disk_usage(folder)
    except OSError as error:
        return bad(
            f"space {name}", f"{folder}: {error.strerror}", "make the folder, mount its disk"
        )
    free = usage.free / usage.total if usage.total else 0.0
    what = f"{units.size(usage.free)} ({free:.0%}) free in {folder}"
    if free < 0.05:
        return bad(f"space {name}", what, "free some; the kubelet evicts pods at 15 %")
    if free < 0.15:
        return warn(f"space {name}", what, "free some; the kubelet evicts pods at 15 %")
    return ok(f"space {name}", what)


def mkfs(command: str) -> Finding:
    """Whether caches can be built here: erofs-utils 1.8 or newer."""
    fix = mkfs_release.ADVICE
    only = "caches cannot be built here (nodes do not need to)"
    try:
        done = subprocess.run(
            [command, "-V"], capture_output=True, text=True, timeout=_MKFS_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        reason = error.strerror if isinstance(error, OSError) else "no answer"
        return warn("mkfs.erofs", f"{command}: {reason}; {only}", fix)
    release = mkfs_release.parse(done.stdout + done.stderr)
    if release is None:
        return warn("mkfs.erofs", f"{command} does not say its version; {only}", fix)
    if not release.builds_layers:
        return warn("mkfs.erofs", f"{command} is {release}, too old; {only}", fix)
    return ok("mkfs.erofs", str(release))


def snapshotter(address: str, *, deadline: float, native: str = "") -> Finding:
    """Whether the snapshotter of uimgacc answers on its socket.

    With `native`, the folder of links to layers, it need not.
    """
    if native:
        what = (
            f"containerd's own, with links to layers in {native}: pods with image volumes do not"
            " start on it, and are not moved here"
        )
        return ok("snapshotter", what)
    fix = "start it: uimgacc snapshotter --root DIR --address SOCK --store DIR"
    path = pathlib.Path(address)
    if not path.exists():
        return bad("snapshotter", f"{address} does not exist", fix)
    if not os.access(path, os.W_OK):
        return bad("snapshotter", f"{address} may not be opened", "run it as root")
    started = time.monotonic()
    try:
        sockets.snapshotter_answers(address, keys.SNAPSHOTTER, deadline=deadline)
    except sockets.SilentError:
        hangs = f"{address} accepts connections, and nothing is answered within {deadline:g} s"
        return bad(
            "snapshotter",
            hangs,
            "it is killed after a minute, and started again by what runs it; if not, kill -QUIT"
            " shows in its log where it hangs, and kill -9 harms no running container",
        )
    except sockets.SocketError as error:
        return bad("snapshotter", str(error), fix)
    took = (time.monotonic() - started) * 1000
    return ok("snapshotter", f"answers on {address} ({took:.0f} ms)")


def configuration(main: settings_view.Path, binary: str, wanted: inputs.Wanted) -> list[Finding]:
    """Whether containerd's configuration has what node set-up puts there."""
    fix = "run uimgacc node-setup --restart"
    name = "configuration"
    machine = host.Host()
    try:
        release = containerd_binary.release_of(binary)
    except errors.AgentError as error:
        return [warn(name, str(error), "name the program with --containerd-binary")]
    if machine.read(main) is None:
        return [bad(name, f"{main} does not exist: containerd runs on its defaults", fix)]
    # Only root can write the drafts of which containerd is asked.
    target = config_reader.Target(main, release, binary if os.geteuid() == 0 else None)
    try:
        outcome = apply.set_up(machine, target, wanted, dry_run=True)
        if outcome.changed and os.geteuid() != 0:
            # Whether the kernel shows layers to user namespaces only root can try out.
            other = dataclasses.replace(wanted, maps_ids=not wanted.maps_ids)
            tried = apply.set_up(machine, target, other, dry_run=True)
            outcome = outcome if tried.changed else tried
    except (errors.AgentError, OSError) as error:
        return [bad(name, str(error), "see the message; then run uimgacc node-setup")]
    findings = []
    if outcome.changed:
        files = ", ".join(str(path) for path in outcome.changes)
        findings.append(bad(name, f"not, or no longer, what node-setup makes ({files})", fix))
    else:
        what = f"containerd {release}, handlers {', '.join(sorted(outcome.twins))}"
        findings.append(ok(name, what))
    findings += [warn(name, warning, "see the message") for warning in outcome.warnings]
    if not wanted.native:
        findings.append(_image_names(machine, main, wanted, possible=outcome.names_images))
    return findings


def _image_names(
    machine: host.Host, main: settings_view.Path, wanted: inputs.Wanted, *, possible: bool
) -> Finding:
    """Whether the snapshotter may believe which image a layer is asked for."""
    root = settings_view.Path(wanted.root) if wanted.root else places.of(machine, main).root
    name = "image names"
    if not possible:
        what = "containerd does not say which image is pulled: pulls get public layers only"
        return warn(name, what, "k3s and RKE2 of March 2026 or newer can be set up to say it")
    try:
        is_noted = image_refs.is_noted(machine, root)
    except PermissionError:
        return warn(name, "not root: the snapshotter's folder was not read", "run it with sudo")
    if not is_noted:
        what = "the snapshotter serves pulls with public layers only"
        return warn(name, what, "run uimgacc node-setup again")
    return ok(name, "containerd says which image is pulled")


def platform() -> str:
    """This machine's, as containerd writes it."""
    return str(images.platform_of_machine(os.uname().machine))


def running(address: str, snapshotter: str, *, deadline: float) -> list[Finding]:
    """What the running containerd has: version, plugin of the snapshotter, runtime handlers."""
    path = pathlib.Path(address)
    if not path.exists():
        fix = "start containerd, or give its socket with --containerd"
        return [bad("containerd", f"{address} does not exist", fix)]
    if not os.access(path, os.W_OK):
        return [warn("containerd", f"{address} may not be opened", "run it as root")]
    try:
        version = sockets.version(address, deadline=deadline)
        findings = [ok("containerd", f"{version} on {address}{lacking(version)}")]
        findings.append(_plugin(address, snapshotter, deadline=deadline))
    except sockets.SocketError as error:
        return [bad("containerd", str(error), "look at its log: journalctl -u containerd")]
    try:
        findings.append(_handlers(address, snapshotter, deadline=deadline))
    except sockets.SocketError as error:
        fix = "enable the CRI plugin (disabled_plugins in containerd's configuration)"
        findings.append(bad("handlers", f"no answer of the CRI plugin: {error.reason}", fix))
    return findings


def lacking(version: str) -> str:
    """What pods cannot have of this containerd, with uimgacc or without."""
    try:
        release = containerd_binary.parse_release(version)
    except containerd_binary.ContainerdError:
        return ""
    if (release.major, release.minor) < _IMAGE_VOLUMES:
        return "; it mounts no image volumes, which 2.1 does"
    if (release.major, release.minor) < _SUB_PATHS:
        return "; it ignores subPath of image volumes, which 2.2 does not"
    return ""


def _plugin(address: str, name: str, *, deadline: float) -> Finding:
    plugin = sockets.snapshot_plugin(address, name, deadline=deadline)
    if plugin is None:
        fix = "run uimgacc node-setup --restart (containerd reads its configuration at start)"
        return bad("plugin", f"containerd has no snapshotter {name}", fix)
    if plugin.problem:
        return bad("plugin", f"{name}: {plugin.problem}", "look at containerd's log")
    return ok("plugin", f"containerd has the snapshotter {name}")


def _handlers(address: str, snapshotter: str, *, deadline: float) -> Finding:
    snapshotters = sockets.runtime_snapshotters(address, deadline=deadline)
    twins = sorted(name for name in snapshotters if snapshotters[name] == snapshotter)
    others = {name for name, used in snapshotters.items() if used != snapshotter}
    if runtimes.DEFAULT_TWIN not in twins:
        fix = "run uimgacc node-setup --restart"
        what = f"no runtime handler {runtimes.DEFAULT_TWIN} on the snapshotter {snapshotter}"
        return bad("handlers", what, fix)
    missing = sorted(
        name
        for name in others
        if not snapshotters[name] and runtimes.twin_of(name) not in snapshotters
    )
    if missing:
        fix = "run uimgacc node-setup --restart again: they were added after it"
        return warn("handlers", f"no twin for {', '.join(missing)}", fix)
    return ok("handlers", ", ".join(twins))


async def store(
    root: pathlib.Path,
    tries: workers.Pool,
    *,
    deadline: float,
    trusted: trusted_keys.Keys | None = None,
) -> list[Finding]:
    """Whether the store answers, how fast, and whether its layers can be mounted here."""
    damaged: list[str] = []
    async with workers.Pool("agent.store.lookup.file_reads", name="the doctor", size=1) as pool:
        shelf = catalog.Catalog(
            layout.Layout(root),
            pool,
            deadline=deadline,
            on_damage=lambda _kind, name, reason: damaged.append(f"{name}: {reason}"),
            keys=trusted,
        )
        try:
            await shelf.store()  # The worker starts here; its start is not the store's.
            started = time.monotonic()
            record = await shelf.store()
            took = time.monotonic() - started
            cached = await shelf.caches()
            path, size = None, 0
            for layer_id in (
                image for cache in cached for one in cache.images for image in one.layers
            ):
                layer = await shelf.layer(layer_id)
                if layer is not None:
                    path, size = shelf.layout.layer(layer_id), layer.size
                    break
        except (decoding.NotAStore, decoding.UnknownFormat) as error:
            return [bad("store", str(error), "mount the store, or make one: uimgacc store init")]
        except errors.TemporaryError as error:
            fix = "look after the file server and its mount (mount | grep nfs; dmesg)"
            return [bad("store", str(error), fix)]
    what = f"{root}: format {record.format}, {record.compression}, {len(cached)} caches"
    what += f", answers in {took * 1000:.1f} ms"
    if took > _SLOW_STORE:
        fix = "look at the network and the load of the file server"
        findings = [warn("store", f"slow: {what}", fix)]
    else:
        findings = [ok("store", what)]
    if damaged:
        more = f" and {len(damaged) - 1} more" if len(damaged) > 1 else ""
        findings.append(
            bad("records", damaged[0] + more, f"run uimgacc store check --store {root}")
        )
    if shelf.note:
        findings.append(bad("signatures", shelf.note, f"run uimgacc store sign --store {root}"))
    if path is not None and os.geteuid() == 0:
        findings.append(await _layer(path, size, tries, deadline=deadline))
    return findings


async def _layer(path: pathlib.Path, size: int, pool: workers.Pool, *, deadline: float) -> Finding:
    oldest = superblock.KERNEL_MINIMUM
    fix = f"needs kernel >= {oldest} with EROFS and lz4; see the kernel's log (dmesg)"
    try:
        backing = await pool.call("try_layer", str(path), size, deadline=deadline)
    except (OSError, errors.AgentError) as error:
        return bad("layer", f"a layer of the store cannot be mounted: {error}", fix)
    return ok("layer", f"a layer of the store can be mounted ({backing})")
