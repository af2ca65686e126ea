"""Builds into the store: the memory of all their processes together, and builds of what is there.

How long one takes is measured beside the pulls (`benchmarks.node.images`).
"""

import pathlib
import subprocess
import time

from agent.clients.registry import credentials
from benchmarks import processes, stages
from lab import services
from lab.samples import pushing, tars
from lab.web import registries

FILES = 300_000
PER_FOLDER = 30
MANY = "bench/many-files:1"
LAYERS = "lab/layers40:1"


def run(stage: stages.Stage, folder: pathlib.Path) -> dict[str, float]:
    """All figures of this module."""
    flat = _memory("large", stages.build_command(folder / "s1", stage.registry, stages.LARGE))
    made = folder / "many files"
    made.mkdir()
    with services.Registry(made / "registry", storage=made / "storage") as registry:
        _push_many_files(registry, made / "layer.tar.gz")
        flat |= _memory("many_files", stages.build_command(folder / "s2", registry, MANY))
    return flat | again(folder / "again")


def again(folder: pathlib.Path) -> dict[str, float]:
    """A build of an image whose layers are all in the store, from a registry with a password.

    The requests for its layers, each of which is asked for whether it may be used.
    """
    folder.mkdir()
    secret = folder / "config.json"
    layers = set(registries.catalogue()[LAYERS]["layers"])
    with services.Registry(folder / "registry", users={"alice": "secret"}) as registry:
        secret.write_bytes(
            credentials.docker_config([registry.address], username="alice", password="secret")
        )
        command = stages.build_command(folder / "store", registry, LAYERS)
        command += ["--secret", secret]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        mark, started = registry.mark(), time.monotonic()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        seconds = time.monotonic() - started
        asked = [each for each in registry.requests(mark) if each.reference in layers]
    heads = sum(each.method == "HEAD" for each in asked)
    return {
        "build_again_s": seconds,
        "build_again_heads_per_layer": heads / len(layers),
        "build_again_layer_blobs": float(len(asked) - heads),
    }


def _memory(name: str, command: list[str | pathlib.Path]) -> dict[str, float]:
    """The highest memory of a build's processes together, and what of it is mkfs.erofs'."""
    most = processes.peak_tree_pss_mib(command)
    print(f"           {name}: " + ", ".join(f"{who} {mib:.0f} MiB" for who, mib in most.items()))
    mkfs = sum(mib for who, mib in most.items() if who.startswith(("mkfs", "ld-linux")))
    return {
        f"build_{name}_tree_pss_mib": sum(most.values()),
        f"build_{name}_mkfs_pss_mib": mkfs,
    }


def _push_many_files(registry: services.Registry, path: pathlib.Path) -> None:
    """Push an image of one layer with FILES small files, as package managers make them."""
    output = pushing.LayerFile(path)
    for number in range(FILES):
        package, file = divmod(number, PER_FOLDER)
        entry = tars.file(f"opt/packages/p{package:05}/module-{file}.js", b"export {};\n")
        output.write(tars.member(entry))
    output.write(bytes(2 * tars.BLOCK))
    pusher = pushing.Pusher(registry.address)
    repository, _, tag = MANY.partition(":")
    pusher.image(repository, tag, [output.finish()])
    pusher.close()
