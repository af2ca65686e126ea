"""The large image: a Debian root and large libraries, as a data scientist's image has them.

Every file of it is real. The root is debootstrapped, the libraries are wheels
from PyPI, of fixed versions, unpacked as pip would unpack them. Docker-like, one
layer per installation step.
"""

import concurrent.futures
import dataclasses
import pathlib
import shutil
import stat
import sys
import tarfile
import zipfile
from collections.abc import Iterator

from lab import places, processes
from lab.parts import debian
from lab.runtime import containerds
from lab.samples import pushing, tars


@dataclasses.dataclass(frozen=True, slots=True)
class Release:
    """A release of Debian, and the Python that it has."""

    suite: str
    python: str

    @property
    def site(self) -> str:
        """Where pip puts packages."""
        return f"usr/local/lib/python{self.python}/dist-packages"


TRIXIE = Release("trixie", "3.13")

FOLDER = places.LAB / "large"
"""Where the layers lie until they are pushed."""

# One list per layer; the many small files of one are as hard as the large files of another.
WHEELS = (
    ("numpy==2.2.6", "scipy==1.15.3"),
    ("pandas==2.2.3", "scikit-learn==1.6.1", "matplotlib==3.10.3", "plotly==6.1.2"),
    ("pyarrow==20.0.0", "polars==1.30.0"),
    ("ansible==11.6.0", "botocore==1.38.30"),
    ("llvmlite==0.44.0", "opencv-python-headless==4.11.0.86"),
)
MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
GLIBC = range(5, 37)
"""The minor versions of glibc 2 that wheels may ask for; both releases have newer ones."""

HELLO = """\
#!/usr/bin/python3
# What a batch job does first: import its libraries, and say so.
import numpy
import pyarrow
import scipy.linalg

total = scipy.linalg.inv(numpy.eye(8) * 2).sum()
print(f"numpy {numpy.__version__} scipy {scipy.__version__} pyarrow {pyarrow.__version__}")
print(f"ready {total}", flush=True)
"""
READALL = """\
#!/bin/sh
# Read every byte of every file of the image, by the quickest ordinary programs.
set -e
find / -xdev -type f -print0 | xargs -0 -r cat >/dev/null
echo "read everything"
"""


def layers() -> list[pushing.Layer]:
    """Return all layers, from bottom to top; what needs the network runs side by side."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    wheels = sorted({wheel for group in WHEELS for wheel in group})
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        root = pool.submit(root_layer, FOLDER)
        files = dict(zip(wheels, pool.map(download, wheels), strict=True))
        groups = [
            wheel_layer(FOLDER / f"libraries-{at}.tar.gz", [files[name] for name in group])
            for at, group in enumerate(WHEELS)
        ]
        return [root.result(), *groups, pushing.layer(programs(HELLO))]


def programs(hello: str) -> list[tars.Entry]:
    """Return the topmost layer: the two commands of the image."""
    return [
        tars.file("usr/local/bin/hello", hello.encode(), mode=0o755),
        tars.file("usr/local/bin/readall", READALL.encode(), mode=0o755),
    ]


def root_layer(folder: pathlib.Path, release: Release = TRIXIE) -> pushing.Layer:
    """Return a Debian root with Python as a layer."""
    root = folder / "root"
    processes.unmount_below(root)
    shutil.rmtree(root, ignore_errors=True)
    options = ["--variant=minbase", "--include=python3", f"--keyring={debian.KEYRING}"]
    debian.run(
        ["debootstrap", *options, release.suite, str(root), debian.mirror()],
        f"a root of Debian {release.suite} by debootstrap",
    )
    for waste in ("var/cache/apt/archives", "var/lib/apt/lists", "var/log"):
        shutil.rmtree(root / waste, ignore_errors=True)
        (root / waste).mkdir()
    output = pushing.LayerFile(folder / "root.tar.gz")
    with tarfile.open(fileobj=output, mode="w|", format=tarfile.PAX_FORMAT) as tar:  # type: ignore[call-overload]
        for path in walk(root):
            tar.add(path, arcname=str(path.relative_to(root)), recursive=False, filter=plain)
    shutil.rmtree(root)
    return output.finish()


def walk(root: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yield everything below a folder, parents first, in a fixed order."""
    for path in sorted(root.iterdir()):
        yield path
        # Nothing of what is mounted, or was made at run time, belongs to an image.
        mounted = path.parent == root and path.name in {"proc", "sys", "run"}
        if path.is_dir() and not path.is_symlink() and not mounted:
            yield from walk(path)


def plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Take away what differs from one debootstrap to the next."""
    member.mtime = min(int(member.mtime), tars.EPOCH)
    member.uname = member.gname = ""
    return member


def download(wheel: str, release: Release = TRIXIE) -> pathlib.Path:
    """Return the file of a wheel for the image's Python, fetched once."""
    folder = places.LAB / "wheels" / wheel
    found = list(folder.glob("*.whl"))
    if not found:
        machine = MACHINES[containerds.architecture()]
        # The name with a year stands for itself and for what is older, and for no number.
        platforms = [f"manylinux2014_{machine}"]
        platforms += [f"manylinux_2_{minor}_{machine}" for minor in GLIBC]
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-cache-dir"]
        command += ["--disable-pip-version-check", "--only-binary=:all:", "--implementation=cp"]
        command += [
            f"--python-version={release.python}",
            *(f"--platform={name}" for name in platforms),
        ]
        debian.run([*command, f"--dest={folder}", wheel], f"the wheel {wheel} from PyPI")
        found = list(folder.glob("*.whl"))
    return found[0]


def wheel_layer(
    path: pathlib.Path, wheels: list[pathlib.Path], release: Release = TRIXIE
) -> pushing.Layer:
    """Return a layer with wheels unpacked into the image's site-packages."""
    output = pushing.LayerFile(path)
    known: set[str] = set()
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as content:
            for info in sorted(content.infolist(), key=lambda info: info.filename):
                if not info.is_dir():
                    name = f"{release.site}/{info.filename}"
                    write_parents(output, name, known)
                    mode = stat.S_IMODE(info.external_attr >> 16) or 0o644
                    entry = tars.file(name, content.read(info), mode=mode | 0o644)
                    output.write(tars.member(entry))
    output.write(bytes(2 * tars.BLOCK))
    return output.finish()


def write_parents(output: pushing.LayerFile, name: str, known: set[str]) -> None:
    """Write the folders above a name, each once."""
    for parent in reversed(pathlib.PurePosixPath(name).parents[:-1]):
        if str(parent) not in known:
            known.add(str(parent))
            output.write(tars.member(tars.folder(f"{parent}/")))
