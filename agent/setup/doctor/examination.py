"""Looks a machine over: all checks in an order in which causes come before effects."""

import dataclasses
import pathlib
from collections.abc import AsyncIterator

from agent.kits.processes import workers
from agent.setup.config import inputs, places, settings_view
from agent.setup.doctor import (
    checks,
    layers_in_use,
    memory_check,
    mirrors_check,
    selinux_check,
    switch_check,
    user_namespace_check,
)
from agent.setup.node import host
from agent.store import trusted_keys


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Patient:
    """What to look at; empty strings mean: find it."""

    store: pathlib.Path | None = None
    config: str = ""
    containerd: str = ""
    containerd_binary: str = ""
    address: str = inputs.ADDRESS
    root: str = ""
    mkfs: str = "mkfs.erofs"
    verify: bool = False
    selinux_context: str = "auto"
    trusted_keys: pathlib.Path | None = None
    native: str = ""
    """The folder of links to layers where containerd's own snapshotter serves; "" elsewhere."""
    deadline: float = 5.0


async def examine(patient: Patient) -> AsyncIterator[checks.Finding]:
    """All findings, one after the other as they are made."""
    machine = host.Host()
    main = places.main_of(
        settings_view.Path(patient.config) if patient.config else places.find_config(machine)
    )
    deadline = patient.deadline
    root = pathlib.Path(patient.root or places.default_root(main))
    folder = next(place for place in (root, *root.parents) if place.is_dir())
    yield checks.privileges()
    async with workers.Pool(checks.TRIES, name="the doctor", size=1, max_stuck=3) as tries:
        for finding in await checks.kernel(tries, folder, deadline=deadline):
            yield finding
        if patient.verify:
            yield checks.verity()
        yield await memory_check.examine(tries, folder, deadline=deadline)
        yield await switch_check.examine(tries, folder, deadline=deadline)
        for finding in await selinux_check.examine(
            root, patient.selinux_context, deadline=deadline
        ):
            yield finding
        namespaces = await user_namespace_check.examine(tries, folder, deadline=deadline)
        yield namespaces
        yield checks.propagation(root)
        yield checks.space("here", folder)
        binary = patient.containerd_binary or places.find_binary(main)
        able = namespaces.level is checks.Level.OK
        wanted = inputs.Wanted(
            address=patient.address,
            root=patient.root,
            maps_ids=able,
            native=patient.native,
            platform=checks.platform(),
        )
        for finding in checks.configuration(main, binary, wanted):
            yield finding
        for finding in mirrors_check.examine(mirrors_check.roots(main)):
            yield finding
        yield checks.snapshotter(patient.address, deadline=deadline, native=patient.native)
        socket = patient.containerd.removeprefix("unix://")
        socket = socket or str(places.default_socket(main))
        for finding in checks.running(socket, wanted.snapshotter, deadline=deadline):
            yield finding
        if patient.store is None:
            fix = "give --store DIR or set UIMGACC_STORE"
            yield checks.warn("store", "not named, so not looked at", fix)
        else:
            trusted = trusted_keys.Keys(patient.trusted_keys)
            for finding in await checks.store(
                patient.store, tries, deadline=deadline, trusted=trusted
            ):
                yield finding
            for finding in await layers_in_use.examine(root, patient.store, deadline=deadline):
                yield finding
    yield checks.mkfs(patient.mkfs)
