"""Make the root file system of our container image from Debian packages and wheels.

Nothing is installed: packages are unpacked, so no package manager, no shell of an
administrator and no perl is in the result, and no script of a package runs. Both
`make image` and the Dockerfile build it with this program, so that both are the
same. It needs Debian's apt and pip, and of Python only the standard library.

    python -m lab.rootfs FOLDER    # FOLDER/system and FOLDER/ours, the image's two layers
"""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import tomllib

from lab import parts, places

SUITE = "trixie"
PYTHON = "3.13"
ABI = "cp313"
SITE = f"usr/local/lib/python{PYTHON}/dist-packages"
USER = 65532

# Alibaba's SDK makes the image 7 MB larger, and nobody can add it to one that is made.
EXTRAS = ("acr",)
# Of this there is no wheel on PyPI, only pure Python as source: its wheel is made here.
SOURCES = ("alibabacloud-tea",)

# With all that they depend on.
PACKAGES = (
    f"python{PYTHON}",
    "erofs-utils",
    # `test`, `sleep` and `chroot` for the manifests, a shell for a person.
    "coreutils",
    "dash",
    # What mount.nfs is linked with.
    "libblkid1",
    "libcap2",
    "libgssapi-krb5-2",
    "libmount1",
    "libtirpc3t64",
    # What gRPC's wheel is linked with.
    "libstdc++6",
)
# Of a later release, and alone: it needs only a C library. Version 2 of cosign takes some bundles
# for verified that are not (GHSA-whqx-f9j3-ch6m), and does not read what version 3 signs.
NEWER_SUITE = "testing"
NEWER = ("cosign",)
# Of these only some files: what they depend on (perl, rpcbind, debconf) is for other uses.
PIECES = {
    "base-files": ("bin", "lib", "lib64", "sbin", "etc", "tmp", "run", "var", "usr/lib/os-release"),
    "nfs-common": ("usr/sbin/mount.nfs", "usr/sbin/umount.nfs"),
    "util-linux": ("usr/bin/nsenter",),
    "ca-certificates": ("usr/share/ca-certificates/mozilla",),
}
SURPLUS = (
    *(f"usr/share/{name}" for name in ("doc", "man", "info", "locale", "lintian", "bug")),
    *(f"usr/share/{name}" for name in ("bash-completion", "zoneinfo", "applications", "pixmaps")),
    *(f"usr/share/{name}" for name in ("python3", "ca-certificates", "debconf", "menu")),
    *(
        f"usr/lib/python{PYTHON}/{name}"
        for name in ("ensurepip", "idlelib", "pydoc_data", "turtle.py")
    ),
    "usr/lib/systemd",
    "usr/lib/udev",
    "usr/lib/init",
    "etc/init.d",
    "etc/default",
    "etc/apt",
    "etc/skel",
    "etc/update-motd.d",
    "var/lib/dpkg",
    "var/cache",
    f"{SITE}/bin",
    f"{SITE}/tzdata",
)
# Where a runtime mounts what a container needs.
FOLDERS = ("dev", "proc", "sys", "root")
ACCOUNTS = {
    "etc/passwd": f"root:x:0:0:root:/root:/bin/sh\nuimgacc:x:{USER}:{USER}::/:/bin/false\n",
    "etc/group": f"root:x:0:\nuimgacc:x:{USER}:\n",
}
COMMAND = f"""#!/usr/bin/python{PYTHON} -P
import sys

from agent.cli.entry import main

sys.exit(main())
"""


def main() -> None:
    """Make both layers' files in the folder that the command line names."""
    folder = pathlib.Path(sys.argv[1]).resolve()
    system(folder / "system")
    ours(folder / "ours", folder / "system")


def system(root: pathlib.Path) -> None:
    """Make what changes with Debian and with the lock: the larger layer."""
    fresh(root)
    parts.prepare_apt(parts.mirror(), SUITE)
    debs = fresh(root.with_name("debs"))
    plan = parts.run(
        [*parts.apt(SUITE), "install", "--simulate", "--no-install-recommends", *PACKAGES],
        "the image's packages",
    )
    names = [*re.findall(r"^Inst (\S+)", plan, re.MULTILINE), *PIECES]
    parts.run([*parts.apt(SUITE), "download", *dict.fromkeys(names)], "the image's packages", debs)
    parts.prepare_apt(parts.mirror(), NEWER_SUITE)
    parts.run([*parts.apt(NEWER_SUITE), "download", *NEWER], "the image's newer packages", debs)
    for name, pieces in PIECES.items():
        (package,) = debs.glob(f"{name}_*.deb")
        unpack_pieces(package, root, pieces)
        package.unlink()
    for package in sorted(debs.glob("*.deb")):
        parts.run(["dpkg", "-x", str(package), str(root)], f"unpacking {package.name}")
    certificates = sorted((root / PIECES["ca-certificates"][0]).glob("*.crt"))
    bundle = root / "etc/ssl/certs/ca-certificates.crt"
    bundle.parent.mkdir(parents=True, exist_ok=True)
    bundle.write_bytes(b"".join(certificate.read_bytes() for certificate in certificates))
    # Where Debian's OpenSSL looks; in the package `openssl`, which has only programs else.
    (root / "usr/lib/ssl").mkdir(exist_ok=True)
    (root / "usr/lib/ssl/cert.pem").symlink_to("/etc/ssl/certs/ca-certificates.crt")
    for alias in ("mount.nfs4", "umount.nfs4"):
        (root / "usr/sbin" / alias).symlink_to(alias.removesuffix("4"))
    for name, text in ACCOUNTS.items():
        (root / name).write_text(text)
    install_locked(root)
    for surplus in (*(root / name for name in SURPLUS), *root.rglob("*.pyi")):
        remove(surplus)
    for name in FOLDERS:
        (root / name).mkdir()
    for path in (path for path in root.rglob("*") if not path.is_symlink()):
        # Nothing in the image makes somebody else of who runs it (mount.nfs would).
        path.chmod(path.stat().st_mode & 0o1777)
    compile_modules(root, f"usr/lib/python{PYTHON}", SITE)


