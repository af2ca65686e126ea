"""An initramfs: busybox, the modules that the root is mounted with, and initramfs.sh."""

import lzma
import pathlib
import re
import stat
from collections.abc import Iterable, Iterator

_HERE = pathlib.Path(__file__).parent
_BUSYBOX = pathlib.Path("/bin/busybox")
_SOFT = ("crc32c_generic", "crc32c_cryptoapi")
"""What ext4 asks the kernel for without depending on it, in kernels that have it apart."""
NEEDED = ("virtio_pci", "virtio_blk", "ext4", "9pnet_virtio", "9p", "overlay")


def make(modules: pathlib.Path, target: pathlib.Path, names: Iterable[str] = NEEDED) -> None:
    """Write the archive; `modules` is the folder of a release (`/lib/modules/6.1`)."""
    files = {"init": _HERE.joinpath("initramfs.sh").read_bytes()}
    files["bin/busybox"] = _BUSYBOX.read_bytes()
    order = []
    for path in load_order(modules, names, _SOFT):
        name = path.name.partition(".ko")[0] + ".ko"
        order.append(name)
        content = path.read_bytes()
        files[f"modules/{name}"] = lzma.decompress(content) if path.suffix == ".xz" else content
    files["modules/order"] = "".join(f"{name}\n" for name in order).encode()
    target.write_bytes(b"".join(_archive(files)))


def load_order(
    modules: pathlib.Path, names: Iterable[str], wished: Iterable[str] = ()
) -> list[pathlib.Path]:
    """The files of some modules and of all that they need, in the order of loading.

    Those that are part of the kernel are left out, and those of `wished` that there are not.
    Source: modules.dep, by depmod(8).
    """
    needs: dict[str, list[str]] = {}
    files: dict[str, str] = {}
    for line in (modules / "modules.dep").read_text().splitlines():
        file, _, rest = line.partition(":")
        needs[file] = rest.split()
        files[_name(file)] = file
    built_in = {_name(line) for line in (modules / "modules.builtin").read_text().splitlines()}
    order: dict[str, None] = {}
    for name in [*(name for name in wished if name in files), *names]:
        if name in files:
            # What is needed first stands last in a line of the file.
            order |= dict.fromkeys([*reversed(needs[files[name]]), files[name]])
        elif name not in built_in:
            raise FileNotFoundError(f"the kernel in {modules} has no module {name}")
    return [modules / file for file in order]


def _name(file: str) -> str:
    return re.sub(r"\.ko(\.\w+)?$", "", pathlib.PurePath(file).name).replace("-", "_")


def _archive(files: dict[str, bytes]) -> Iterator[bytes]:
    """A cpio archive of the form "newc". Source: the kernel's initramfs buffer format."""
    folders = sorted({str(parent) for name in files for parent in pathlib.PurePath(name).parents})
    entries = [(folder, stat.S_IFDIR | 0o755, b"") for folder in folders if folder != "."]
    entries += [(name, stat.S_IFREG | 0o755, content) for name, content in files.items()]
    # Its first process is given this one as its standard output.
    entries.append(("dev", stat.S_IFDIR | 0o755, b""))
    for number, (name, mode, content) in enumerate([*entries, ("TRAILER!!!", 0, b"")], 1):
        fields = (number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0)
        head = b"070701" + "".join(f"{field:08X}" for field in fields).encode()
        for part in (head + name.encode() + b"\0", content):
            yield part + bytes(-len(part) % 4)