def ours(root: pathlib.Path, below: pathlib.Path) -> None:
    """Make what changes with our own code: the small layer."""
    fresh(root)
    # A copy: setuptools leaves what it builds beside the sources.
    source = fresh(root.with_name("source"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(places.CHECKOUT / name, source)
    shutil.copytree(
        places.CHECKOUT / "agent", source / "agent", ignore=shutil.ignore_patterns("__pycache__")
    )
    pip("wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(source), str(source))
    (wheel,) = source.glob("uimgacc-*.whl")
    install(root, "--no-deps", str(wheel))
    remove(root / SITE / "bin")
    command = root / "usr/local/bin/uimgacc"
    command.parent.mkdir(parents=True)
    command.write_text(COMMAND)
    command.chmod(0o755)
    # Compiled where it will lie, by the Python that will run it.
    place = below / SITE / "agent"
    shutil.copytree(root / SITE / "agent", place)
    compile_modules(below, f"{SITE}/agent")
    shutil.rmtree(root / SITE / "agent")
    place.rename(root / SITE / "agent")


def install_locked(root: pathlib.Path) -> None:
    """Install what the lock names, as wheels, and nothing else."""
    locked = runtime(places.CHECKOUT)
    files = {}
    for kind in ("requirements", "sources"):
        files[kind] = root.with_name(f"{kind}.txt")
        chosen = [text for name, text in locked.items() if (name in SOURCES) == (kind == "sources")]
        files[kind].write_text("".join(chosen))
    install(root, "--no-deps", "--require-hashes", "-r", str(files["requirements"]))
    wheels = fresh(root.with_name("wheels"))
    options = ["--no-deps", "--no-build-isolation", "--require-hashes", "-w", str(wheels)]
    pip("wheel", "-q", *options, "-r", str(files["sources"]))
    install(root, "--no-deps", *map(str, sorted(wheels.glob("*-none-any.whl"))))


def runtime(checkout: pathlib.Path) -> dict[str, str]:
    """Return the part of the lock that the product needs: all but what only tests need."""
    project = tomllib.loads((checkout / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"]]
    for extra in EXTRAS:
        lines += project["optional-dependencies"][extra]
    wanted = {canonical(re.split(r"[<>=\[; ]", line)[0]) for line in lines}
    entries = re.split(
        r"^(?=[a-z0-9])", (checkout / "requirements.lock").read_text(), flags=re.MULTILINE
    )
    blocks = {canonical(entry.partition("==")[0]): entry for entry in entries if "==" in entry}
    needed_by = {
        name: {
            canonical(user)
            for user in re.findall(r"^    #(?: via)? +([\w.-]+)$", entry, re.MULTILINE)
        }
        for name, entry in blocks.items()
    }
    while more := {name for name, users in needed_by.items() if users & wanted} - wanted:
        wanted |= more
    if missing := wanted - set(blocks):
        raise parts.PartError(f"not in requirements.lock: {', '.join(sorted(missing))}")
    return {name: blocks[name] for name in sorted(wanted)}


def canonical(name: str) -> str:
    """Return a distribution's name as the lock spells it."""
    return re.sub(r"[-_.]+", "-", name.strip()).lower()


def install(root: pathlib.Path, *arguments: str) -> None:
    """Install wheels for the image's Python, which need not be the one that runs this."""
    machine = os.uname().machine
    platforms = [f"manylinux_2_{minor}_{machine}" for minor in range(5, 42)]
    platforms += [f"manylinux2014_{machine}", f"manylinux2010_{machine}"]
    # pip takes the first that fits: the newest, as it would on the image's own system.
    options = [f"--platform={name}" for name in reversed(platforms)]
    options += ["--only-binary=:all:", f"--python-version={PYTHON}", "--implementation=cp"]
    options += [f"--abi={ABI}", "--abi=abi3", "--abi=none", "--no-compile"]
    pip("install", "-q", "--target", str(root / SITE), *options, *arguments)


def pip(*arguments: str) -> None:
    """Run pip of the Python that runs this."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    parts.run(command, "the image's wheels")


def compile_modules(root: pathlib.Path, *places_: str) -> None:
    """Compile modules ahead: nothing is written in a container. Files say no time, only content."""
    command = ["chroot", str(root), f"/usr/bin/python{PYTHON}", "-m", "compileall", "-q"]
    command += ["--invalidation-mode=unchecked-hash", *(f"/{place}" for place in places_)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode != 0:
        raise parts.PartError(f"compiling the image's modules: {done.stdout}{done.stderr}")


def unpack_pieces(package: pathlib.Path, root: pathlib.Path, pieces: tuple[str, ...]) -> None:
    """Unpack some files or folders of a package."""
    tar = subprocess.Popen(["dpkg", "--fsys-tarfile", str(package)], stdout=subprocess.PIPE)
    names = [f"./{piece}" for piece in pieces]
    done = subprocess.run(["tar", "-x", "-C", str(root), *names], stdin=tar.stdout, check=False)
    if tar.wait() != 0 or done.returncode != 0:
        raise parts.PartError(f"{package.name} has not all of {', '.join(pieces)}")


def fresh(folder: pathlib.Path) -> pathlib.Path:
    """Return an empty folder of that name."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def remove(path: pathlib.Path) -> None:
    """Remove a file or a folder; one that is not there is fine."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


if __name__ == "__main__":
    try:
        main()
    except parts.PartError as error:
        raise SystemExit(f"lab: {error}") from None
